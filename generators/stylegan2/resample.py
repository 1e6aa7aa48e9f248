"""Resample feature maps with a small low-pass filter, as StyleGAN2 does (arXiv:1912.04958)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def filter_of(taps: tuple[float, ...]) -> Tensor:
    """Return the separable filter of `taps` per axis as float32 [t, t] with sum 1."""
    row = torch.tensor(taps, dtype=torch.float64)
    kernel = torch.outer(row, row)
    return (kernel / kernel.sum()).float()


def smooth(x: Tensor, taps: Tensor, *, before: int, after: int, gain: float = 1.0) -> Tensor:
    """Convolve each channel of `x` [N, C, H, W] with `taps` after zero padding of both axes.

    `taps` is [t, t], or [t] for a filter that is applied per axis. A true convolution: the taps
    are flipped, which matters when they are asymmetric. A negative padding crops.
    """
    pad = before
    if before != after or before < 0:
        x, pad = F.pad(x, (before, after, before, after)), 0
    channels = x.shape[1]
    kernel = taps.flip(tuple(range(taps.ndim)))
    if taps.ndim == 2:
        weight = (kernel * gain).expand(channels, 1, *kernel.shape)
        return F.conv2d(x, weight, padding=pad, groups=channels)
    line = (kernel * math.sqrt(gain)).expand(channels, 1, 1, -1)
    x = F.conv2d(x, line, padding=(0, pad), groups=channels)
    return F.conv2d(x, line.transpose(2, 3), padding=(pad, 0), groups=channels)


def upsample(x: Tensor, taps: Tensor) -> Tensor:
    """Double the height and width of `x` [N, C, H, W]: insert zeros, then smooth."""
    count, channels, height, width = x.shape
    spread = F.pad(x.reshape(count, channels, height, 1, width, 1), (0, 1, 0, 0, 0, 1))
    spread = spread.reshape(count, channels, 2 * height, 2 * width)
    half, odd = divmod(len(taps), 2)
    return smooth(spread, taps, before=half + odd, after=half - 1, gain=4)


def smooth_doubled(x: Tensor, taps: Tensor) -> Tensor:
    """Smooth the (2H + 1)-wide result of a stride-2 transposed 3x3 convolution down to 2H."""
    half, odd = divmod(len(taps), 2)
    return smooth(x, taps, before=half + odd - 1, after=half - 1, gain=4)
