"""ViewMaker: a network that changes an image a little, by an amount that is the same for all.

Source: Viewmaker Networks, arXiv:2010.07432, section 3, and its appendix on the architecture: that
of fast style transfer, with channels of noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from viewstore.errors import ConfigError

WIDTHS = (32, 64, 128)  # of the three convolutions that shrink the image, without noise
BLOCKS = 3
DIVISOR = 4  # of the side: two convolutions halve it
LEAST_SIZE, MAX_SIZE = 8, 4096
LEAST_MEAN = 1e-4  # added to the mean that the change is divided by


@dataclass(frozen=True, kw_only=True)
class ViewMakerShape:
    """What a ViewMaker needs besides its weights.

    Attributes:
        size: Side of its images in pixels, a multiple of 4.
        channels: 3, or 1 for networks that read the first channel alone.
        eps: Mean absolute change of a value in [0, 1], over an image.
        clamp: Whether what leaves [0, 1] is cut off.

    Raises:
        ConfigError: A value is out of range.
    """

    size: int
    channels: int = 3
    eps: float = 0.05
    clamp: bool = True

    def __post_init__(self) -> None:
        if not LEAST_SIZE <= self.size <= MAX_SIZE or self.size % DIVISOR:
            raise ConfigError(
                f"a ViewMaker makes views of {LEAST_SIZE} to {MAX_SIZE} px a side, a multiple of "
                f"{DIVISOR}, got {self.size}",
                fix=f"give --size {max(LEAST_SIZE, round(self.size / DIVISOR) * DIVISOR)}",
            )
        if self.channels not in (1, 3):
            raise ConfigError(f"channels must be 1 or 3, got {self.channels}")
        if not 0 < self.eps <= 1:
            raise ConfigError(f"eps must be in (0, 1], got {self.eps}")


class ViewMaker(nn.Module):
    """Adds tanh(y) * eps / mean |tanh(y)| to an image, y the network's output.

    So the mean change of a value is eps, whatever the image: it says where it changes, and how.

    Attributes:
        shape: Its settings.
        noise_numbers: Numbers of noise that it takes for each image.
    """

    KIND = "viewmaker"

    def __init__(self, shape: ViewMakerShape) -> None:
        super().__init__()
        self.shape = shape
        first, second, third = WIDTHS
        inner = (shape.size // DIVISOR) ** 2
        self._areas = [shape.size**2, *[inner] * BLOCKS]
        self.noise_numbers = sum(self._areas)
        self.shrink = nn.Sequential(
            _Convolution(shape.channels + 1, first, kernel=9),
            _Convolution(first, second, stride=2),
            _Convolution(second, third, stride=2),
        )
        self.blocks = nn.ModuleList(_Block(third + 1 + number) for number in range(BLOCKS))
        self.grow = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"),
            _Convolution(third + BLOCKS, second),
            nn.Upsample(scale_factor=2, mode="nearest"),
            _Convolution(second, first),
            nn.Conv2d(first, shape.channels, 9, padding=4, padding_mode="reflect"),
        )

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Return views [N, C, S, S], each a function of its own image and noise.

        Args:
            x: Images [N, C, S, S], values in [0, 1].
            noise: Numbers in [0, 1), [N, noise_numbers]: a channel beside the image, and one
                before each block.
        """
        made = x + self.change(x, noise)
        return made.clamp(0, 1) if self.shape.clamp else made

    def change(self, x: Tensor, noise: Tensor) -> Tensor:
        """Return what is added to the images of `forward`, [N, C, S, S]."""
        first, *others = torch.split(noise, self._areas, dim=1)
        y = self.shrink(torch.cat([x, _channel(first, x)], 1))
        for block, field in zip(self.blocks, others, strict=True):
            y = block(torch.cat([y, _channel(field, y)], 1))
        unit: Tensor = self.grow(y).tanh()
        size: Tensor = unit.abs().mean((1, 2, 3), keepdim=True)
        return unit * (self.shape.eps / (size + LEAST_MEAN))


def _channel(field: Tensor, like: Tensor) -> Tensor:
    """Return noise [N, H * W] as a channel of maps [N, C, H, W]."""
    return field.view(len(like), 1, *like.shape[2:])


class _Convolution(nn.Sequential):
    """A convolution with reflected borders, an instance norm with weights, and a ReLU."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, padding_mode="reflect"),
            nn.InstanceNorm2d(outputs, affine=True),
            nn.ReLU(),
        )


class _Block(nn.Module):
    """A residual block of two convolutions of one width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _Convolution(width, width)
        self.second = nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect")
        self.norm = nn.InstanceNorm2d(width, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.norm(self.second(self.first(x)))
        return out
