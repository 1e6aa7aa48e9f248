"""Backbones and projectors of encoders: small networks by name.

All backbones end in a mean over positions; none has a bias before a batch norm. Convolutions
start as in He et al. (arXiv:1502.01852), fan out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from viewstore.errors import ConfigError, nearest

MAX_LAYERS = 8
MAX_WIDTH = 65536


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Settings of the network that is trained.

    Attributes:
        backbone: Name in BACKBONES.
        in_channels: 1 reads the first channel of a view, 3 reads all.
        projector: Width of each layer of the projector; the last is that of the embedding.
        zero_init: Start the last batch norm of each residual block at 0 (resnet18 only).

    Raises:
        ConfigError: There is no such backbone, or a value is out of range.
    """

    backbone: str = "resnet18"
    in_channels: int = 3
    projector: tuple[int, ...] = (2048, 128)
    zero_init: bool = False

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise ConfigError(
                f"backbone must be one of {', '.join(BACKBONES)}, got {self.backbone!r}; "
                f"{nearest(self.backbone, list(BACKBONES))}",
                code="VS102",
            )
        if self.in_channels not in (1, 3):
            raise ConfigError(f"in_channels must be 1 or 3, got {self.in_channels}")
        widths = self.projector
        if not 1 <= len(widths) <= MAX_LAYERS or not all(1 <= w <= MAX_WIDTH for w in widths):
            raise ConfigError(
                f"projector must be 1 to {MAX_LAYERS} widths in [1, {MAX_WIDTH}], "
                f"got {','.join(map(str, widths)) or 'none'}"
            )
        if self.zero_init and self.backbone != "resnet18":
            raise ConfigError(f"zero_init needs residual blocks; {self.backbone} has none")


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut. Source: arXiv:1512.03385, figure 5 left."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = conv_block(inputs, outputs, stride)
        self.second = _conv3(outputs, outputs, 1)
        self.norm = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.second(self.first(x))) + self.shortcut(x)
        return out.relu()


class Mean(nn.Module):
    """The mean over positions: [N, C, H, W] to [N, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def _conv3(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def conv_block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Return a 3x3 convolution, batch norm and ReLU."""
    return nn.Sequential(_conv3(inputs, outputs, stride), nn.BatchNorm2d(outputs), nn.ReLU())


def resnet18(in_channels: int) -> nn.Sequential:
    """Return ResNet-18 for small images: 3x3 stem of stride 1, no max-pool."""
    layers: list[nn.Module] = [conv_block(in_channels, 64, 1)]
    inputs = 64
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Residual(inputs, outputs, stride), Residual(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(*layers, Mean())


def conv6(in_channels: int) -> nn.Sequential:
    """Return six convolutions, 32-64-64-128-128-256, half the size where the width grows."""
    widths = (in_channels, 32, 64, 64, 128, 128, 256)
    strides = (1, 2, 1, 2, 1, 2)
    pairs = zip(itertools.pairwise(widths), strides, strict=True)
    return nn.Sequential(*(conv_block(a, b, stride) for (a, b), stride in pairs), Mean())


def conv3(in_channels: int) -> nn.Sequential:
    """Return three convolutions of stride 2, 32-64-128: for 16-pixel digits."""
    widths = (in_channels, 32, 64, 128)
    pairs = itertools.pairwise(widths)
    return nn.Sequential(*(conv_block(a, b, 2) for a, b in pairs), Mean())


@dataclass(frozen=True)
class Backbone:
    """One row of BACKBONES: the function of input channels that makes it, and its feature width."""

    make: Callable[[int], nn.Sequential]
    width: int


BACKBONES = {
    "resnet18": Backbone(resnet18, 512),
    "conv6": Backbone(conv6, 256),
    "conv3": Backbone(conv3, 128),
}


def projector(inputs: int, widths: tuple[int, ...]) -> nn.Sequential:
    """Return linear layers with batch norms and ReLU between; the last norm has no weights."""
    layers: list[nn.Module] = []
    for width in widths[:-1]:
        layers += [nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        inputs = width
    last = nn.BatchNorm1d(widths[-1], affine=False)
    return nn.Sequential(*layers, nn.Linear(inputs, widths[-1], bias=False), last)


class Network(nn.Module):
    """A backbone and its projector; its inputs were normalised by the caller."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        row = BACKBONES[settings.backbone]
        self.settings = settings
        self.backbone = row.make(settings.in_channels)
        self.projector = projector(row.width, settings.projector)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if settings.zero_init and isinstance(module, Residual):
                nn.init.zeros_(module.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the projector's output [N, D], not normalised, of images float32 [N, C, H, W]."""
        out: Tensor = self.projector(self.backbone(x))
        return out


def seeded_network(settings: NetworkSettings, seed: int) -> Network:
    """Return a network with weights drawn by `seed`; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(settings)


@contextmanager
def quiet_statistics(module: nn.Module) -> Iterator[None]:
    """Leave the running statistics of batch norms as they are while the block runs forwards."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    tracking = [norm.track_running_stats for norm in norms]
    try:
        for norm in norms:
            # In evaluation mode the running statistics are what is used: keep reading them.
            norm.track_running_stats = not norm.training
        yield
    finally:
        for norm, before in zip(norms, tracking, strict=True):
            norm.track_running_stats = before
