"""All images of a source as one array, for networks that train on the images themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.images.resize import resize
from viewstore.sources.open import open_source
from viewstore.sources.reader import SourceReader
from viewstore.sources.table import Source


def read_images(
    spec: str,
    *,
    size: int | None = None,
    channels: int | None = None,
    limit: int | None = None,
    opened: Callable[[Source], None] = lambda source: None,
) -> NDArray[np.uint8]:
    """Return the images of a source as uint8 [N, C, S, S], in row order.

    Args:
        spec: The source, as `open_source` takes it.
        size: Side S; None means that of the images, which must then be square and equal.
        channels: 1 or 3; None means 1 if all images are gray. A colour image as 1 is refused.
        limit: The first rows only.
        opened: Is given the source before an image is read, to say what is left out.

    Raises:
        ConfigError: The images do not fit what is asked.
    """
    source = open_source(spec, limit=limit)
    opened(source)
    table = source.table
    side = _side(spec, table.height, table.width) if size is None else size
    reader = SourceReader(table)
    images = np.empty((len(table.keys), side, side, 3), np.uint8)
    for row in range(len(images)):
        images[row] = resize(reader.image(row), side, side)
    gray = all(bool((image == image[..., :1]).all()) for image in images)
    if channels == 1 and not gray:
        raise ConfigError(f"{spec} holds colour images, but 1 channel is asked for", where=spec)
    count = (1 if gray else 3) if channels is None else channels
    return np.ascontiguousarray(images[..., :count].transpose(0, 3, 1, 2))


def signed(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return levels 0..255 as float32 in [-1, 1]."""
    return (images / np.float32(127.5) - 1).astype(np.float32)


def _side(spec: str, height: NDArray[np.uint32], width: NDArray[np.uint32]) -> int:
    sides = {int(side) for side in np.unique(np.concatenate([height, width]))}
    if len(sides) != 1:
        raise ConfigError(
            f"images of {spec} have sides from {min(sides)} to {max(sides)} pixels",
            where=spec,
            why="a network reads square images of one size",
            fix="give --size",
        )
    return sides.pop()
