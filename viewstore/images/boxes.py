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


def transformed_boxes(
    theta: NDArray[Any], height: NDArray[Any] | int, width: NDArray[Any] | int
) -> NDArray[np.float32]:
    """Return the boxes that affine transforms without rotation cut, float32 [..., 4].

    Args:
        theta: [[sx, 0, tx], [0, sy, ty]], [..., 2, 3]: a view's corner (x, y) in {-1, 1}^2 shows
            (sx x + tx, sy y + ty), where -1 and 1 are the edges of the image.
        height: Of the images, in pixels; broadcast against theta's leading sides.
        width: Likewise.
    """
    theta = np.asarray(theta, np.float64)
    sides = np.stack(np.broadcast_arrays(height, width), axis=-1)
    size = np.abs(np.stack([theta[..., 1, 1], theta[..., 0, 0]], axis=-1))
    corner = (1 + np.stack([theta[..., 1, 2], theta[..., 0, 2]], axis=-1) - size) / 2
    return np.concatenate([corner * sides, size * sides], axis=-1).astype(np.float32)


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
