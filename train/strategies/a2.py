"""A2: the standard plan of two expert views, plus their alignment with generated views.

Source: Constructive Assimilation, equations 3 (A2-InfoNCE), 6 (A2-full; its double minus is a
misprint), 7 (A2-SimCLR: the method's `negatives="both"`) and 8 (A2-SimSiam).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from viewstore.errors import ConfigError
from viewstore.train.methods.base import Method
from viewstore.train.methods.traits import Traits
from viewstore.train.plan import Pair, Plan, Row, pull, total
from viewstore.train.strategies.base import Phase, Slot, Stage, refuse, wrong_views
from viewstore.train.strategies.unused import refuse_unused


@dataclass(frozen=True, kw_only=True)
class A2(Stage):
    """Adds generated views as students, which are aligned with the views of the standard plan.

    They are those of role "generated"; where there is none, all expert views but the first two.
    The direction is from generated to expert view: that of methods which stop gradients.

    Attributes:
        alpha: Weight of the alignment term.
        anchors: Targets of the standard plan that each generated view is aligned with: the first
            two, "both" (the paper), or the "first" (the code behind its CIFAR-10 numbers). MoCo's
            plan of one direction has one target, the key of the second view, which is the anchor
            of either; with `symmetric` the "first" is the key of the first view.
        loss: "align", or "full": every ordered pair of views, with every view of every sample in
            the denominator; `alpha` and `anchors` do not enter.
        divide_by_k: Divide the alignment by the number of generated views (the paper), or not
            (the code of A2-SimSiam).
    """

    NAME: ClassVar[str] = "a2"
    USE: ClassVar[str] = (
        "takes the first two expert views as its pair, and aligns the others with it"
    )
    PHASE: ClassVar[Phase] = "add"

    alpha: float = 0.5
    anchors: Literal["both", "first"] = "both"
    loss: Literal["align", "full"] = "align"
    divide_by_k: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < float("inf"):
            raise ConfigError(f"alpha must be at least 0, got {self.alpha}")
        if self.anchors not in ("both", "first"):
            raise ConfigError(f"anchors must be both or first, got {self.anchors!r}")
        if self.loss not in ("align", "full"):
            raise ConfigError(f"a2 loss must be align or full, got {self.loss!r}")
        if self.loss == "full":
            refuse_unused(
                self,
                ["alpha", "anchors", "divide_by_k"],
                "loss full weighs all pairs alike",
            )

    def check(self, traits: Traits, slots: Sequence[Slot]) -> None:
        """Raise ConfigError: no loss of a pair alone, no in-batch denominator, no view to add."""
        if not traits.samplewise:
            raise refuse(
                self.NAME,
                traits,
                why="its loss is no sum over samples (samplewise): it has no term of one pair",
                fix="use --method simclr, or --strategy standard",
            )
        if self.loss == "full" and traits.negatives != "batch":
            raise refuse(
                "a2 with loss full",
                traits,
                why="its denominator runs over all views of the batch (negatives)",
                fix="use --method simclr, or leave out --a2-loss full",
            )
        if traits.target == "prototype" and self.anchors != "both":
            raise refuse(
                f"a2 with anchors {self.anchors}",
                traits,
                why="no view is a target of it (target): generated views learn a label",
                fix="use --set strategy.anchors=both, which is the default",
            )
        if not self.takes([slot.role for slot in slots]):
            raise wrong_views(
                "strategy a2 needs two views and at least one generated view beside them",
                slots,
                "simclr,simclr,w-search",
            )

    def takes(self, roles: Sequence[str]) -> tuple[int, ...]:
        """Return the generated views; if there are none, the expert views behind the second."""
        generated = [view for view, role in enumerate(roles) if role == "generated"]
        experts = [view for view, role in enumerate(roles) if role == "expert"]
        return tuple(generated or experts[2:])

    def __call__(self, plan: Plan, method: Method) -> Plan:
        """Return the plan with each added view aligned with each anchor."""
        added = tuple(Row(view) for view in self.takes(plan.views.role))
        first = len(plan.students)
        rows = range(first, first + len(added))
        students = plan.students + added
        if self.loss == "full":
            return _all_pairs(replace(plan, students=students), (*range(plan.base_students), *rows))
        count = len(added) if self.divide_by_k else 1
        if not plan.base_targets:
            aligned = [Pair(row, None, self.alpha / count) for row in rows]
        else:
            anchors = range(min(plan.base_targets, 2 if self.anchors == "both" else 1))
            weight = self.alpha / (len(anchors) * count)
            term = pull if method.traits.decomposable else total
            aligned = [Pair(row, anchor, weight, term) for anchor in anchors for row in rows]
        return replace(plan, students=students, pairs=(*plan.pairs, *aligned))


def _all_pairs(plan: Plan, rows: Sequence[int]) -> Plan:
    """Return the plan with every ordered pair of these students in place of its base pairs.

    All of them are in the denominators.
    """
    shown = [plan.students[row] for row in rows]
    targets = (*plan.targets, *(row for row in shown if row not in plan.targets))
    weight = 1 / (len(rows) * (len(rows) - 1))
    pairs = [
        Pair(s, targets.index(row), weight, pool=tuple(rows))
        for s in rows
        for row in shown
        if plan.students[s] is not row
    ]
    others = [pair for pair in plan.pairs if not plan.is_base(pair)]
    return replace(plan, targets=targets, pairs=(*others, *pairs))
