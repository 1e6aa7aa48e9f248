"""LARS and LARC: SGD whose rate follows, for each tensor, the ratio of weights to gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

EPS = 1e-8  # keeps the ratio finite where gradient and weight decay are 0


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling: momentum SGD with a rate of its own for each tensor.

    With weights w, gradient g and weight decay d of one tensor, and its velocity v, from 0 on:

        ratio = trust * |w| / (|g| + d * |w| + EPS),   1 where |w| = 0
        v = momentum * v + ratio * (g + d * w)
        w = w - lr * v

    With `clip` (LARC) the ratio is min(ratio / lr, 1), so that no tensor moves faster than SGD
    moves it. Groups with "adapt" false have the ratio 1: that is SGD. `lr`, `momentum`,
    `weight_decay`, `trust`, `clip` and `adapt` may differ between groups. As in the public runs of
    SwAV and Barlow Twins, and unlike algorithm 1 of the paper, `lr` is no part of the velocity.

    Source: arXiv:1708.03888, equation 6 and algorithm 1; "LARC" is the name that its authors'
    implementations give to the clipped ratio.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
        *,
        clip: bool = False,
    ) -> None:
        """Take tensors, or groups of them as dictionaries, as optimizers of torch do."""
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust": trust,
            "clip": clip,
            "adapt": True,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; tensors without a gradient stay. Return what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)
        return loss

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        update = gradient.add(parameter, alpha=group["weight_decay"])
        if group["adapt"]:
            update.mul_(_ratio(parameter, gradient, group))
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        velocity = state["momentum_buffer"].mul_(group["momentum"]).add_(update)
        parameter.add_(velocity, alpha=-group["lr"])


def _ratio(parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
    """Return the factor of a tensor's update, a scalar; nothing waits for a GPU."""
    norm = torch.linalg.vector_norm(parameter)
    rest = torch.linalg.vector_norm(gradient) + group["weight_decay"] * norm + EPS
    ratio = group["trust"] * norm / rest
    if group["clip"]:
        ratio = (ratio / group["lr"]).clamp(max=1.0)
    return torch.where(norm > 0, ratio, torch.ones_like(ratio))
