"""Crop boxes: where a part of a view lies in its source image, and how far two boxes overlap."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def compose_boxes(
    parent: NDArray[Any],
    mirrored: NDArray[np.bool_],
    size: tuple[int, int],
    local: NDArray[Any],
) -> NDArray[np.float32]:
    """Return boxes (top, left, height, width) in source pixels, float32 [B, 4].

    Args:
        parent: Box of the rendering that was cropped, in source pixels, [B, 4].
        mirrored: Whether that rendering shows its box from right to left, [B].
        size: Height and width of that rendering.
        local: Box in its pixels, [B, 4].
    """
    top, left, height, width = np.asarray(local, np.float64).T
    left = np.where(mirrored, size[1] - left - width, left)
    parent_top, parent_left, parent_height, parent_width = np.asarray(parent, np.float64).T
    y_scale, x_scale = parent_height / size[0], parent_width / size[1]
    box = (
        parent_top + top * y_scale,
        parent_left + left * x_scale,
        height * y_scale,
        width * x_scale,
    )
    return np.stack(box, axis=1).astype(np.float32)


def overlap(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """Return the intersection over union of boxes (top, left, height, width), float64 [...].

    `first` and `second` are [..., 4], with sides above 0; disjoint boxes have 0, equal ones 1.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
    common = np.maximum(high - low, 0).prod(-1)
    union = first[..., 2:].prod(-1) + second[..., 2:].prod(-1) - common
    return np.asarray(common / union)
