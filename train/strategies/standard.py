"""The standard chooser: the method's own plan of all base views; multi-crop is the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from viewstore.errors import ConfigError
from viewstore.train.methods.base import Method
from viewstore.train.methods.traits import Traits
from viewstore.train.plan import Pair, Plan, Row
from viewstore.train.strategies.base import Chooser, Slot, wrong_views
from viewstore.train.views import Views

CROPS = {"global", "local"}


@dataclass(frozen=True, kw_only=True)
class Standard(Chooser):
    """Takes every base view: two of any role, more of one role, or crops of several sizes.

    Attributes:
        pairs_per_sample: 1, or 2: views 0 and 1 are one pair and views 2 and 3 another, each with
            its standard plan at half weight. That is DSSL's baseline of equal cost.
        roles: Take the views of this role alone, such as "heavy"; None takes all.
    """

    NAME: ClassVar[str] = "standard"
    USE: ClassVar[str] = "takes two views of any role as its pair"

    pairs_per_sample: Literal[1, 2] = 1
    roles: str | None = None

    def __post_init__(self) -> None:
        if self.pairs_per_sample not in (1, 2):
            raise ConfigError(f"pairs_per_sample must be 1 or 2, got {self.pairs_per_sample!r}")

    def check(self, traits: Traits, slots: Sequence[Slot]) -> None:
        """Raise ConfigError: too few views, or views of roles that make no common plan."""
        slots = [slot for slot in slots if self.roles in (None, slot.role)]
        roles = [slot.role for slot in slots]
        if self.pairs_per_sample == 2 and len(slots) != 4:
            raise wrong_views(
                f"two pairs a sample need 4 views, got {len(slots)}",
                slots,
                ",".join(["simclr"] * 4),
            )
        if len(slots) < 2:
            raise wrong_views(
                f"strategy standard trains on at least 2 views, got {len(slots)}",
                slots,
                "simclr,simclr",
            )
        if len(slots) > 2 and len(set(roles)) > 1 and not set(roles) <= CROPS:
            raise wrong_views(
                "strategy standard trains on 2 views of any role, on views of one role, or on "
                f"global and local crops, got {','.join(roles)}",
                slots,
                "simclr,simclr",
            )
        check_targets(traits, slots)

    def count(self, roles: Sequence[str]) -> int:
        """Return how many views the method's plan, or each of two, is made of."""
        return sum(self.roles in (None, role) for role in roles) // self.pairs_per_sample

    def rows(self, views: Views, method: Method) -> tuple[Row, ...]:
        """Return a row of each base view, in their order."""
        wanted = views.base if self.roles is None else views.base_of(self.roles)
        return tuple(Row(view) for view in wanted)

    def plan(self, views: Views, method: Method) -> Plan:
        """Return the method's standard plan, or the mean of two."""
        rows = self.rows(views, method)
        if self.pairs_per_sample == 1:
            return method.standard(views, rows)
        return _mean(method.standard(views, rows[:2]), method.standard(views, rows[2:]))


def check_targets(traits: Traits, slots: Sequence[Slot]) -> None:
    """Raise ConfigError where a method finds no view of a role that it learns from."""
    roles = [slot.role for slot in slots]
    if traits.target_roles and not set(roles) & set(traits.target_roles):
        raise wrong_views(
            f"method {traits.name} needs a view of role {' or '.join(traits.target_roles)} to "
            f"learn from, got {','.join(roles)}",
            slots,
            "dino,dino,dino-local,dino-local",
        )


def _mean(first: Plan, second: Plan) -> Plan:
    """Return the pairs of two plans of the same views, each at half its weight."""
    students, targets = len(first.students), len(first.targets)
    moved = [
        replace(
            pair,
            student=pair.student + students,
            target=None if pair.target is None else pair.target + targets,
        )
        for pair in second.pairs
    ]
    pairs: list[Pair] = [*first.pairs, *moved]
    return replace(
        first,
        students=first.students + second.students,
        targets=first.targets + second.targets,
        pairs=tuple(replace(pair, weight=pair.weight / 2) for pair in pairs),
        base_students=students + second.base_students,
        base_targets=targets + second.base_targets,
    )
