"""Residual networks, ResNet-18 and ResNet-50, for small images and for those of ImageNet.

Source: arXiv:1512.03385, table 1 and figure 5; the stride of a bottleneck is in its 3x3
convolution, as in torchvision. The stem for small images is arXiv:2002.05709, appendix B.9.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Literal

from torch import Tensor, nn

from viewstore.train.nets.backbone import Mean, Stages, conv_block

Stem = Literal["cifar", "imagenet"]
WIDTHS = (64, 128, 256, 512)


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut. Source: arXiv:1512.03385, figure 5 left."""

    EXPANSION = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = conv_block(inputs, width, stride)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.second(self.first(x))) + self.shortcut(x)
        return out.relu()


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut. Source: arXiv:1512.03385, figure 5 right."""

    EXPANSION = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = self.EXPANSION * width
        self.first = conv_block(inputs, width, 1, kernel=1)
        self.second = conv_block(width, width, stride)
        self.third = nn.Conv2d(width, outputs, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.third(self.second(self.first(x)))) + self.shortcut(x)
        return out.relu()


def resnet(
    in_channels: int,
    *,
    block: type[Residual | Bottleneck],
    depths: tuple[int, ...],
    stem: Stem = "cifar",
    zero_init: bool = False,
) -> Stages:
    """Return a residual network with `depths` blocks in its four groups.

    `stem`: "cifar" is a 3x3 convolution of stride 1, "imagenet" a 7x7 one of stride 2 and a
    max-pool; `zero_init` starts the last batch norm of each block at 0.
    """
    layers: list[nn.Module] = [_stem(in_channels, stem)]
    inputs = WIDTHS[0]
    for group, (width, depth) in enumerate(zip(WIDTHS, depths, strict=True)):
        for number in range(depth):
            made = block(inputs, width, 2 if group and not number else 1)
            if zero_init:
                nn.init.zeros_(made.norm.weight)
            layers.append(made)
            inputs = width * block.EXPANSION
    ends = tuple(accumulate((1, *depths)))
    return Stages([*layers, Mean()], width=inputs, ends=ends)


def _stem(in_channels: int, stem: Stem) -> nn.Sequential:
    if stem == "cifar":
        return conv_block(in_channels, WIDTHS[0], 1)
    layers = conv_block(in_channels, WIDTHS[0], 2, kernel=7)
    return layers.append(nn.MaxPool2d(3, 2, padding=1))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
    return nn.Sequential(projection, nn.BatchNorm2d(outputs))
