"""The draws of CutMix in a step: shares, centres and partners, and the pasting of boxes.

Source: HEXA, section 3.2; the geometry is that of `images.cutmix`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from viewstore.images.cutmix import UNIFORMS, Numbers, Values, shares_of
from viewstore.randomness import MADE, Op, Stream
from viewstore.train.views import At

LamScope = Literal["sample", "batch"]


def drawn_shares(rows: Numbers, at: At) -> Values:
    """Return the share that each view is to keep, of Beta(5, 3), keyed by seed, epoch and row."""
    uniform = Stream(at.seed, at.epoch).uniform(Op.CUTMIX, rows, MADE, blocks=-(-UNIFORMS // 4))
    return shares_of(uniform[..., :UNIFORMS])


def drawn_centres(rows: Numbers, at: At, side: int) -> Values:
    """Return centres (y, x) of boxes in [0, 1), [B, 2], keyed by seed, epoch, row and size."""
    return Stream(at.seed, at.epoch).uniform(Op.CUTMIX, rows, MADE + side)[..., :2]


def drawn_partners(count: int, at: At) -> Numbers:
    """Return a permutation of `count` samples, keyed by seed, epoch and step."""
    stream = Stream(at.seed, at.epoch)
    words = stream.words(Op.CUTMIX_PARTNER, at.step, 0, blocks=-(-count // 4))[:count]
    return np.argsort(words, kind="stable")


def pasted(pixels: Tensor, other: Tensor, boxes: Tensor) -> Tensor:
    """Return levels [B, C, H, W] with those of `other` in the boxes [B, 4]."""
    x, y = (torch.arange(pixels.shape[axis], device=pixels.device) for axis in (3, 2))
    x0, y0, x1, y1 = boxes.T[..., None]
    columns, rows = (x >= x0) & (x < x1), (y >= y0) & (y < y1)
    return torch.where((rows[:, :, None] & columns[:, None])[:, None], other, pixels)
