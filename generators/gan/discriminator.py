"""The network that a generator is trained against: StyleGAN2's `orig` discriminator.

Source: arXiv:1912.04958; spread within groups of images: arXiv:1710.10196, section 3; classes:
a projection (arXiv:1802.05637) on a normalised embedding, as in arXiv:2006.06676, appendix C.
"""

from __future__ import annotations

import itertools
import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewstore.generators.stylegan2.layers import SLOPE, SQRT2, Dense
from viewstore.generators.stylegan2.network import unit_rms
from viewstore.generators.stylegan2.resample import filter_of, smooth

TAPS = (1.0, 3.0, 3.0, 1.0)


class EqualisedConv(nn.Module):
    """A convolution whose stored weight is scaled by `1 / sqrt(fan-in)`, with leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, size: int, *, stride: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, size, size))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs, H / stride, W / stride] of `x` [N, inputs, H, W]."""
        size = self.weight.shape[-1]
        weight = self.weight / math.sqrt(self.weight[0].numel())
        padding = size // 2 if self.stride == 1 else 0
        x = F.conv2d(x, weight, self.bias, stride=self.stride, padding=padding)
        return F.leaky_relu(x, SLOPE) * SQRT2


class DownBlock(nn.Module):
    """Two convolutions, the second at half the resolution."""

    taps: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv0 = EqualisedConv(inputs, inputs, 3)
        self.conv1 = EqualisedConv(inputs, outputs, 3, stride=2)
        self.register_buffer("taps", filter_of(TAPS), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs, H / 2, W / 2] of `x` [N, inputs, H, W]."""
        x = smooth(self.conv0(x), self.taps, before=2, after=2)
        halved: Tensor = self.conv1(x)
        return halved


class Discriminator(nn.Module):
    """Images [N, C, H, W] to one score each; higher is more real.

    A batch must be a multiple of `group`: the spread within groups is a feature, which resists
    mode collapse. With classes the score is `features(x) . unit_rms(embed(c)) / sqrt(D)`: how far
    the D features of an image point to its class.
    """

    def __init__(
        self, channels: tuple[int, ...], image_channels: int, *, group: int, classes: int = 0
    ) -> None:
        """Make it for images of `image_channels` channels, of so many classes, or 0 for none.

        `channels` are the feature maps at 4, 8, ... pixels, as in Architecture.
        """
        super().__init__()
        self.group, self.classes = group, classes
        widths = channels[::-1]
        self.from_rgb = EqualisedConv(image_channels, widths[0], 1)
        self.blocks = nn.ModuleList(
            DownBlock(inputs, outputs) for inputs, outputs in itertools.pairwise(widths)
        )
        self.conv = EqualisedConv(widths[-1] + 1, widths[-1], 3)
        self.dense = Dense(16 * widths[-1], widths[-1])
        self.out = Dense(widths[-1], widths[-1] if classes else 1)
        if classes:
            self.embed = Dense(classes, widths[-1])

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the weights from N(0, 1); the layers scale them."""
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(parameter, generator=generator)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the scores [N] of `images` [N, C, H, W]; `labels`, int64 [N], with classes."""
        x = self.from_rgb(images)
        for block in self.blocks:
            x = block(x)
        x = self.conv(torch.cat([x, self._spread(x)], dim=1))
        x = F.leaky_relu(self.dense(x.flatten(1)), SLOPE) * SQRT2
        x = cast(Tensor, self.out(x))
        if labels is None:
            return x[:, 0]
        wanted = unit_rms(self.embed(F.one_hot(labels, self.classes).to(x)))
        return (x * wanted).sum(1) / math.sqrt(x.shape[1])

    def _spread(self, x: Tensor) -> Tensor:
        """Return the mean standard deviation within each group of images, as a feature map."""
        groups = x.reshape(self.group, -1, *x.shape[1:])
        centred = groups - groups.mean(0)
        deviation = (centred.square().mean(0) + 1e-8).sqrt().mean((1, 2, 3))
        spread = deviation.repeat(self.group)[:, None, None, None]
        return spread.expand(-1, 1, *x.shape[2:])
