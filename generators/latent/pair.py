"""A pair of modules of torch.export in place of GAN and inverter: decoder and encoder.

The decoder turns latents into images, the encoder images into the latents from which the decoder
makes them again: an autoencoder, a VAE, or a GAN of another family with its own inverter.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from viewstore.errors import ConfigError
from viewstore.generators.checkpoints.exported import (
    Shape,
    output_of,
    read_module,
    shape_text,
    unfit,
)
from viewstore.generators.stylegan2.codes import keyed_normal

PROBED = 2  # latents that a decoder is shown when it is read, where it takes any number
MAX_PROBE = 1 << 24  # numbers of them together
MAX_SIDE = 4096  # of an image
FEATURES_A_PIXEL = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class ExportedModule:
    """A frozen network of others that gives a row for each row that it is given.

    Attributes:
        network: The module, on `device`.
        takes: Shape of what it takes, with its first dimension; None: any extent.
        device: Torch device of what it is given.
    """

    network: nn.Module
    takes: Shape
    device: str = "cpu"

    def to(self, device: str) -> Self:
        """Return it on a torch device."""
        return replace(self, network=self.network.to(device), device=device)

    def rows_of(self, x: Tensor) -> Tensor:
        """Return what it gives for the rows of `x`, at whatever number of rows it takes at a time.

        Raises:
            CheckpointError: It cannot take them, or gives something else than a row for each.
        """
        at_a_time = self.takes[0]
        if at_a_time is None:
            return self._given(x)
        missing = -len(x) % at_a_time  # what fills the last portion is the last row
        full = torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) if missing else x
        return torch.cat([self._given(each) for each in torch.split(full, at_a_time)])[: len(x)]

    def _given(self, x: Tensor) -> Tensor:
        found = output_of(self.network, x)
        fits = isinstance(found, Tensor) and found.ndim > 1 and len(found) == len(x)
        if not fits or not found.is_floating_point():
            raise unfit(f"it must give floats [{len(x)}, ...] for {list(x.shape)}")
        rows: Tensor = found.float()
        return rows


@dataclass(frozen=True, kw_only=True, eq=False)
class ExportedEncoder(ExportedModule):
    """The encoder of a pair; it stands where an inverter does."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return the latents [N, L, D] of images [N, C, H, W] in [-1, 1]; L is 1 for [N, D]."""
        found = self.rows_of(x)
        if found.ndim not in (2, 3):
            raise unfit(f"an encoder must give latents [N, D] or [N, L, D], got {[*found.shape]}")
        return found.unsqueeze(1) if found.ndim == 2 else found


@dataclass(frozen=True, kw_only=True, eq=False)
class ExportedDecoder(ExportedModule):
    """The decoder of a pair; it stands where a GAN does (`decode.LatentDecoder`).

    Attributes:
        channels, res: Of its images, which are square.
        differentiable: Whether its images have a gradient by their latents.
        fingerprint: SHA-256 of its file.
        latents: Mean and standard deviation of each dimension of the latents, as
            `statistics` measures them; None until they are known (`knowing`).
    """

    channels: int
    res: int
    differentiable: bool
    fingerprint: str
    latents: Mapping[str, Any] | None = None

    @property
    def num_codes(self) -> int:
        """L; 1 where it takes latents [N, D]."""
        return 1 if len(self.takes) == 2 else self._extent(1)

    @property
    def w_dim(self) -> int:
        """D."""
        return self._extent(-1)

    @cached_property
    def w_avg(self) -> Tensor:
        """The mean of the latents, float32 [D]."""
        return self._statistic("mean")

    @cached_property
    def w_std(self) -> Tensor:
        """The standard deviation of the latents, float32 [D]."""
        return self._statistic("std")

    @cached_property
    def sigma_w(self) -> float:
        """Spread of the latents: rms over dimensions of their standard deviation."""
        return float(self.w_std.double().square().mean().sqrt())

    @property
    def c_dim(self) -> int:
        """Number of classes: 0, latents are of none."""
        return 0

    @property
    def feature_values(self) -> int:
        """Values of feature maps that an image takes, about: nothing says how many there are."""
        return FEATURES_A_PIXEL * self.res**2

    def class_mean(self, label: int) -> Tensor:
        """Raise ConfigError: there are no classes."""
        raise ConfigError(f"there is no class {label}: the decoder has none")

    def knowing(self, latents: Mapping[str, Any] | None) -> ExportedDecoder:
        """Return the decoder of latents of this mean and standard deviation."""
        return replace(self, latents=latents)

    def synthesis(self, w: Tensor) -> Tensor:
        """Return images [N, C, H, H] of latents [N, L, D], not clamped to [-1, 1]."""
        return self.rows_of(w.flatten(1) if len(self.takes) == 2 else w)

    def _extent(self, axis: int) -> int:
        extent = self.takes[axis]
        assert extent is not None, "read_decoder refuses latents of any extent"
        return extent

    def _statistic(self, name: str) -> Tensor:
        assert self.latents is not None, "the latents of a pair are measured when it inverts"
        return torch.tensor(self.latents[name], dtype=torch.float32, device=self.device)


def read_encoder(path: Path) -> ExportedEncoder:
    """Return the encoder of a pair, a module of torch.export: images to latents.

    Raises:
        CheckpointError: The file is none.
    """
    network, takes = read_module(path)
    if len(takes) != 4 or min(each for each in (*takes, 1) if each is not None) < 1:
        raise unfit(f"it takes {shape_text(takes)}, an encoder images [N, C, H, W]", where=path)
    return ExportedEncoder(network=network, takes=takes)


def read_decoder(path: Path) -> ExportedDecoder:
    """Return the decoder of a pair, a module of torch.export: latents to images.

    Raises:
        CheckpointError: The file is none, or its images are not square, gray or colour.
    """
    network, takes = read_module(path)
    probed = (PROBED if takes[0] is None else takes[0], *(each or 0 for each in takes[1:]))
    if len(takes) not in (2, 3) or min(probed) < 1 or math.prod(probed) > MAX_PROBE:
        raise unfit(
            f"it takes {shape_text(takes)}, a decoder latents [N, D] or [N, L, D] of one size",
            where=path,
        )
    module = ExportedModule(network=network, takes=takes)
    # Of latents of zeros the gradient may vanish where others have one.
    probe = keyed_normal(probed[0], math.prod(probed[1:]), 0).view(probed)
    with torch.no_grad():
        shape = tuple(module.rows_of(probe).shape[1:])
    if len(shape) != 3 or shape[0] not in (1, 3) or not 0 < shape[1] == shape[2] <= MAX_SIDE:
        raise unfit(
            f"it gives {shape_text((None, *shape))}, a decoder square images of 1 or 3 channels, "
            "[N, C, H, H]",
            where=path,
        )
    return ExportedDecoder(
        network=network,
        takes=takes,
        channels=shape[0],
        res=shape[1],
        differentiable=_has_gradient(module, probe),
        fingerprint=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def _has_gradient(module: ExportedModule, probe: Tensor) -> bool:
    with torch.enable_grad():
        latents = probe.clone().requires_grad_()
        images = module.rows_of(latents)
        if not images.requires_grad:
            return False
        try:
            (gradient,) = torch.autograd.grad(images.square().sum(), latents, allow_unused=True)
        except RuntimeError:  # an op that has no derivative
            return False
    return gradient is not None and bool(gradient.any())
