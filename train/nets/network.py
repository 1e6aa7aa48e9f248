"""The network that is trained: a backbone by name, and its projector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import get_args

import torch
from torch import Tensor, nn

from viewstore.errors import ConfigError, nearest
from viewstore.train.nets.backbone import Backbone, Stages
from viewstore.train.nets.convolutional import conv3, conv6
from viewstore.train.nets.domains import clean_state, quiet_statistics
from viewstore.train.nets.foreign import FORM, foreign, is_foreign
from viewstore.train.nets.heads import Activation, Norm, projector
from viewstore.train.nets.resnet import Bottleneck, Residual, Stem, resnet
from viewstore.train.nets.vit import VisionTransformer

__all__ = [
    "BACKBONES",
    "Network",
    "NetworkSettings",
    "quiet_statistics",
    "seeded_network",
]

MAX_LAYERS = 8
MAX_WIDTH = 65536
MAX_PATCH = 64
SIZE = 224


@dataclass(frozen=True)
class Row:
    """One row of BACKBONES.

    Attributes:
        make: Makes the backbone of the number of input channels and the settings `takes`.
        takes: Names of what it takes: fields of NetworkSettings, or "size", the side of images.
    """

    make: Callable[..., Backbone]
    takes: tuple[str, ...] = ()


RESIDUAL = ("stem", "zero_init")
TRANSFORMER = ("size", "patch", "drop_path")
BACKBONES: Mapping[str, Row] = {
    "resnet18": Row(partial(resnet, block=Residual, depths=(2, 2, 2, 2)), RESIDUAL),
    "resnet50": Row(partial(resnet, block=Bottleneck, depths=(3, 4, 6, 3)), RESIDUAL),
    "vit-ti": Row(partial(VisionTransformer, width=192), TRANSFORMER),
    "vit-ti8": Row(partial(VisionTransformer, width=192, depth=8), TRANSFORMER),
    "vit-s": Row(partial(VisionTransformer, width=384), TRANSFORMER),
    "vit-b": Row(partial(VisionTransformer, width=768), TRANSFORMER),
    "conv6": Row(conv6),
    "conv6-half": Row(partial(conv6, divisor=2)),
    "conv6-quarter": Row(partial(conv6, divisor=4)),
    "conv3": Row(conv3),
}
# Settings that only some backbones take, with the value that asks for nothing and who takes them.
PARTICULAR: Mapping[str, tuple[object, str]] = {
    "zero_init": (False, "residual blocks"),
    "stem": ("cifar", "a stem of two kinds"),
    "patch": (None, "patches"),
    "drop_path": (0.0, "blocks that can be left out"),
}


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Settings of the network that is trained.

    Attributes:
        backbone: Name in BACKBONES; or module:function, a function of the user's that makes a
            module; or timm:NAME, transformers:NAME.
        in_channels: 1 reads the first channel of a view, 3 reads all.
        projector: Width of each layer of the projector; the last is that of the embedding.
        projector_norm: "bn" puts a batch norm behind each layer of the projector; "none" has
            none at all, and biases instead.
        projector_last: Behind the last layer of a projector with batch norms: "bn" is one without
            weights, "none" leaves a plain layer with a bias.
        activation: Between the layers of the projector, "relu" or "gelu".
        zero_init: Start the last batch norm of each residual block at 0 (residual networks).
        stem: "cifar" is a 3x3 convolution of stride 1; "imagenet" a 7x7 one of stride 2, and a
            max-pool (residual networks).
        drop_path: Rate of the last block, to which that of the others grows (vision transformers).
        patch: Side of a patch in pixels; None means 16 (vision transformers).

    Raises:
        ConfigError: There is no such backbone, a value is out of range, or the backbone does not
            take it.
    """

    backbone: str = "resnet18"
    in_channels: int = 3
    projector: tuple[int, ...] = (2048, 128)
    projector_norm: Norm = "bn"
    projector_last: Norm = "bn"
    activation: Activation = "relu"
    zero_init: bool = False
    stem: Stem = "cifar"
    drop_path: float = 0.0
    patch: int | None = None

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES and not is_foreign(self.backbone):
            raise ConfigError(
                f"backbone must be one of {', '.join(BACKBONES)}, or {FORM}, "
                f"got {self.backbone!r}; {nearest(self.backbone, list(BACKBONES))}",
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
        for name, kind in WORDS.items():
            words = get_args(kind)
            if getattr(self, name) not in words:
                raise ConfigError(f"{name} must be {' or '.join(words)}, got {getattr(self, name)}")
        if not 0 <= self.drop_path < 1:
            raise ConfigError(f"drop_path must be in [0, 1), got {self.drop_path}")
        if self.patch is not None and not 1 <= self.patch <= MAX_PATCH:
            raise ConfigError(f"patch must be in [1, {MAX_PATCH}], got {self.patch}")
        taken = BACKBONES[self.backbone].takes if self.backbone in BACKBONES else ()
        for name, (nothing, needs) in PARTICULAR.items():
            if name not in taken and getattr(self, name) != nothing:
                raise ConfigError(f"{name} needs {needs}; {self.backbone} has none")

    @property
    def in_patches(self) -> bool:
        """Whether the backbone is one of ours that cuts images into patches."""
        return self.backbone in BACKBONES and "patch" in BACKBONES[self.backbone].takes

    def make_backbone(self, size: int) -> Backbone:
        """Return the backbone for images of `size` pixels.

        Raises:
            UnavailableError: It is of a package that is not installed.
            ConfigError: It is not ours and cannot be made, or does not take images of this size.
        """
        if self.backbone not in BACKBONES:
            return foreign(self.backbone, self.in_channels, size)
        row = BACKBONES[self.backbone]
        values = {name: size if name == "size" else getattr(self, name) for name in row.takes}
        return row.make(self.in_channels, **values)


WORDS: Mapping[str, object] = {
    "projector_norm": Norm,
    "projector_last": Norm,
    "activation": Activation,
    "stem": Stem,
}


class Network(nn.Module):
    """A backbone and its projector; its inputs were normalised by the caller."""

    def __init__(self, settings: NetworkSettings, *, size: int = SIZE) -> None:
        """Make one for images of `size` pixels: vision transformers have positions for them.

        Raises:
            UnavailableError, ConfigError: As `NetworkSettings.make_backbone`.
        """
        super().__init__()
        self.settings = settings
        self.backbone = settings.make_backbone(size)
        self.projector = projector(
            self.backbone.width,
            settings.projector,
            norm=settings.projector_norm,
            last=settings.projector_last,
            activation=settings.activation,
        )
        # Behind the projector: the order of draws is part of what a seed means.
        if isinstance(self.backbone, Stages):
            self.backbone.draw_convolutions()

    def forward(self, x: Tensor) -> Tensor:
        """Return the projector's output [N, D], not normalised, of images float32 [N, C, H, W]."""
        out: Tensor = self.projector(self.backbone(x))
        return out

    def clean_weights(self) -> dict[str, Tensor]:
        """Return what a frozen network computes with, by name.

        That is its state without the counters of batches, the adversarial domain of batch norms
        and the token of masked patches.
        """
        return {
            name: value
            for name, value in clean_state(self).items()
            if value.is_floating_point() and name != "backbone.mask_token"
        }


def seeded_network(settings: NetworkSettings, seed: int, *, size: int = SIZE) -> Network:
    """Return a network with weights drawn by `seed`; torch's generator is left as it was.

    Raises:
        UnavailableError, ConfigError: As `Network`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(settings, size=size)
