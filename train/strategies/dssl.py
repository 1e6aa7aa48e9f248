"""DSSL: heavily augmented views learn from the standard views that they were made from.

Source: Directional Self-supervised Learning for Heavy Image Augmentations (arXiv:2110.13555),
equations 2 to 6, algorithm 1 and its code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.train.methods.base import Method
from viewstore.train.methods.traits import Traits
from viewstore.train.plan import Pair, Plan, Row, cosine, total
from viewstore.train.strategies.base import Phase, Slot, Stage, refuse, wrong_views
from viewstore.train.strategies.unused import refuse_unused
from viewstore.train.views import Views

Norm = Literal["code", "algorithm1", "sum"]
Derive = Literal["from_view", "from_sample"]
Targets = Literal["parent", "all"]
FACTORS: dict[Norm, float] = {"code": 1.0, "algorithm1": 0.5, "sum": 2.0}
CLEAN = ("expert", "global")
EXAMPLE = "simclr,simclr,ra16/0,ra16/1"


@dataclass(frozen=True, kw_only=True)
class DSSL(Stage):
    """Adds heavy views: alpha LS(v1, v2) + beta LS(h1, h2) + gamma LA(h -> v) + delta LA(v -> h).

    LS is the method's loss of two views, LA(h -> v) the negative cosine that draws each heavy view
    to its standard view, or, of methods without negatives, their own loss of that pair.

    Attributes:
        alpha, beta, gamma, delta: Weights of the four parts; the paper's "fair" has all at 1.
        soft: Share r of the reverse direction: gamma is 1 - r and delta r. 0.1 in the code for
            CIFAR.
        norm: Weight of each term of the form -cos: 1/2 (the "code"), 1/4 ("algorithm1") or 1 (the
            "sum" of equations 2, 4 and 5). Losses of other forms change by the same factor.
        derive: A heavy view belongs to the view that it was made from, or, where it was made
            "from_sample", the i-th heavy view to the i-th standard view.
        heavy_views: Whether the first row, or the first 2, of the method's plan have a heavy view.
        target_grad: Send gradients into the target as the method does (the paper); else none.
        targets: A heavy view learns from its "parent", or from "all" targets of the method's
            plan, with the same weight in all.
    """

    NAME: ClassVar[str] = "dssl"
    USE: ClassVar[str] = "draws heavy views to the standard views that they were made from"
    PHASE: ClassVar[Phase] = "derive"

    alpha: float = 1.0
    beta: float = 0.0
    gamma: float = 1.0
    delta: float = 0.0
    soft: float = 0.0
    norm: Norm = "code"
    derive: Derive = "from_view"
    heavy_views: Literal[1, 2] = 2
    target_grad: bool = False
    targets: Targets = "parent"

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "gamma", "delta"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.soft <= 1:
            raise ConfigError(f"soft must be in [0, 1], got {self.soft}")
        if self.soft and (self.gamma, self.delta) != (1, 0):
            raise ConfigError(
                "soft sets gamma and delta: it cannot be given beside them",
                why=f"gamma is {self.gamma}, delta is {self.delta}",
                fix="leave out --set strategy.soft=.., or gamma and delta",
            )
        for name, kind in (("norm", Norm), ("derive", Derive), ("targets", Targets)):
            if getattr(self, name) not in get_args(kind):
                words = ", ".join(get_args(kind))
                raise ConfigError(f"{name} must be one of {words}, got {getattr(self, name)!r}")
        if self.heavy_views not in (1, 2):
            raise ConfigError(f"heavy_views must be 1 or 2, got {self.heavy_views!r}")
        if self.heavy_views == 1 and self.beta:
            raise ConfigError(
                f"beta weighs a loss of two heavy views, and heavy_views is 1: it must be 0, "
                f"got {self.beta}"
            )
        if not any(self.weights):
            raise ConfigError("alpha, beta, gamma and delta are all 0: nothing is trained")
        if not self.weights[2]:
            refuse_unused(self, ["targets"], "gamma is 0, and heavy views learn from no target")

    @property
    def drops_base(self) -> bool:
        """Whether LS(v1, v2) has no weight."""
        return not self.alpha

    @property
    def weights(self) -> tuple[float, float, float, float]:
        """Weights of LS(v1, v2), LS(h1, h2), LA(h -> v) and LA(v -> h)."""
        directed = (1 - self.soft, self.soft) if self.soft else (self.gamma, self.delta)
        factor = FACTORS[self.norm]
        return tuple(factor * each for each in (self.alpha, self.beta, *directed))  # type: ignore[return-value]

    def takes(self, roles: Sequence[str]) -> tuple[int, ...]:
        """Return the heavy views."""
        return tuple(view for view, role in enumerate(roles) if role == "heavy")

    def check(self, traits: Traits, slots: Sequence[Slot]) -> None:
        """Raise ConfigError: a standard view without a heavy one, or parts the method lacks."""
        _, beta, gamma, delta = self.weights
        if not (beta or gamma or delta):
            raise ConfigError(
                "strategy dssl has beta, gamma and delta at 0: heavy views would not be trained on",
                where="--strategy dssl",
                fix="use --strategy standard without heavy views in --views, or give one a weight",
            )
        if traits.target == "prototype" and self.targets != "parent":
            raise refuse(
                f"dssl with targets {self.targets}",
                traits,
                why="no view is a target of it (target): heavy views learn a label",
                fix="use --set strategy.targets=parent, which is the default",
            )
        if traits.target == "prototype" and (beta or delta):
            raise refuse(
                "dssl with beta or delta",
                traits,
                why="no view is a target of it (target): heavy views can only learn, by gamma",
                fix="use --set strategy.beta=0 --set strategy.delta=0 --set strategy.soft=0",
            )
        roles = [slot.role for slot in slots]
        heavy, clean = self.takes(roles), _clean_views(roles, traits)
        # A chooser may take any view of more than two, and the first two otherwise.
        wanted = clean[: self.heavy_views] if len(clean) <= 2 else clean
        if self.derive == "from_sample":
            own = dict(zip(wanted, heavy, strict=False))
        else:
            self._check_parents(slots, heavy, wanted)
            # The first one made of a view is its own, as of `Views.child`.
            own = {slots[view].parent_slot: view for view in reversed(heavy)}
        lacking = [view for view in wanted if view not in own]
        if lacking or not heavy:
            named = f", got none of view {lacking[0]}" if lacking else ""
            raise wrong_views(
                f"strategy dssl needs a heavy view of each standard view that trains{named}",
                slots,
                EXAMPLE,
            )
        if spare := sorted(set(heavy) - {own[view] for view in wanted}):
            raise wrong_views(
                f"strategy dssl would not train on heavy view {spare[0]}: it has one of each "
                f"standard view that trains, which are {', '.join(map(str, wanted))}",
                slots,
                EXAMPLE,
                "; and leave out --set strategy.heavy_views=1" if self.heavy_views == 1 else "",
            )

    def _check_parents(
        self, slots: Sequence[Slot], heavy: Sequence[int], wanted: Sequence[int]
    ) -> None:
        # Heavy views are no base views: a chooser needs two others.
        by_place = len(heavy) == len(wanted) and len(slots) - len(heavy) >= 2
        for view in heavy:
            if slots[view].parent_slot < 0:
                raise wrong_views(
                    f"strategy dssl needs heavy views that are made from views of --views, "
                    f"and {slots[view].name or 'view'} (number {view}) is not",
                    slots,
                    EXAMPLE,
                    "; or give --set strategy.derive=from_sample" if by_place else "",
                )

    def __call__(self, plan: Plan, method: Method) -> Plan:
        """Return the plan with the rows and pairs of heavy views that have a weight."""
        alpha, beta, gamma, delta = self.weights
        clean = _clean_rows(plan, method.traits)[: self.heavy_views]
        heavy = self._heavy_rows(plan.views, clean, method.traits)
        rows = _Rows(plan)
        pairs = [pair for pair in plan.pairs if alpha or not plan.is_base(pair)]
        pairs = [
            replace(pair, weight=alpha * pair.weight) if plan.is_base(pair) else pair
            for pair in pairs
        ]
        if beta:
            own = method.standard(_as_clean(plan.views, clean, heavy), heavy)
            pairs += [
                rows.pair(
                    replace(pair, weight=beta * pair.weight),
                    own.students[pair.student],
                    None if pair.target is None else own.targets[pair.target],
                )
                for pair in own.pairs
            ]
        term = cosine if method.traits.negatives or not method.traits.samplewise else total
        pair = Pair(0, 0, _term_weight(plan), term, detach=not self.target_grad)
        for low, high in zip(clean, heavy, strict=True):
            if gamma:
                learnt: Sequence[Row | None] = self._learnt(plan, low)
                each = replace(pair, weight=gamma * pair.weight / len(learnt))
                pairs += [rows.pair(each, high, row) for row in learnt]
            if delta:
                pairs.append(rows.pair(replace(pair, weight=delta * pair.weight), low, high))
        return replace(
            plan, students=tuple(rows.students), targets=tuple(rows.targets), pairs=tuple(pairs)
        )

    def _learnt(self, plan: Plan, clean: Row) -> Sequence[Row | None]:
        """Return what the heavy view of a clean row learns from."""
        if not plan.targets:
            return (None,)
        return plan.targets[: plan.base_targets] if self.targets == "all" else (clean,)

    def _heavy_rows(self, views: Views, clean: Sequence[Row], traits: Traits) -> list[Row]:
        """Return the row of the heavy view of each clean row."""
        if self.derive == "from_view":
            heavy_of = views.child("heavy")
        else:
            heavy_of = torch.full((views.num_views,), -1)
            standard, heavy = _clean_views(views.role, traits), views.of("heavy")
            for view, own in zip(standard, heavy, strict=False):
                heavy_of[view] = own
        return [
            Row(int(heavy_of[row.view]))
            if isinstance(row.view, int)
            else Row(heavy_of.to(row.view.device)[row.view])
            for row in clean
        ]


def _clean_views(roles: Sequence[str], traits: Traits) -> tuple[int, ...]:
    """Return the views that heavy ones may belong to: those that the method may learn from."""
    wanted = traits.target_roles or CLEAN
    return tuple(view for view, role in enumerate(roles) if role in wanted)


def _clean_rows(plan: Plan, traits: Traits) -> list[Row]:
    """Return the rows of the standard plan that heavy ones may belong to, each once, in order."""
    wanted = traits.target_roles or CLEAN
    rows: list[Row] = []
    for row in (*plan.students[: plan.base_students], *plan.targets[: plan.base_targets]):
        if plan.views.role_of(row.view) in wanted:
            _place(rows, row)
    return rows


def _as_clean(views: Views, clean: Sequence[Row], heavy: Sequence[Row]) -> Views:
    """Return the views with heavy ones in the roles of the views that they belong to."""
    role = list(views.role)
    for low, high in zip(clean, heavy, strict=True):
        for view in torch.as_tensor(high.view).reshape(-1).tolist():
            role[view] = views.role_of(low.view)
    return replace(views, role=tuple(role))


def _term_weight(plan: Plan) -> float | Tensor:
    """Return the weight of a term beside a loss of two terms: half of what its pairs have.

    Pairs of a row with itself are not of these.
    """
    weights = [
        pair.weight for pair in plan.pairs if plan.is_base(pair) and not plan.is_within(pair)
    ]
    return sum(weights[1:], weights[0]) / 2


class _Rows:
    """The rows of a plan, to which each new one is added once."""

    def __init__(self, plan: Plan) -> None:
        self.students, self.targets = list(plan.students), list(plan.targets)

    def pair(self, pair: Pair, student: Row, target: Row | None) -> Pair:
        """Return a pair as one of these rows."""
        place = None if target is None else _place(self.targets, target)
        return replace(pair, student=_place(self.students, student), target=place)


def _place(rows: list[Row], row: Row) -> int:
    """Return the place of a row, which is added where it is not there yet."""
    if row not in rows:
        rows.append(row)
    return rows.index(row)
