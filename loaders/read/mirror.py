"""Mirrors some views of a batch in place."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from viewstore.loaders.pipeline.buffers import Buffer

# From here on a call for each view costs less than copying them together and back.
LARGE_VIEW_BYTES = 16 << 10


def mirror_some(buffer: Buffer, flip: NDArray[np.bool_]) -> None:
    """Mirror the views of `buffer`, uint8 [B, H, W, C], where `flip` [B] is True, in place."""
    flipped = np.flatnonzero(flip)
    _, height, width, channels = buffer.shape
    if height * width * channels >= LARGE_VIEW_BYTES:
        for index in flipped.tolist():
            cv2.flip(buffer[index], 1, dst=buffer[index])
    elif len(flipped):
        lines = buffer[flipped].reshape(-1, width, channels)
        cv2.flip(lines, 1, dst=lines)
        buffer[flipped] = lines.reshape(-1, height, width, channels)
