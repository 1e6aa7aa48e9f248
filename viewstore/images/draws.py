"""What augmentation policies are made of: draws of params, and the cutting of drawn boxes.

Draws are vectorised over samples and views and return params in the dtypes that a store keeps,
so that a view rebuilt from its stored params is the same view bit for bit. Rendering is pure.
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
) -> NDArray[np.float32]:
    """Return crop boxes (top, left, height, width) in source pixels, float32 [..., 4].

    Ten attempts at an area in `scale` and a log-uniform aspect ratio (width / height) in
    `ratio`; where none fits, the largest centred box with the ratio clamped.
    """
    given = (np.asarray(each, np.int64) for each in (index, view, height, width))
    rows, views, heights, widths = np.broadcast_arrays(*given)
    shape = rows.shape
    rows, views, heights, widths = (a.reshape(-1) for a in (rows, views, heights, widths))
    boxes = _centred_boxes(heights, widths, ratio)
    left_over = np.arange(len(rows))
    for attempt in range(CROP_ATTEMPTS):
        u = stream.uniform(Op.CROP, rows[left_over], views[left_over], first_block=attempt)
        drawn, fits = _attempt(u, heights[left_over], widths[left_over], scale, ratio)
        boxes[left_over[fits]] = drawn[fits]
        left_over = left_over[~fits]
        if not len(left_over):
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
    wide = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    tall = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (wide >= 1) & (wide <= width) & (tall >= 1) & (tall <= height)
    top = integers(u[:, 2], height - tall + 1)
    left = integers(u[:, 3], width - wide + 1)
    return np.stack([top, left, tall, wide], axis=1), fits


def _centred_boxes(height: NDArray[Any], width: NDArray[Any], ratio: Range) -> NDArray[np.int64]:
    narrow = width / height < ratio[0]
    broad = width / height > ratio[1]
    tall = np.where(narrow, np.rint(width / ratio[0]), height).astype(np.int64)
    wide = np.where(broad, np.rint(height * ratio[1]), width).astype(np.int64)
    return np.stack([(height - tall) // 2, (width - wide) // 2, tall, wide], axis=1)


def draw_switch(
    stream: Stream, op: Op, index: Integers, view: Integers, probability: float
) -> NDArray[np.bool_]:
    """Return where word 0 of `op` says yes, bool [...]; 0 and 1 need no draw."""
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
    order = _ORDERS[integers(stream.uniform(Op.JITTER_ORDER, index, view)[..., 0], len(_ORDERS))]
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
