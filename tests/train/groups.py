"""Groups of parameters, as methods give them to an optimizer."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn


class Group(NamedTuple):
    """Parameters that are trained alike."""

    parameters: list[nn.Parameter]
    decay: bool = True
    fixed_lr: bool = False
    adapt: bool = True


def one_group(model: nn.Module) -> list[Group]:
    """Return all parameters of a model as one group."""
    return [Group(list(model.parameters()))]
