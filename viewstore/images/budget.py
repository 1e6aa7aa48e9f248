"""The budget of an attack on levels: how far each value may move, and a step within that.

Source: HEXA, equations 5 to 7 and appendix A: steps of the gradient's sign, and a ball.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from viewstore.errors import ConfigError

Norm = Literal["linf", "l2"]
Units = Literal["pixel255", "unit", "normalized"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How far levels are moved, and in which steps.

    Attributes:
        norm: Of the ball: the greatest change of a value ("linf"), or the root of the sum of
            squares over an image ("l2").
        units: Of eps and step: levels ("pixel255"), values in [0, 1] ("unit"), or values of the
            network's input ("normalized").
        eps: Radius of the ball.
        step: Change of each value in one step, before it is brought back into the ball.
        steps: Number of steps.
        random_start: Start at a point of the ball, drawn by seed, sample and view; else at the
            clean levels.
    """

    norm: Norm = "linf"
    units: Units = "pixel255"
    eps: float = 1.0
    step: float = 1.0
    steps: int = 1
    random_start: bool = False

    def __post_init__(self) -> None:
        for name, kind in (("norm", Norm), ("units", Units)):
            if getattr(self, name) not in get_args(kind):
                words = " or ".join(get_args(kind))
                raise ConfigError(f"{name} must be {words}, got {getattr(self, name)!r}")
        for name in ("eps", "step"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}")
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ConfigError(f"steps must be a whole number from 1, got {self.steps!r}")

    def unit(self, std: tuple[float, ...], levels: Tensor) -> Tensor:
        """Return how many levels the unit of eps and step is, [C, 1, 1].

        `std`: That of the network's input, for values in [0, 1]; channels of `levels`,
        [.., C, H, W], that the network does not see have the unit 255.
        """
        unit = torch.full((levels.shape[-3],), 1.0 if self.units == "pixel255" else 255.0)
        if self.units == "normalized":
            unit[: len(std)] *= torch.tensor(std)
        return unit[:, None, None].to(levels.device)

    def within(self, levels: Tensor, clean: Tensor, unit: Tensor) -> Tensor:
        """Return the levels brought back into the ball around `clean`, and into [0, 255].

        `unit`: as `unit` returns it.
        """
        delta = levels - clean
        if self.norm == "linf":
            delta = torch.clamp(delta, -self.eps * unit, self.eps * unit)
        else:
            length = torch.linalg.vector_norm(delta / unit, dim=(1, 2, 3), keepdim=True)
            delta = delta * (self.eps / length.clamp(min=self.eps))
        return (clean + delta).clamp(0, 255)

    def moved(self, levels: Tensor, gradient: Tensor, clean: Tensor, unit: Tensor) -> Tensor:
        """Return the levels after a step up the gradient's sign, within the ball."""
        return self.within(levels + self.step * unit * gradient.sign(), clean, unit)

    def start(self, clean: Tensor, uniform: Tensor, unit: Tensor) -> Tensor:
        """Return each value changed uniformly by at most eps, brought into the ball.

        `uniform`: numbers in [0, 1), of the form of `clean`.
        """
        return self.within(clean + self.eps * unit * (2 * uniform - 1), clean, unit)
