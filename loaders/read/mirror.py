"""Raw views in memory: one contiguous array, from which batches are gathered row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from viewstore.loaders.pipeline.buffers import Buffer

if TYPE_CHECKING:
    pass


def mirror_some(buffer: Buffer, flip: NDArray[np.bool_]) -> None:
    """Flip the views of `buffer`, uint8 [B, H, W, C], that `flip` [B] names, in place."""
    flipped = np.flatnonzero(flip)
    _, height, width, channels = buffer.shape
    if height * width * channels >= LARGE_VIEW_BYTES:
        for place in flipped.tolist():
            cv2.flip(buffer[place], 1, dst=buffer[place])
    elif len(flipped):
        tall = buffer[flipped].reshape(-1, width, channels)
        cv2.flip(tall, 1, dst=tall)
        buffer[flipped] = tall.reshape(-1, height, width, channels)


# From here on a call for each view costs less than copying them to one place and back.
LARGE_VIEW_BYTES = 16 << 10
