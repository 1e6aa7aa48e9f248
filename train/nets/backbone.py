"""What every backbone offers: features of images, and its stages one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor, nn

from viewstore.errors import ConfigError


class Backbone(nn.Module):
    """A network from normalised images, float32 [N, C, H, W], to features [N, `width`].

    Attributes:
        width: Number of features.
        num_stages: Number of outputs of `stages`.
    """

    width: int
    num_stages: int

    def stages(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the output [N, ...] of each stage; what is not asked for is not computed.

        A backbone whose layers are unknown has none.
        """
        return iter(())

    def probe_features(self, x: Tensor) -> Tensor:
        """Return what a linear probe reads of images [N, C, H, W]: the features [N, `width`]."""
        features: Tensor = self(x)
        return features


class Stages(Backbone):
    """Layers in a row, of which some end a stage; the last pools."""

    def __init__(self, layers: list[nn.Module], *, width: int, ends: tuple[int, ...]) -> None:
        """Run `layers`; stage k ends before layer `ends`[k]."""
        super().__init__()
        for number, layer in enumerate(layers):
            self.add_module(str(number), layer)
        self.width = width
        self.num_stages = len(ends)
        self._ends = frozenset(ends)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x

    def stages(self, x: Tensor) -> Iterator[Tensor]:
        for number, layer in enumerate(self.children(), 1):
            x = layer(x)
            if number in self._ends:
                yield x

    def draw_convolutions(self) -> None:
        """Draw the weights of convolutions as in He et al. (arXiv:1502.01852), fan out."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class Mean(nn.Module):
    """The mean over positions: [N, C, H, W] to [N, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def conv_block(inputs: int, outputs: int, stride: int, *, kernel: int = 3) -> nn.Sequential:
    """Return a convolution that keeps the size at stride 1, batch norm and ReLU."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def check_stage(backbone: Backbone, k: int) -> None:
    """Raise ConfigError unless the backbone has a stage `k`."""
    if not 0 <= k < backbone.num_stages:
        known = f"0 to {backbone.num_stages - 1}" if backbone.num_stages else "none"
        raise ConfigError(f"stage must be one of the backbone's, {known}, got {k}")


def stage(backbone: Backbone, x: Tensor, k: int) -> Tensor:
    """Return the flattened output [N, D] of stage `k` for images [N, C, H, W], and stop there.

    Stage 0 is the stem of a residual network, and stages 1 to 4 are its groups of blocks; of a
    plain network they are its convolutions; of a vision transformer stage 0 is the embedding of
    the patches, and stage k the k-th block. The pooled features are `backbone(x)`. Source: Hard
    Views, appendix J.

    Raises:
        ConfigError: There is no such stage.
    """
    check_stage(backbone, k)
    return torch.flatten(next(islice(backbone.stages(x), k, None)), 1)
