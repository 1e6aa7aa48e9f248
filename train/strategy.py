"""The contract of a strategy: it turns the views of a batch into weighted pairs.

A new strategy is one file with a frozen settings dataclass and one row in `methods.py`.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch

from viewstore.errors import ConfigError
from viewstore.train.losses import Negatives
from viewstore.train.method import Method, Pool, Traits
from viewstore.train.objective import Plan, Term
from viewstore.train.views import ViewBatch, ViewSpec


class Strategy(Protocol):
    """Chooses, replaces, adds or weighs pairs of views; its settings are its attributes.

    Class attributes:
        NAME: As on the command line.
        NEGATIVES: Those of its paper's loss, where a method lets one choose.
    """

    NAME: ClassVar[str]
    NEGATIVES: ClassVar[Negatives]

    def check(self, traits: Traits) -> None:
        """Raise ConfigError if it cannot work with such a method; called before data is read."""

    def request(self, traits: Traits, step: int) -> ViewSpec:
        """Return the views it wants at a step; depends on nothing else."""

    def plan(self, vb: ViewBatch, method: Method) -> Plan:
        """Return the pairs to train on; changes no state and draws from keyed streams only."""


def refuse(strategy: str, traits: Traits, *, trait: str, fix: str) -> ConfigError:
    """Return the error for a strategy that a trait of a method rules out."""
    return ConfigError(
        f"strategy {strategy} does not work with method {traits.name}",
        where=f"--strategy {strategy} --method {traits.name}",
        why=trait,
        fix=fix,
    )


def make_plan(
    vb: ViewBatch,
    views: list[int],
    pairs: list[tuple[int, int, float, Term]],
    *,
    pool: Pool = "pair",
) -> Plan:
    """Return the plan of pairs (student position, target position, weight, term) of `views`."""
    rows = torch.tensor(views)
    return Plan(
        views=rows,
        targets=rows,
        pairs=torch.tensor([pair[:2] for pair in pairs]),
        weight=torch.tensor([pair[2] for pair in pairs]),
        term=tuple(pair[3] for pair in pairs),
        batch=vb,
        pool=pool,
    )
