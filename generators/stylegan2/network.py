"""StyleGAN2, written from its papers (arXiv:1912.04958, arXiv:2006.06676): latents to images.

The tensors of the module's `state_dict` have the canonical names of docs/gan.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewstore.errors import CheckpointError, ConfigError
from viewstore.files.tensors import weights_digest
from viewstore.generators.stylegan2.codes import keyed_normal
from viewstore.generators.stylegan2.layers import (
    SLOPE,
    SQRT2,
    ConvLayer,
    Dense,
    ImageLayer,
    Noise,
    Options,
)
from viewstore.generators.stylegan2.resample import upsample
from viewstore.generators.stylegan2.shape import Architecture, infer, resampling

SIGMA_SEED, SIGMA_SAMPLES = 0, 10_000
CLASS_SEED, CLASS_SAMPLES = 1, 4096


def unit_rms(x: Tensor) -> Tensor:
    """Divide each row by its root mean square."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class MappingNetwork(nn.Module):
    """From z and labels to one code per layer."""

    w_avg: Tensor

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.shape = shape
        if shape.c_dim:
            self.embed = Dense(shape.c_dim, shape.embed_width)
        widths = (shape.z_dim + shape.embed_width, *shape.mapping_widths)
        for i, width in enumerate(shape.mapping_widths):
            setattr(self, f"fc{i}", Dense(widths[i], width, lr=shape.lr_multiplier))
        self.register_buffer("w_avg", torch.zeros(shape.w_dim))

    def forward(
        self, z: Tensor, c: Tensor | None = None, *, psi: float = 1.0, cutoff: int | None = None
    ) -> Tensor:
        """Return the codes [N, L, D] of `z` [N, z_dim].

        `c`: class numbers [N] or weights [N, c_dim], needed by a conditional network only.
        `psi` pulls the first `cutoff` codes (all if None) towards `w_avg`.
        """
        parts = [unit_rms(z)] if self.shape.z_dim else []
        if self.shape.c_dim:
            parts.append(unit_rms(self.embed(self._labels(c).to(self.w_avg))))
        x = torch.cat(parts, dim=1)
        for i in range(len(self.shape.mapping_widths)):
            x = F.leaky_relu(getattr(self, f"fc{i}")(x), SLOPE) * SQRT2
        codes = x.unsqueeze(1).repeat(1, self.shape.num_codes, 1)
        if psi == 1:
            return codes
        cut = self.shape.num_codes if cutoff is None else cutoff
        pulled = self.w_avg + psi * (codes[:, :cut] - self.w_avg)
        return torch.cat([pulled, codes[:, cut:]], dim=1)

    def _labels(self, c: Tensor | None) -> Tensor:
        classes = self.shape.c_dim
        if c is None:
            raise ConfigError(
                f"this generator is conditional ({classes} classes): give --labels or a source "
                "with labels"
            )
        if c.ndim == 1 and not c.is_floating_point():
            if len(c) and not 0 <= int(c.min()) <= int(c.max()) < classes:
                raise ConfigError(
                    f"class labels must be in [0, {classes}), got {int(c.min())} to {int(c.max())}"
                )
            return F.one_hot(c.long(), classes)
        if c.ndim != 2 or c.shape[1] != classes:
            raise ConfigError(
                f"class labels must be integers [N] or weights [N, {classes}], got {list(c.shape)}"
            )
        return c


class Skip(nn.Module):
    """The 1x1 convolution beside a residual block."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, 1, 1))

    def forward(self, x: Tensor, taps: Tensor) -> Tensor:
        """Return [N, outputs, 2H, 2W] of `x` [N, inputs, H, W]."""
        return upsample(F.conv2d(x, self.weight / math.sqrt(self.weight.shape[1])), taps)


class Block(nn.Module):
    """The layers of one resolution."""

    resample_filter: Tensor

    def __init__(self, shape: Architecture, index: int) -> None:
        super().__init__()
        self.shape = shape
        self.first = index == 0
        size, outputs, inputs = 4 << index, shape.channels[index], shape.channels[max(index - 1, 0)]
        noise = size if shape.use_noise else None
        self.register_buffer("resample_filter", torch.zeros(shape.taps))
        if self.first:
            self.const = nn.Parameter(torch.zeros(outputs, 4, 4))
        else:
            self.conv0 = ConvLayer(inputs, outputs, shape.w_dim, noise=noise)
        self.conv1 = ConvLayer(outputs, outputs, shape.w_dim, noise=noise)
        if not self.first and shape.kind == "resnet":
            self.skip = Skip(inputs, outputs)
        self.draws_image = shape.draws_image(index)
        if self.draws_image:
            self.torgb = ImageLayer(outputs, shape.image_channels, shape.w_dim, size=1)

    def forward(
        self, x: Tensor | None, image: Tensor | None, codes: Tensor, options: Options
    ) -> tuple[Tensor, Tensor | None]:
        """Return features and image. `codes` [N, 3, D]: of conv0, conv1 and torgb."""
        taps = self.resample_filter
        if x is None:
            x = self.const.expand(len(codes), -1, -1, -1)
            x = self.conv1(x, codes[:, 1], up=None, gain=1.0, options=options)
        else:
            start = x
            gain = math.sqrt(0.5) if self.shape.kind == "resnet" else 1.0
            x = self.conv0(x, codes[:, 0], up=taps, gain=1.0, options=options)
            x = self.conv1(x, codes[:, 1], up=None, gain=gain, options=options)
            if self.shape.kind == "resnet":
                x = x + gain * self.skip(start, taps)
        if image is not None:
            image = upsample(image, taps)
        if self.draws_image:
            drawn = self.torgb(x, codes[:, 2], options)
            image = drawn if image is None else image + drawn
        return cast(Tensor, x), image


class SynthesisNetwork(nn.Module):
    """From codes to images."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.shape = shape
        for index in range(len(shape.channels)):
            setattr(self, f"b{4 << index}", Block(shape, index))

    def forward(
        self,
        w: Tensor,
        *,
        noise: Noise = "const",
        generator: torch.Generator | None = None,
        fused: bool = False,
    ) -> Tensor:
        """Return the images [N, C, H, W] of the codes `w` [N, L, D], not clamped to [-1, 1].

        `noise`: the stored one, drawn from `generator` (a CPU generator), or none. `fused` uses
        one weight per sample, slower and equal up to rounding.
        """
        wanted = (self.shape.num_codes, self.shape.w_dim)
        if w.ndim != 3 or tuple(w.shape[1:]) != wanted:
            raise ConfigError(f"codes must be [N, {wanted[0]}, {wanted[1]}], got {list(w.shape)}")
        if noise == "random" and generator is None:
            raise ConfigError("random noise needs a generator; it is never drawn unseeded")
        options = Options(
            noise=noise, generator=generator, fused=fused, clamp=self.shape.conv_clamp
        )
        x: Tensor | None = None
        image: Tensor | None = None
        for index in range(len(self.shape.channels)):
            # The last torgb of a block shares its code with the next block's conv0.
            first = max(2 * index - 1, 0)
            codes = w[:, first : first + 3] if index else w[:, [0, 0, 1]]
            x, image = getattr(self, f"b{4 << index}")(x, image, codes, options)
        return cast(Tensor, image).to(w.dtype)


class StyleGAN2(nn.Module):
    """A generator: `mapping` makes codes, `synthesis` makes images of codes."""

    differentiable = True  # images by their codes

    def __init__(self, shape: Architecture, kwargs: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.kwargs = dict(shape.kwargs() if kwargs is None else kwargs)
        self.mapping = MappingNetwork(shape)
        self.synthesis = SynthesisNetwork(shape)

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, np.ndarray | Tensor], kwargs: Mapping[str, Any]
    ) -> Self:
        """Return the frozen network of tensors with canonical names, as float32.

        Raises:
            CheckpointError: A name is missing, extra or misshapen, or a weight is not finite.
        """
        loaded = _one_filter({name: _float32(name, value) for name, value in tensors.items()})
        shape = infer({name: tuple(value.shape) for name, value in loaded.items()}, kwargs)
        network = cls(shape, kwargs)
        network.load_state_dict(loaded)
        network.requires_grad_(False)
        return network.eval()

    @property
    def res(self) -> int:
        """Side of the images, in pixels."""
        return self.shape.resolution

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return self.shape.image_channels

    @property
    def feature_values(self) -> int:
        """Values of the feature maps of an image, one map for each channel of each block."""
        return sum(maps * (4 << block) ** 2 for block, maps in enumerate(self.shape.channels))

    @property
    def num_codes(self) -> int:
        """Codes of an image, L."""
        return self.shape.num_codes

    @property
    def w_dim(self) -> int:
        """Width of a code, D."""
        return self.shape.w_dim

    @property
    def z_dim(self) -> int:
        """Width of z."""
        return self.shape.z_dim

    @property
    def c_dim(self) -> int:
        """Classes of a conditional network; 0 for others."""
        return self.shape.c_dim

    @property
    def w_avg(self) -> Tensor:
        """The average code, float32 [D]."""
        return self.mapping.w_avg

    def sample(self, n: int, seed: int, c: Tensor | None = None, *, psi: float = 1.0) -> Tensor:
        """Return the codes [n, L, D] of n keyed z: row i depends on `seed`, i and its label."""
        z = keyed_normal(n, self.z_dim, seed).to(self.w_avg)
        with torch.no_grad():
            codes: Tensor = self.mapping(z, c, psi=psi)
        return codes

    def classes_in_turn(self, n: int) -> Tensor | None:
        """Return class numbers [n] for a conditional network, each class in turn, else None."""
        return torch.arange(n) % self.c_dim if self.c_dim else None

    def typical_codes(self) -> Tensor:
        """Return 10,000 keyed codes [n, D], of all classes in turn: their spread is a unit."""
        labels = self.classes_in_turn(SIGMA_SAMPLES)
        return self.sample(SIGMA_SAMPLES, SIGMA_SEED, labels)[:, 0]

    def class_mean(self, label: int) -> Tensor:
        """Return the mean code of a class, float32 [D], over 4,096 keyed z.

        Raises:
            ConfigError: There is no such class.
        """
        labels = torch.full((CLASS_SAMPLES,), label)
        codes = self.sample(CLASS_SAMPLES, CLASS_SEED, labels)[:, 0]
        return codes.double().mean(0).float()

    @property
    def w_std(self) -> Tensor:
        """Standard deviation of each dimension of the typical codes, float32 [D]."""
        return self.typical_codes().std(0)

    @cached_property
    def sigma_w(self) -> float:
        """Spread of the typical codes: rms over dimensions of their standard deviation."""
        return float(self.typical_codes().double().var(0).mean().sqrt())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights and of how they are applied; computed once."""
        applied = {"kind": self.shape.kind, "conv_clamp": self.shape.conv_clamp}
        applied |= {"lr_multiplier": self.shape.lr_multiplier}
        return weights_digest(applied, self.state_dict())


def _float32(name: str, value: np.ndarray | Tensor) -> Tensor:
    tensor = torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value.detach()
    if not tensor.is_floating_point():
        raise CheckpointError(f"tensor {name} must be floating point, got {tensor.dtype}")
    tensor = tensor.to(torch.float32, copy=True)
    if not bool(tensor.isfinite().all()):
        raise CheckpointError(f"tensor {name} holds values that are not finite")
    return tensor


def _one_filter(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give each block the one resampling filter; files repeat it per layer."""
    filters = {name: value for name, value in tensors.items() if name.endswith(".resample_filter")}
    others = {name: value for name, value in tensors.items() if name not in filters}
    used = {name: filters[name] for name in resampling(filters)}
    first = next(iter(used.values()), None)
    if first is None:
        raise CheckpointError("tensor synthesis.b4.resample_filter is missing")
    for name, value in used.items():
        if not torch.equal(value, first):
            raise CheckpointError(f"tensor {name} must be equal in every layer that resamples")
    blocks = {name.split(".")[1] for name in others if name.startswith("synthesis.")}
    return others | {f"synthesis.{block}.resample_filter": first for block in blocks}
