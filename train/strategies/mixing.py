"""The geometry of CutMix: what share of a view is kept, where another is pasted, and with whom.

Source: CutMix (arXiv:1905.04899); shares and partners as in HEXA, section 3.2.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewstore.randomness import MADE, Op, Stream
from viewstore.train.views import At

LamScope = Literal["sample", "batch"]
Numbers = NDArray[np.int64]
Values = NDArray[np.float64]
BETA = (5, 3)


def drawn_shares(rows: Numbers, at: At) -> Values:
    """Return the share that each view is to keep, of Beta(5, 3), keyed by seed, epoch and row.

    Of a + b - 1 uniform numbers, the a-th smallest is distributed as Beta(a, b).
    """
    kept, count = BETA[0], sum(BETA) - 1
    uniform = Stream(at.seed, at.epoch).uniform(Op.CUTMIX, rows, MADE, blocks=-(-count // 4))
    return np.sort(uniform[..., :count])[..., kept - 1]


def drawn_centres(rows: Numbers, at: At, side: int) -> Values:
    """Return centres (y, x) of boxes in [0, 1), [B, 2], keyed by seed, epoch, row and size."""
    return Stream(at.seed, at.epoch).uniform(Op.CUTMIX, rows, MADE + side)[..., :2]


def drawn_partners(count: int, at: At) -> Numbers:
    """Return a permutation of `count` samples, keyed by seed, epoch and step."""
    stream = Stream(at.seed, at.epoch)
    words = stream.words(Op.CUTMIX_PARTNER, at.step, 0, blocks=-(-count // 4))[:count]
    return np.argsort(words, kind="stable")


def boxes_of(shares: Values, centres: Values, side: int) -> Numbers:
    """Return boxes (x0, y0, x1, y1) in views of `side` pixels, half open, [B, 4].

    They cover about the share that is not kept, less where the view's edge cuts them; all 0 where
    they are empty.

    Args:
        shares: Shares to keep, [B].
        centres: Centres (y, x) in [0, 1), [B, 2].
        side: Height and width of the views.
    """
    half = (side * np.sqrt(1 - shares)).astype(np.int64)[:, None] // 2
    centre = np.floor(centres[:, ::-1] * side).astype(np.int64)  # x, y
    low, high = (np.clip(centre + sign * half, 0, side) for sign in (-1, 1))
    return np.asarray(np.concatenate([low, high], 1) * (high > low).all(1, keepdims=True))


def kept_shares(boxes: Numbers, side: int) -> Values:
    """Return the exact share of each view's area outside of its box, [B]."""
    return 1 - (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / side**2


def pasted(pixels: Tensor, other: Tensor, boxes: Tensor) -> Tensor:
    """Return levels [B, C, H, W] with those of `other` in the boxes [B, 4]."""
    x, y = (torch.arange(pixels.shape[axis], device=pixels.device) for axis in (3, 2))
    x0, y0, x1, y1 = boxes.T[..., None]
    columns, rows = (x >= x0) & (x < x1), (y >= y0) & (y < y1)
    return torch.where((rows[:, :, None] & columns[:, None])[:, None], other, pixels)
