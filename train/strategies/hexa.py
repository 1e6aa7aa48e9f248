"""HEXA: hard examples of each step, adversarial and mixed, learn from the clean views' targets.

Source: Pre-training with Hard Examples, equation 10 and algorithms 1 and 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.train.methods.base import Method
from viewstore.train.methods.traits import Traits
from viewstore.train.plan import Plan, Row
from viewstore.train.strategies.adversarial import Attack, attackable
from viewstore.train.strategies.base import Phase, Slot, Stage, refuse, wrong_views
from viewstore.train.strategies.cutmix import CutMix
from viewstore.train.strategies.rows import made_row
from viewstore.train.strategies.unused import refuse_unused
from viewstore.train.views import Views

MADE_BEFORE = ("adversarial", "cutmix")  # roles of views that need not be made in the step


@dataclass(frozen=True, kw_only=True)
class Hexa(Attack, CutMix, Stage):
    """Adds a1 times the loss of attacked rows and a2 times that of mixed rows.

    Only what the student embeds is attacked and mixed; targets are those of the clean views. The
    defaults are the paper's HEXA; a2 = 1 beside them its HEXA+. Views of role adversarial among
    those of the loader are taken in place of an attack; those of role cutmix in place of mixing,
    for methods whose targets are prototypes.

    Attributes:
        a1: Weight of the adversarial rows.
        a2: Weight of the mixed rows.
    """

    NAME: ClassVar[str] = "hexa"
    USE: ClassVar[str] = "trains on attacked views too"
    PHASE: ClassVar[Phase] = "derive"

    a1: float = 1.0
    a2: float = 0.0

    def __post_init__(self) -> None:
        Attack.__post_init__(self)
        CutMix.__post_init__(self)
        for name in ("a1", "a2"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not self.mixes:
            refuse_unused(self, vars(CutMix()), "a2 is 0, and no view is mixed")
        if not self.adversarial:
            refuse_unused(self, vars(Attack()), "a1 is 0, and no view is attacked")

    @property
    def adversarial(self) -> bool:
        """Whether attacked rows are trained on, or mixed."""
        return self.a1 > 0 or (self.mixes and self.cutmix_on != "clean")

    @property
    def mixes(self) -> bool:
        """Whether views of two samples are mixed."""
        return self.a2 > 0

    @property
    def repeats_base(self) -> bool:
        """Whether there are attacked or mixed rows."""
        return self.adversarial or self.mixes

    def takes(self, roles: Sequence[str]) -> tuple[int, ...]:
        """Return the views that were attacked or mixed before."""
        return tuple(view for view, role in enumerate(roles) if role in MADE_BEFORE)

    def check(self, traits: Traits, slots: Sequence[Slot]) -> None:
        """Raise ConfigError: a method whose targets cannot be kept, or cannot be mixed."""
        if not traits.samplewise:
            raise refuse(
                self.NAME,
                traits,
                why="its loss is no sum over samples (samplewise): no sample has one to raise",
                fix="use --method moco-v2, or --strategy standard",
            )
        if self.mixes and not traits.decomposable and traits.target != "prototype":
            raise refuse(
                "hexa with a2 above 0",
                traits,
                why="mixed views learn from two embeddings (decomposable) or from two labels "
                f"(target), and its targets are neither: {traits.target}",
                fix="use --set strategy.a2=0",
            )
        self._check_attacked(slots)
        self._check_mixed(traits, slots)

    def _check_mixed(self, traits: Traits, slots: Sequence[Slot]) -> None:
        mixed = [slot for slot in slots if slot.role == "cutmix"]
        if not mixed:
            return
        if traits.target != "prototype":
            raise wrong_views(
                f"{mixed[0].name or 'a view'} has role cutmix: the samples that its views are "
                "mixed with are not in the batch, so that no pair can have their targets",
                slots,
                "simclr,simclr",
                "; and use --strategy hexa --set strategy.a2=1 to mix them while training",
            )
        clean = [n for n, slot in enumerate(slots) if slot.role in ("expert", "global", "local")]
        of = [slot.parent_slot for slot in mixed]
        if not self.mixes or len(set(of)) < len(of) or not set(of) <= set(clean):
            raise wrong_views(
                f"{mixed[0].name or 'a view'} has role cutmix, and strategy hexa would not train "
                "on each of its views",
                slots,
                "simclr,simclr,cutmix/0,cutmix/1",
                " with --set strategy.a2=1",
            )
        refuse_unused(self, sorted(vars(CutMix())), "its views were mixed before")

    def _check_attacked(self, slots: Sequence[Slot]) -> None:
        attacked = [view for view, slot in enumerate(slots) if slot.role == "adversarial"]
        clean = [n for n, slot in enumerate(slots) if slot.role in ("expert", "global", "local")]
        largest = max((slots[view].size for view in clean), default=0)
        wanted = [v for v in clean if self.attack_sizes == "all" or slots[v].size == largest]
        # The first one made of a view is its own, as of `Views.child`.
        own = {slots[view].parent_slot: view for view in reversed(attacked)}
        for view in wanted if attacked and self.adversarial else ():
            if view not in own:
                raise wrong_views(
                    f"where views were attacked before, strategy hexa needs one of each view that "
                    f"trains, got none of view {view}",
                    slots,
                    "simclr,simclr",
                    ", and let it attack them itself",
                )
        used = {own.get(view) for view in wanted} if self.adversarial else set()
        if spare := sorted(set(attacked) - used):
            raise wrong_views(
                f"{slots[spare[0]].name or 'view'} (number {spare[0]}) has role adversarial, and "
                "strategy hexa would not train on it",
                slots,
                "simclr,simclr",
            )
        if attacked:
            idle = set(vars(Attack())) - {"attack_sizes"}
            refuse_unused(self, sorted(idle), "its views were attacked before")

    def __call__(self, plan: Plan, method: Method) -> Plan:
        """Return the plan with the attacked and mixed rows, and their pairs."""
        base = [(place, row) for place, row in enumerate(plan.students[: plan.base_students])]
        attacked: list[tuple[int, Row]] = []
        if self.adversarial:
            plan, attacked = self._attacked_rows(plan, method)
        if self.a1:
            plan = _with_pairs(plan, attacked, self.a1)
        if plan.views.of("cutmix"):
            return self.stored(plan, self._mixed_before(plan), self.a2)
        if self.mixes:
            mixed = {"clean": base, "adv": attacked, "both": [*base, *attacked]}[self.cutmix_on]
            plan = self.mixed(plan, mixed, self.a2)
        return plan

    def _mixed_before(self, plan: Plan) -> list[tuple[int, int | Tensor]]:
        """Return the places of base rows that have a mixed view in the batch, and these views."""
        child = plan.views.child("cutmix").to(plan.views.sample.device)
        found: list[tuple[int, int | Tensor]] = []
        for place, row in enumerate(plan.students[: plan.base_students]):
            view = child[torch.as_tensor(row.view)]
            if bool((view >= 0).all()):
                found.append((place, view if view.ndim else int(view)))
        return found

    def _attacked_rows(self, plan: Plan, method: Method) -> tuple[Plan, list[tuple[int, Row]]]:
        """Return the plan with attacked views, and a row of each beside its clean row's place."""
        rows = plan.students[: plan.base_students]
        places = attackable(plan.views, rows, self.attack_sizes)
        if plan.views.of("adversarial"):
            child = plan.views.child("adversarial").to(plan.views.sample.device)
            cached = [child[torch.as_tensor(rows[place].view)] for place in places]
            shown = [view if view.ndim else int(view) for view in cached]
            return replace(plan, log={**plan.log, **_age(plan.views)}), [
                (place, Row(view, bn="adv", made_from=place))
                for place, view in zip(places, shown, strict=True)
            ]
        views, found = plan.views, []
        for place, levels in zip(places, self.attacked(plan, method, places), strict=True):
            views, row = made_row(
                views, rows[place], levels, "adversarial", made_from=place, bn="adv"
            )
            found.append((place, row))
        return replace(plan, views=views), found


def _age(views: Views) -> dict[str, Tensor]:
    """Return "adv_age": steps done since those behind the weights that views were attacked with.

    It is a number of the log, and means something where the two are of one training; nothing
    where views do not say their "model_step".
    """
    params = views.params[views.of("adversarial")[0]]
    if "model_step" not in params:
        return {}
    steps = torch.as_tensor(params["model_step"]).float()
    known = steps[steps >= 0]
    return {"adv_age": views.at.step - known.mean()} if len(known) else {}


def _with_pairs(plan: Plan, rows: Sequence[tuple[int, Row]], weight: float) -> Plan:
    """Return the plan with rows in the place of base rows that they are made from, at a weight."""
    first = len(plan.students)
    pairs = [
        replace(pair, student=first + number, weight=weight * pair.weight)
        for number, (place, _) in enumerate(rows)
        for pair in plan.pairs
        if pair.student == place and plan.is_base(pair)
    ]
    students = (*plan.students, *(row for _, row in rows))
    return replace(plan, students=students, pairs=(*plan.pairs, *pairs))
