"""Plain convolutional backbones for small images: conv3, and conv6 in three widths."""

from __future__ import annotations

from itertools import pairwise

from viewstore.train.nets.backbone import Mean, Stages, conv_block

CONV3 = (32, 64, 128)
CONV6 = (32, 64, 64, 128, 128, 256)


def conv6(in_channels: int, *, divisor: int = 1) -> Stages:
    """Return six convolutions, 32-64-64-128-128-256 over `divisor`, half the size as it grows."""
    return _plain(in_channels, [width // divisor for width in CONV6], [1, 2, 1, 2, 1, 2])


def conv3(in_channels: int) -> Stages:
    """Return three convolutions of stride 2, 32-64-128: for 16-pixel digits."""
    return _plain(in_channels, list(CONV3), [2, 2, 2])


def _plain(in_channels: int, widths: list[int], strides: list[int]) -> Stages:
    pairs = pairwise([in_channels, *widths])
    layers = [conv_block(a, b, stride) for (a, b), stride in zip(pairs, strides, strict=True)]
    ends = tuple(range(1, len(layers) + 1))
    return Stages([*layers, Mean()], width=widths[-1], ends=ends)
