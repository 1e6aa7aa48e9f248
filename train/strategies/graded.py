"""Graded similarity: two views are drawn together as far as their crops overlap, no further.

Source: Rappange, Graded Similarity (2024), equations 4 to 10 and appendix C.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.train.methods.base import Method
from viewstore.train.methods.traits import Traits
from viewstore.train.overlap import ioa, iou
from viewstore.train.plan import AlignScale, Pair, Plan, Row, graded, pull, total
from viewstore.train.strategies.base import Phase, Slot, Stage, refuse, wrong_views
from viewstore.train.strategies.candidates import BOX

Measure = Literal["ioa", "iou"]
MEASURES: Mapping[Measure, Callable[[Tensor, Tensor], Tensor]] = {"ioa": ioa, "iou": iou}


@dataclass(frozen=True, kw_only=True)
class Graded(Stage):
    """Grades every pair of the method's loss by psi = min(overlap / lambda, 1).

    The plan's log has "psi", its mean over samples and pairs.

    Attributes:
        lambda_: Overlap from which on views are to be alike; 0: all are.
        measure: "ioa" is the share of the student's crop that the target's covers; "iou" the
            intersection over the union of the two.
        align_scale: "paper" multiplies the squared distance by 1 / temperature, or by 1; "exact"
            by what makes psi = 1 the method's own loss.
        allow_scale_change: Train where the paper's factor is not the method's own: mostly twice
            its gradient of alignment, as if with twice the learning rate.
    """

    NAME: ClassVar[str] = "graded"
    USE: ClassVar[str] = "draws views together as far as their crops overlap"
    PHASE: ClassVar[Phase] = "weigh"

    lambda_: float = 0.5
    measure: Measure = "ioa"
    align_scale: AlignScale = "paper"
    allow_scale_change: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.lambda_ <= 1:
            raise ConfigError(f"lambda must be in [0, 1], got {self.lambda_}")
        for name, kind in (("measure", Measure), ("align_scale", AlignScale)):
            if getattr(self, name) not in get_args(kind):
                words = " or ".join(get_args(kind))
                raise ConfigError(f"{name} must be {words}, got {getattr(self, name)!r}")

    @property
    def columns(self) -> tuple[str, ...]:
        """The boxes of the crops."""
        return (BOX,)

    def check(self, traits: Traits, slots: Sequence[Slot]) -> None:
        """Raise ConfigError: no distance to grade, no crop of a sample, or another scale."""
        if not traits.decomposable:
            raise refuse(
                self.NAME,
                traits,
                why="its loss has no part that draws a pair together alone (decomposable)",
                fix="use --method simsiam, or another --strategy",
            )
        self._check_scale(traits)
        for slot in slots:
            named = slot.name or slot.role
            if slot.role == "generated":
                raise wrong_views(
                    f"strategy graded compares crops of a sample, and {named} is none",
                    slots,
                    "simclr,simclr",
                    "; or use --strategy without graded",
                )
            if BOX not in slot.columns:
                raise ConfigError(
                    f"strategy graded reads the column {BOX}, which {named} lacks",
                    where=f"--views, of which {named} is one",
                    why=f"its columns are {', '.join(sorted(slot.columns)) or 'none'}",
                    fix="name views that record their crops, or use --strategy standard",
                )

    def _check_scale(self, traits: Traits) -> None:
        if self.align_scale == "exact" or self.allow_scale_change:
            return
        own = traits.scale / 2
        if not math.isclose(traits.inverse_tau, own):
            raise refuse(
                "graded with align_scale paper",
                traits,
                why=f"at psi = 1 it would draw views together {traits.inverse_tau / own:.3g} times "
                "as strongly as the method does: as if with another learning rate (scale)",
                fix="use --set strategy.align_scale=exact, or, for the paper's own runs, "
                "--set strategy.allow_scale_change=true",
            )

    def __call__(self, plan: Plan, method: Method) -> Plan:
        """Return the plan with graded pairs; negative cosines, of other strategies, stay."""
        places = [n for n, pair in enumerate(plan.pairs) if pair.term in (total, pull)]
        pairs, values = list(plan.pairs), []
        for place in places:
            psi = self._psi(plan, plan.pairs[place])
            term = graded(psi, self.align_scale, push=pairs[place].term is total)
            pairs[place] = replace(pairs[place], term=term)
            values.append(psi)
        log = {**plan.log, "psi": torch.stack(values).mean()} if values else plan.log
        return replace(plan, pairs=tuple(pairs), log=log)

    def _psi(self, plan: Plan, pair: Pair) -> Tensor:
        """Return how similar each sample's views of a pair are to become, float32 [B]."""
        assert pair.target is not None

        def box(row: Row) -> Tensor:
            return plan.views.column(BOX, row.view)

        overlap = MEASURES[self.measure](
            box(plan.students[pair.student]), box(plan.targets[pair.target])
        )
        if self.lambda_ == 0:
            return torch.ones_like(overlap)
        return (overlap / self.lambda_).clamp(max=1)
