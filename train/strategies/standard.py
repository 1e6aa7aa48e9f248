"""The strategy `standard`: the two views of a sample are a pair, in both directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from viewstore.train.losses import Negatives
from viewstore.train.methods.base import Method, Traits
from viewstore.train.objective import Plan
from viewstore.train.strategies.base import make_plan
from viewstore.train.views import ViewBatch, ViewSpec


@dataclass(frozen=True, kw_only=True)
class Standard:
    """The strategy that trains on two views of any role, each the other's target at weight 1/2."""

    NAME: ClassVar[str] = "standard"
    NEGATIVES: ClassVar[Negatives] = "both"
    USE: ClassVar[str] = "takes two views of any role as its pair"

    def check(self, traits: Traits) -> None:
        """Accept every method."""

    def request(self, traits: Traits, step: int) -> ViewSpec:
        """Return the wanted views: two, at every step."""
        return ViewSpec(least=2, most=2)

    def plan(self, vb: ViewBatch, method: Method) -> Plan:
        """Return the pairs (0, 1) and (1, 0)."""
        return make_plan(vb, [0, 1], [(0, 1, 0.5, "total"), (1, 0, 0.5, "total")])
