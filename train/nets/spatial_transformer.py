"""A spatial transformer: a network that looks at an image and says where its views are cut.

Source: Spatial Transformer Networks, arXiv:1506.02025, as Pretraining with Hard Views, appendix
G.1, trains it against DINO.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewstore.errors import ConfigError

Mode = Literal[
    "translation_scale_symmetric",
    "translation_scale",
    "rotation_translation",
    "rotation_translation_scale",
    "rotation_translation_scale_symmetric",
    "affine",
]
AFFINE = ("t11", "t12", "t13", "t21", "t22", "t23")
# The parameters of each mode in their order. s is both of sx and sy.
PARAMETERS: Mapping[Mode, tuple[str, ...]] = {
    "translation_scale_symmetric": ("tx", "ty", "s"),
    "translation_scale": ("tx", "ty", "sx", "sy"),
    "rotation_translation": ("a", "tx", "ty"),
    "rotation_translation_scale": ("a", "tx", "ty", "sx", "sy"),
    "rotation_translation_scale_symmetric": ("a", "tx", "ty", "s"),
    "affine": AFFINE,
}
ONES = {"s", "sx", "sy", "t11", "t22"}  # parameters that are 1 in the identity; others are 0
WIDTH, GRID, HIDDEN = 32, 8, (128, 64)
LEAST_SIZE, MAX_SIZE, MAX_VIEWS = 4, 4096, 64


@dataclass(frozen=True, kw_only=True)
class TransformerShape:
    """What a spatial transformer needs besides its weights.

    Attributes:
        size: Side of the images that it looks at and of global views, in pixels.
        local_size: Side of local views.
        n_globals, n_locals: Number of views of either kind; global ones come first.
        mode: What a transform is made of, a key of PARAMETERS.
        theta_norm: Divide each row of a transform by its L1 norm where that is above 1: the view
            then lies within the image.
        bounded: Put tanh on all parameters but the angle; the start is then not the identity.
        separate: Give each view a trunk of its own.
        batch_norm: Whether trunks have batch norms.

    Raises:
        ConfigError: A value is out of range.
    """

    size: int
    local_size: int
    n_globals: int = 2
    n_locals: int = 8
    mode: Mode = "translation_scale_symmetric"
    theta_norm: bool = True
    bounded: bool = False
    separate: bool = False
    batch_norm: bool = True

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ConfigError(f"mode must be one of {', '.join(PARAMETERS)}, got {self.mode!r}")
        for name, value in (("size", self.size), ("local_size", self.local_size)):
            if not LEAST_SIZE <= value <= MAX_SIZE:
                raise ConfigError(f"{name} must be in [{LEAST_SIZE}, {MAX_SIZE}], got {value}")
        for name, value in (("n_globals", self.n_globals), ("n_locals", self.n_locals)):
            if not 0 <= value <= MAX_VIEWS:
                raise ConfigError(f"{name} must be in [0, {MAX_VIEWS}], got {value}")
        if not self.views:
            raise ConfigError("a spatial transformer has at least one view, got none")

    @property
    def views(self) -> int:
        """Number of all views."""
        return self.n_globals + self.n_locals

    @property
    def rotates(self) -> bool:
        """Whether views may be turned, and have no box in the image."""
        return not set(PARAMETERS[self.mode]) <= {"tx", "ty", "s", "sx", "sy"}


class SpatialTransformer(nn.Module):
    """Maps images to one affine transform a view, [[sx cos a, -sx sin a, tx], [sy sin a, ..]].

    Attributes:
        shape: Its settings.
    """

    KIND = "stn"

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.shape = shape
        count = shape.views if shape.separate else 1
        self.trunks = nn.ModuleList(_trunk(shape.batch_norm) for _ in range(count))
        self.heads = nn.ModuleList(_head(PARAMETERS[shape.mode]) for _ in range(shape.views))

    def forward(self, x: Tensor) -> Tensor:
        """Return the transforms of all views, [B, V, 2, 3], of images in [0, 1], [B, 3, S, S]."""
        seen = [trunk(x) for trunk in self.trunks]
        seen *= len(self.heads) // len(seen)
        out = [head(each) for head, each in zip(self.heads, seen, strict=True)]
        return self.transforms(torch.stack(out, 1))

    def transforms(self, parameters: Tensor) -> Tensor:
        """Return the transforms [..., 2, 3] of parameters [..., P] in the order of the mode."""
        names = PARAMETERS[self.shape.mode]
        found = dict(zip(names, parameters.unbind(-1), strict=True))
        if self.shape.bounded:
            found = {name: v if name == "a" else v.tanh() for name, v in found.items()}
        theta = _theta(found)
        if self.shape.theta_norm:
            theta = theta / theta.abs().sum(-1, keepdim=True).clamp(min=1)
        return theta

    def cut(self, x: Tensor, theta: Tensor, size: int) -> Tensor:
        """Return the views [B, C, size, size] of images [B, C, S, S] by transforms [B, 2, 3].

        Bilinear; -1 and 1 are the edges of the image. What lies outside repeats the border.
        """
        grid = F.affine_grid(theta, [len(x), x.shape[1], size, size], align_corners=False)
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _trunk(batch_norm: bool) -> nn.Sequential:
    """Return what sees an image, [B, 3, S, S] to [B, 2048]."""
    layers: list[nn.Module] = []
    for inputs, then in ((3, nn.MaxPool2d(2)), (WIDTH, nn.AdaptiveAvgPool2d(GRID))):
        layers.append(nn.Conv2d(inputs, WIDTH, 3, padding=2))
        if batch_norm:
            layers.append(nn.BatchNorm2d(WIDTH))
        layers += [nn.LeakyReLU(), then]
    return nn.Sequential(*layers, nn.Flatten())


def _head(names: tuple[str, ...]) -> nn.Sequential:
    """Return what makes of that the parameters of a view, which begin as the identity's."""
    first, second = HIDDEN
    last = nn.Linear(second, len(names))
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([float(name in ONES) for name in names]))
    return nn.Sequential(
        nn.Linear(WIDTH * GRID**2, first),
        nn.LeakyReLU(),
        nn.Linear(first, second),
        nn.LeakyReLU(),
        last,
    )


def _theta(found: Mapping[str, Tensor]) -> Tensor:
    """Return transforms [..., 2, 3] of parameters [...] by name."""
    if AFFINE[0] in found:
        rows = [[found[name] for name in AFFINE[:3]], [found[name] for name in AFFINE[3:]]]
        return torch.stack([torch.stack(row, -1) for row in rows], -2)
    none = torch.zeros_like(found["tx"])
    angle = found.get("a", none)
    both = found.get("s", none + 1)
    sx, sy = found.get("sx", both), found.get("sy", both)
    rows = [
        [sx * angle.cos(), -sx * angle.sin(), found["tx"]],
        [sy * angle.sin(), sy * angle.cos(), found["ty"]],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


class Crops(NamedTuple):
    """Ranges of what crops are to be: the share of the image's area, [2]."""

    low: float
    high: float


CROPS = {"global": Crops(0.4, 1.0), "local": Crops(0.05, 0.4)}  # those of DINO
CENTRE_POWER = 0.125


def theta_crops_penalty(theta: Tensor, wanted: Tensor) -> Tensor:
    """Return how far transforms are from crops of drawn areas and places, a scalar (TCP).

    huber(|det|, a) + huber((1 - |tx| / 2) (1 - |ty| / 2), b), averaged; huber's delta is 1.

    Args:
        theta: [..., 2, 3].
        wanted: a and b, [..., 2]: see `wanted_crops`.
    """
    area = torch.linalg.det(theta[..., :2]).abs()
    centre = (1 - theta[..., 0, 2].abs() / 2) * (1 - theta[..., 1, 2].abs() / 2)
    found = torch.stack([area, centre], -1)
    return F.huber_loss(found, wanted, reduction="none").sum(-1).mean()


def wanted_crops(uniform: Tensor, crops: Crops) -> Tensor:
    """Return areas in [low, high] and centres in [low^.125, high^.125], of numbers [..., 2]."""
    low = uniform.new_tensor([crops.low, crops.low**CENTRE_POWER])
    high = uniform.new_tensor([crops.high, crops.high**CENTRE_POWER])
    return low + uniform * (high - low)


def identity_penalty(theta: Tensor) -> Tensor:
    """Return the mean squared difference of transforms [..., 2, 3] from the identity, a scalar."""
    return (theta - theta.new_tensor([[1, 0, 0], [0, 1, 0]])).square().mean()
