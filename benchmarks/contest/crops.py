"""Crops as the limit and the peers cut them: what is drawn, and how it is resized."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from contest.loop import Job

Resize = Callable[..., NDArray[Any]]


def resizer(job: Job) -> Resize:
    """Return what resizes parts of images: OpenCV by area, or torch with its antialiasing."""
    return antialiased if job.settings.get("filter") == "antialias" else resized


def antialiased(part: NDArray[Any], side: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Return a part of an image resized by torch, bilinear with antialiasing."""
    import torch  # no part of the cold start of peers that do without it

    out = np.empty((side, side, 3), np.uint8) if out is None else out
    given = torch.from_numpy(part.copy()[None]).permute(0, 3, 1, 2)
    made = torch.from_numpy(out[None]).permute(0, 3, 1, 2)
    resize = torch.ops.aten._upsample_bilinear2d_aa.out
    resize(given, (side, side), False, None, None, out=made)
    return out


def resized(part: NDArray[Any], side: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Return a part of an image resized by OpenCV: by area where it shrinks, else linear."""
    shrinks = min(part.shape[:2]) >= side
    filter = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(part, (side, side), dst=out, interpolation=filter)


def crop_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a random resized crop."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        shape = np.exp(rng.uniform(*np.log(ratio)))
        w, h = round((area * shape) ** 0.5), round((area / shape) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side
