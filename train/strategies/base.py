"""The contract of a strategy: it turns the views of a batch into weighted ordered pairs.

A new strategy is one file with a frozen settings dataclass and one row in `methods.py`.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch

from viewstore.errors import ConfigError
from viewstore.train.losses import Negatives
from viewstore.train.methods.base import Method, Pool, Traits
from viewstore.train.objective import Plan, Term
from viewstore.train.views import ViewBatch, ViewSpec


class Strategy(Protocol):
    """What the training loop asks of a strategy; the settings of one are its attributes.

    Class attributes:
        NAME: Its name on the command line.
        NEGATIVES: The negatives of the loss in its paper: the default of methods with a choice.
        USE: What it makes of the views, as the end of a sentence: "a2, which ...".
    """

    NAME: ClassVar[str]
    NEGATIVES: ClassVar[Negatives]
    USE: ClassVar[str]

    def check(self, traits: Traits) -> None:
        """Raise ConfigError if it cannot train a method of these traits. No data was read yet."""

    def request(self, traits: Traits, step: int) -> ViewSpec:
        """Return the views that the strategy wants at `step`, from 0; depends on nothing else."""

    def plan(self, vb: ViewBatch, method: Method) -> Plan:
        """Return the pairs to train on. Changes no state, and draws from keyed streams only."""


def refuse(strategy: str, traits: Traits, *, trait: str, fix: str) -> ConfigError:
    """Return the ConfigError for a strategy that a trait of a method rules out."""
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
    """Return the plan of pairs of `views`, the numbers of views in the batch.

    `pairs`: (student, target, weight, term); student and target are positions in `views`.
    """
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
