"""The npy of a raw shard of ours, whose views are images of a source like any other."""

from __future__ import annotations

import re

from viewstore.errors import FormatError
from viewstore.format.tar import NPY_BYTES, pack_npy_header
from viewstore.images.header import LIMITS

_SHAPE = re.compile(rb"'shape': \((\d{1,4}), (\d{1,6}), (\d{1,6}), 3\)")


def raw_views(header: bytes) -> tuple[int, int, int]:
    """Return how many views a `views.npy` holds, and their height and width.

    Args:
        header: Its first NPY_BYTES bytes.

    Raises:
        FormatError: It is not one that we write: uint8 [V, H, W, 3], C order.
    """
    shape = _SHAPE.search(header[:NPY_BYTES])
    if shape is None:
        raise FormatError("views.npy must hold uint8 [V, H, W, 3]")
    views, height, width = (int(number) for number in shape.groups())
    if pack_npy_header(repr("|u1"), (views, height, width, 3)) != header or not views:
        raise FormatError("views.npy must hold uint8 [V, H, W, 3], C order")
    LIMITS.check(height, width, encoded_bytes=height * width * 3)
    return views, height, width
