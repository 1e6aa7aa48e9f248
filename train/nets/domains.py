"""Batch norms of two domains, clean and adversarial, and forwards that leave no trace in them.

Source: AdvProp, arXiv:1911.09665: adversarial images have statistics, and here weights too, of
their own. A network whose norms are layer norms has one domain.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from viewstore.errors import ConfigError

Domain = Literal["clean", "adv"]


class DomainNorm(_BatchNorm):
    """What `add_domain` makes of a batch norm: its own tensors are clean, those of `adv` not."""

    adv: nn.Module
    domain: Domain = "clean"

    def forward(self, input: Tensor) -> Tensor:
        if self.domain == "adv":
            out: Tensor = self.adv(input)
            return out
        return super().forward(input)


@cache
def _with_domain(kind: type[_BatchNorm]) -> type[_BatchNorm]:
    return type(f"Domain{kind.__name__}", (DomainNorm, kind), {})


def add_domain(module: nn.Module) -> None:
    """Give each batch norm of `module` a second domain, which starts as a copy of the first.

    In place, for every subclass of torch's batch norms; names of the clean tensors stay, those of
    the others are NORM.adv.*. Norms that have two domains are left alone. Batch norms that are to
    be synchronised must be converted before.
    """
    for norm in _norms(module):
        if not isinstance(norm, DomainNorm):
            adv = deepcopy(norm)
            norm.__class__ = _with_domain(type(norm))  # type: ignore[arg-type]
            norm.adv = adv


@contextmanager
def use_domain(module: nn.Module, domain: Domain) -> Iterator[None]:
    """Run forwards of the block in a domain.

    Raises:
        ConfigError: There is no such domain, or a batch norm lacks it.
    """
    if domain not in ("clean", "adv"):
        raise ConfigError(f"batch norm domain must be clean or adv, got {domain!r}")
    norms = _norms(module)
    found = [norm for norm in norms if isinstance(norm, DomainNorm)]
    if domain == "adv" and len(found) < len(norms):
        raise ConfigError(
            "the network has no batch norm domain adv",
            fix="give its batch norms a second domain with add_domain before the training",
        )
    before = [norm.domain for norm in found]
    try:
        for norm in found:
            norm.domain = domain
        yield
    finally:
        for norm, one in zip(found, before, strict=True):
            norm.domain = one


def clean_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the state of `module` without the adversarial domain."""
    others = tuple(
        f"{name}.adv." if name else "adv."
        for name, norm in module.named_modules()
        if isinstance(norm, DomainNorm)
    )
    return {name: v for name, v in module.state_dict().items() if not name.startswith(others)}


@contextmanager
def quiet_statistics(module: nn.Module) -> Iterator[None]:
    """Leave running statistics and random generators as they are while the block runs forwards.

    In both domains. Normalisation is that of the norm's mode: by the batch in training, by the
    running statistics in evaluation.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    tracking = [norm.track_running_stats for norm in norms]
    devices = {p.device for p in module.parameters() if p.device.type == "cuda"}
    try:
        for norm in norms:
            # In evaluation mode the running statistics are what is used: keep reading them.
            norm.track_running_stats = not norm.training
        with torch.random.fork_rng(list(devices)):
            yield
    finally:
        for norm, before in zip(norms, tracking, strict=True):
            norm.track_running_stats = before


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Have a block run in evaluation mode; every module's mode is restored behind it."""
    before = [(each, each.training) for each in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for each, training in before:
            each.training = training


def _norms(module: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms of `module`, without those that are the second domain of another."""
    found = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    inner = {id(norm.adv) for norm in found if isinstance(norm, DomainNorm)}
    return [norm for norm in found if id(norm) not in inner]
