"""A2: the standard loss of two expert views, plus their alignment with generated views.

Source: Constructive Assimilation, equations 3 (A2-InfoNCE) and 6 (A2-full; its double minus is a
misprint). "A2-SimCLR" is the method's `negatives="both"`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from viewstore.errors import ConfigError
from viewstore.train.losses import Negatives
from viewstore.train.methods.base import Method, Traits
from viewstore.train.objective import Plan, Term
from viewstore.train.strategies.base import make_plan, refuse
from viewstore.train.views import ViewBatch, ViewSpec


@dataclass(frozen=True, kw_only=True)
class A2:
    """The strategy A2: the first two expert views are the pair, all others are aligned with it.

    Attributes:
        alpha: Weight of the alignment term.
        anchors: Expert views that are aligned with each other view: "both" (the paper), or the
            "first" (the code behind its CIFAR-10 numbers).
        loss: "align" (A2-InfoNCE, A2-SimCLR), or "full": every ordered pair of views, with every
            view of every sample in the denominator; `alpha` and `anchors` do not enter.
    """

    NAME: ClassVar[str] = "a2"
    NEGATIVES: ClassVar[Negatives] = "other"
    USE: ClassVar[str] = (
        "takes the first two expert views as its pair, and aligns the others with it"
    )

    alpha: float = 0.5
    anchors: Literal["both", "first"] = "both"
    loss: Literal["align", "full"] = "align"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < float("inf"):
            raise ConfigError(f"alpha must be at least 0, got {self.alpha}")
        if self.anchors not in ("both", "first"):
            raise ConfigError(f"anchors must be both or first, got {self.anchors!r}")
        if self.loss not in ("align", "full"):
            raise ConfigError(f"a2 loss must be align or full, got {self.loss!r}")

    def check(self, traits: Traits) -> None:
        """Raise ConfigError: the method's scores have no parts, or lack the pool of "full"."""
        if self.loss == "full" and traits.name != "simclr":
            raise refuse(
                "a2 with loss full",
                traits,
                trait="its denominator runs over all views of the batch",
                fix="use --method simclr, or leave out --a2-loss full",
            )
        if not traits.decomposable:
            raise refuse(
                self.NAME,
                traits,
                trait="its scores do not come as pull and push (decomposable), and the alignment "
                "term is a pull alone",
                fix="use --method simclr, or --strategy standard",
            )

    def request(self, traits: Traits, step: int) -> ViewSpec:
        """Return the wanted views: two expert views and at least one other, at every step."""
        return ViewSpec(least=3, roles={"expert": 2})

    def plan(self, vb: ViewBatch, method: Method) -> Plan:
        """Return the pair in both directions, then each other view towards each anchor."""
        experts = vb.rows("expert")[:2]
        others = [view for view in range(vb.num_views) if view not in experts]
        views = experts + others
        if self.loss == "full":
            every = [(s, t) for s in range(len(views)) for t in range(len(views)) if s != t]
            return make_plan(
                vb, views, [(s, t, 1 / len(every), "total") for s, t in every], pool="all"
            )
        pairs: list[tuple[int, int, float, Term]] = [(0, 1, 0.5, "total"), (1, 0, 0.5, "total")]
        anchors = (0, 1) if self.anchors == "both" else (0,)
        weight = self.alpha / (len(anchors) * len(others))
        # From the other view to the expert: the direction for methods that stop gradients.
        pairs += [(2 + g, anchor, weight, "pos") for anchor in anchors for g in range(len(others))]
        return make_plan(vb, views, pairs)
