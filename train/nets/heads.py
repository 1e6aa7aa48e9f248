"""Heads behind a backbone: projectors, predictors, and prototypes of unit length."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["bn", "none"]
Activation = Literal["relu", "gelu"]


def projector(
    inputs: int,
    widths: tuple[int, ...],
    *,
    norm: Norm = "bn",
    last: Norm = "bn",
    activation: Activation = "relu",
) -> nn.Sequential:
    """Return linear layers of `widths`, each but the last followed by `norm` and `activation`.

    Layers before a batch norm have no bias. `last`: the last layer is followed by a batch norm
    without weights, or is plain, with a bias. Without `norm` there is no batch norm at all.
    """
    layers: list[nn.Module] = []
    for width in widths[:-1]:
        layers.append(nn.Linear(inputs, width, bias=norm == "none"))
        if norm == "bn":
            layers.append(nn.BatchNorm1d(width))
        layers.append(nn.ReLU() if activation == "relu" else nn.GELU())
        inputs = width
    plain = "none" in (norm, last)
    layers.append(nn.Linear(inputs, widths[-1], bias=plain))
    if not plain:
        layers.append(nn.BatchNorm1d(widths[-1], affine=False))
    return nn.Sequential(*layers)


def predictor(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Return a linear layer, batch norm, ReLU, and a linear layer with a bias.

    Source: SimSiam, arXiv:2011.10566, section 3.
    """
    return nn.Sequential(
        nn.Linear(inputs, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, outputs),
    )


class PrototypeHead(nn.Linear):
    """Cosines of inputs [..., D] with prototypes, [..., K]: a weight-normed layer whose g is 1.

    Only directions enter, so `weight` [K, D] is of any length. Source: DINO, arXiv:2104.14294,
    appendix C.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(F.normalize(input.float(), dim=-1), self.directions())

    def directions(self) -> Tensor:
        """Return the prototypes as unit vectors, float32 [K, D]."""
        return F.normalize(self.weight.float(), dim=1)


def draw_truncated(module: nn.Module) -> None:
    """Draw the weights of linear layers from N(0, 0.02), cut off at 2, with biases of 0.

    Source: DINO's backbones and heads, arXiv:2104.14294; the cut is that of timm.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
