"""Draws of the params of views: crop boxes, switches, colour jitter and blur.

Draws are vectorised over samples and views and return params in the dtypes that a store keeps,
so that a view rebuilt from its stored params is the same view bit for bit.
Source: arXiv:2002.05709, appendix A; boxes as in torchvision's RandomResizedCrop.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.images.colours import NOT_APPLIED
from viewstore.randomness import Integers, Op, Stream, integers

Range = tuple[float, float]
CROP_ATTEMPTS = 10
_ORDERS = np.array(list(itertools.permutations(range(4))), np.uint8)
_ORDERS.setflags(write=False)
_NO_JITTER = np.array([1, 1, 1, 0], np.float32)


def draw_crop(
    stream: Stream,
    index: Integers,
    view: Integers,
    height: Integers,
    width: Integers,
    *,
    scale: Range,
    ratio: Range,
    op: Op = Op.CROP,
    first_block: int = 0,
) -> NDArray[np.float32]:
    """Return crop boxes (top, left, height, width) in source pixels, float32 [..., 4].

    `index`, `view`, and the image sizes `height` and `width` broadcast against each other.
    Attempt a has the words of block `first_block` + a of `op`.

    Ten attempts at an area in `scale` and a log-uniform aspect ratio (width / height) in
    `ratio`; where none fits, the largest centred box with the ratio clamped.
    """
    given = (np.asarray(each, np.int64) for each in (index, view, height, width))
    rows, views, heights, widths = np.broadcast_arrays(*given)
    shape = rows.shape
    rows, views, heights, widths = (a.reshape(-1) for a in (rows, views, heights, widths))
    boxes = _centred_boxes(heights, widths, ratio)
    open_rows = np.arange(len(rows))
    for attempt in range(CROP_ATTEMPTS):
        block = first_block + attempt
        u = stream.uniform(op, rows[open_rows], views[open_rows], first_block=block)
        drawn, fits = _attempt(u, heights[open_rows], widths[open_rows], scale, ratio)
        boxes[open_rows[fits]] = drawn[fits]
        open_rows = open_rows[~fits]
        if not len(open_rows):
            break
    return boxes.reshape(*shape, 4).astype(np.float32)


def _attempt(
    u: NDArray[np.float64],
    height: NDArray[Any],
    width: NDArray[Any],
    scale: Range,
    ratio: Range,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    area = height * width * (scale[0] + u[:, 0] * (scale[1] - scale[0]))
    low, high = np.log(ratio)
    aspect = np.exp(low + u[:, 1] * (high - low))
    crop_width = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    crop_height = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (crop_width >= 1) & (crop_width <= width) & (crop_height >= 1) & (crop_height <= height)
    top = integers(u[:, 2], height - crop_height + 1)
    left = integers(u[:, 3], width - crop_width + 1)
    return np.stack([top, left, crop_height, crop_width], axis=1), fits


def _centred_boxes(height: NDArray[Any], width: NDArray[Any], ratio: Range) -> NDArray[np.int64]:
    too_narrow = width / height < ratio[0]
    too_wide = width / height > ratio[1]
    crop_height = np.where(too_narrow, np.rint(width / ratio[0]), height).astype(np.int64)
    crop_width = np.where(too_wide, np.rint(height * ratio[1]), width).astype(np.int64)
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return np.stack([top, left, crop_height, crop_width], axis=1)


def draw_switch(
    stream: Stream, op: Op, index: Integers, view: Integers, probability: float
) -> NDArray[np.bool_]:
    """Return True with `probability`, bool [...], by word 0 of `op`; 0 and 1 need no draw.

    `index` (rows of the store) and `view` (numbers of views) broadcast against each other.
    """
    if probability in (0, 1):
        return np.full(np.broadcast_shapes(np.shape(index), np.shape(view)), bool(probability))
    words = stream.words(op, index, view)[..., 0]
    return np.asarray(words < probability * 2.0**32)


def draw_jitter(
    stream: Stream,
    index: Integers,
    view: Integers,
    *,
    strength: tuple[float, float, float, float],
    probability: float,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return colour factors, float32 [..., 4], and the order of the four ops, uint8 [..., 4].

    Brightness, contrast and saturation lie in [1 - x, 1 + x], the hue shift in [-x, x] turns.
    Where the jitter is off they are 1, 1, 1, 0 and the order is 255.
    """
    u = stream.uniform(Op.JITTER, index, view, blocks=2)
    factors = _NO_JITTER + (2 * u[..., 4:] - 1) * strength
    factors[..., :3] = np.maximum(factors[..., :3], 0)
    number = integers(stream.uniform(Op.JITTER_ORDER, index, view)[..., 0], len(_ORDERS))
    order = _ORDERS[number].copy()  # of one number it is a part of the table itself
    off = u[..., 0] >= probability
    factors[off] = _NO_JITTER
    order[off] = NOT_APPLIED
    return factors.astype(np.float32), order


def draw_blur(
    stream: Stream, index: Integers, view: Integers, *, sigma: Range, probability: float
) -> NDArray[np.float32]:
    """Return the sigma of a Gaussian blur in output pixels, float32 [...]; 0 is off."""
    if probability == 0:
        return np.zeros(np.broadcast_shapes(np.shape(index), np.shape(view)), np.float32)
    u = stream.uniform(Op.BLUR, index, view)
    drawn = sigma[0] + u[..., 1] * (sigma[1] - sigma[0])
    return np.where(u[..., 0] < probability, drawn, 0).astype(np.float32)
