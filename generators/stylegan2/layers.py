"""Layers whose input channels are scaled by a style: what StyleGAN2 synthesises images with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewstore.generators.stylegan2.resample import smooth_doubled

Noise = Literal["const", "random", "none"]
SLOPE = 0.2
SQRT2 = math.sqrt(2)


class Dense(nn.Module):
    """A linear layer whose stored weight is scaled by `lr / sqrt(inputs)` (equalised rate)."""

    def __init__(self, inputs: int, outputs: int, *, lr: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.lr = lr

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs] of `x` [N, inputs]."""
        gain = self.lr / math.sqrt(self.weight.shape[1])
        return F.linear(x, self.weight * gain, self.bias * self.lr)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How one pass through the layers is computed.

    Attributes:
        noise: The stored one ("const"), drawn from `generator` ("random"), or none.
        generator: A CPU generator.
        fused: Whether each sample has its own weight, the textbook form; slower.
        clamp: Bound of every activation, or None.
    """

    noise: Noise
    generator: torch.Generator | None
    fused: bool
    clamp: float | None

    def bounded(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """Clamp the activations of a layer whose output was multiplied by `gain`."""
        return x if self.clamp is None else x.clamp(-self.clamp * gain, self.clamp * gain)


class StyledLayer(nn.Module):
    """A convolution whose input channels are scaled by a style, computed from a code."""

    def __init__(self, inputs: int, outputs: int, w_dim: int, *, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, size, size))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.affine = Dense(w_dim, inputs)


class ImageLayer(StyledLayer):
    """Features to pixels: a modulated 1x1 convolution."""

    def forward(self, x: Tensor, w: Tensor, options: Options) -> Tensor:
        """Return pixels [N, outputs, H, W] of features `x` [N, inputs, H, W], codes `w` [N, D]."""
        with torch.autocast(w.device.type, enabled=False):
            style = self.affine(w) / math.sqrt(self.weight.shape[1])
        if options.fused:
            x = _grouped(x, self.weight * style[:, None, :, None, None], transposed=False)
        else:
            x = F.conv2d(x * style[:, :, None, None], self.weight)
        x = x + self.bias[:, None, None]
        return options.bounded(x)


class ConvLayer(StyledLayer):
    """A modulated and demodulated 3x3 convolution, noise and activation."""

    noise_const: Tensor

    def __init__(self, inputs: int, outputs: int, w_dim: int, *, noise: int | None) -> None:
        super().__init__(inputs, outputs, w_dim, size=3)
        self.noise_size = noise
        if noise is not None:
            self.register_buffer("noise_const", torch.zeros(noise, noise))
            self.noise_strength = nn.Parameter(torch.zeros(()))

    def forward(
        self,
        x: Tensor,
        w: Tensor,
        *,
        up: Tensor | None,
        gain: float,
        options: Options,
    ) -> Tensor:
        """Return the features of the layer, doubled in size if `up` is a resampling filter.

        The leaky ReLU is homogeneous, so its gain is folded into what is added and multiplied
        before it: one pass over the features less.
        """
        gain *= SQRT2
        with torch.autocast(w.device.type, enabled=False):
            style = self.affine(w)
            scale = self._demodulation(style) * gain
        if options.fused:
            weight = self.weight * style[:, None, :, None, None] * scale[:, :, None, None, None]
            x = _grouped(x, weight, transposed=up is not None)
        elif up is None:
            x = F.conv2d(x * style[:, :, None, None], self.weight, padding=1)
        else:
            weight = self.weight.transpose(0, 1)
            x = F.conv_transpose2d(x * style[:, :, None, None], weight, stride=2)
        if up is not None:
            x = smooth_doubled(x, up)
        shift = self._shift(x, gain, options)
        x = x + shift if options.fused else torch.addcmul(shift, x, scale[:, :, None, None])
        return options.bounded(F.leaky_relu(x, SLOPE), gain / SQRT2)

    def _demodulation(self, style: Tensor) -> Tensor:
        power = self.weight.square().sum((2, 3))
        return (style.square() @ power.T + 1e-8).rsqrt()

    def _shift(self, x: Tensor, gain: float, options: Options) -> Tensor:
        shift = (self.bias * gain)[:, None, None]
        if self.noise_size is None or options.noise == "none":
            return shift
        if options.noise == "const":
            return shift + self.noise_const * (self.noise_strength * gain)
        size = (len(x), 1, *x.shape[2:])
        drawn = torch.randn(size, generator=options.generator, dtype=self.bias.dtype)
        return shift + drawn.to(x.device) * (self.noise_strength * gain)


def _grouped(x: Tensor, weight: Tensor, *, transposed: bool) -> Tensor:
    """Convolve each sample with its own weight [N, O, I, k, k]: the textbook form."""
    count, outputs, inputs, size, _ = weight.shape
    x = x.reshape(1, count * inputs, *x.shape[2:])
    if transposed:
        flat = weight.transpose(1, 2).reshape(count * inputs, outputs, size, size)
        x = F.conv_transpose2d(x, flat, stride=2, groups=count)
    else:
        flat = weight.reshape(count * outputs, inputs, size, size)
        x = F.conv2d(x, flat, padding=size // 2, groups=count)
    return x.reshape(count, outputs, *x.shape[2:])
