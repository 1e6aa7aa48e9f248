"""Several view sets in one slot: the set is drawn for each sample, its views go on their schedule.

To what reads and delivers them, mixed view sets are one: its views are those of the first set,
then those of the second, and so on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from viewstore.errors import ConfigError, nearest
from viewstore.format.columns import Column
from viewstore.loaders.plan.rows import Rows
from viewstore.loaders.plan.schedule import Pick, Schedule
from viewstore.randomness import Op, Stream
from viewstore.store.view_set import ViewSet

# Delivered beside the columns of the sets: the number of the set, in the order of their names.
SET_COLUMN = "x_set"

# Steps of this size, modulo 1, fill [0, 1) evenly however many are made.
GOLDEN_RATIO = 0.6180339887498949


def check_weights(weights: Mapping[str, float]) -> None:
    """Raise ConfigError unless every view set has a weight above 0."""
    if not weights:
        raise ConfigError("Mix must name at least one view set")
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight > 0):
            raise ConfigError(f"Mix weight of {name} must be above 0, got {weight}")


@dataclass(frozen=True, eq=False)
class MixedViews:
    """View sets that share slots.

    Attributes:
        view_sets: In the order of their names.
        weights: How often each is shown, of 1.
        balanced: Whether a sample goes through its sets evenly over the epochs.
    """

    view_sets: tuple[ViewSet, ...]
    weights: tuple[float, ...]
    balanced: bool

    def __post_init__(self) -> None:
        shapes = {each.name: (each.height, each.width, each.channels) for each in self.view_sets}
        if len(set(shapes.values())) > 1:
            found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ConfigError(
                f"view sets of a Mix must have views of one size, got {found}",
                fix="give them one size with then=... and size=... in slots of their own, or "
                "build them in one size",
            )

    @property
    def name(self) -> str:
        return "|".join(each.name for each in self.view_sets)

    @property
    def num_views(self) -> int:
        return sum(each.num_views for each in self.view_sets)

    @property
    def height(self) -> int:
        return self.view_sets[0].height

    @property
    def width(self) -> int:
        return self.view_sets[0].width

    @property
    def channels(self) -> int:
        return self.view_sets[0].channels

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(role for each in self.view_sets for role in each.roles)

    @cached_property
    def starts(self) -> Rows:
        """Number of each set's first view."""
        counts = [each.num_views for each in self.view_sets]
        return np.cumsum([0, *counts[:-1]], dtype=np.int64)

    def columns(self, params: tuple[str, ...] | None) -> tuple[str, ...]:
        """Return the columns to deliver: `params`, or all packed ones that agree in their form.

        Raises:
            ConfigError: No set has one of `params`, or they store it in several forms.
        """
        every = sorted({c.name for each in self.view_sets for c in each.plan.columns})
        if params is None:
            packed = {c.name for each in self.view_sets for c in each.plan.columns if c.pack}
            alike = (n for n in every if n in packed and len(self._forms(n)) == 1)
            return (*alike, SET_COLUMN)
        for name in params:
            if name == SET_COLUMN:
                continue
            if name not in every:
                hint = nearest(name, every)
                raise ConfigError(
                    f"view sets {self.name} have no column {name!r}; {hint}", code="VS102"
                )
            if len(self._forms(name)) > 1:
                raise ConfigError(f"view sets {self.name} store {name} in several forms")
        return params

    def form(self, name: str) -> Column:
        """Return column `name` with the form it has for one view."""
        ((dtype, shape),) = self._forms(name)
        return Column(name=name, dtype=dtype, shape=shape)

    def _forms(self, name: str) -> set[tuple[str, tuple[int, ...]]]:
        forms = set()
        for each in self.view_sets:
            if name in each.params:
                column = each.plan.column(name)
                shape = column.shape[1:] if each.plan.per_view(name) else column.shape
                forms.add((column.dtype, shape))
        return forms

    def chosen(self, seed: int, epoch: int, rows: Rows, slots: Sequence[int]) -> Rows:
        """Return the number of the set that each row shows in each slot, [B, n]."""
        stream = Stream(seed, 0 if self.balanced else epoch)
        u = stream.uniform(Op.SET_CHOICE, rows[:, None], np.array(slots))[..., 0]
        if self.balanced:
            u = (u + GOLDEN_RATIO * epoch) % 1.0
        bounds = np.cumsum(self.weights)[:-1] / sum(self.weights)
        return np.asarray(np.searchsorted(bounds, u, side="right"))


class MixedSchedule:
    """The views to show of each sample where none of any set is missing."""

    def __init__(
        self, views: MixedViews, schedules: Sequence[Schedule], seed: int, slots: Sequence[int]
    ) -> None:
        """Show in `slots` the set that is chosen, and of it what its schedule says."""
        self._views, self._schedules, self._seed, self._slots = views, schedules, seed, slots

    def views(self, epoch: int, index: Rows) -> Rows:
        """Return the view numbers of each slot, [B, n]."""
        chosen = self._views.chosen(self._seed, epoch, index, self._slots)
        shown = np.empty(chosen.shape, np.int64)
        for number, (schedule, start) in enumerate(
            zip(self._schedules, self._views.starts.tolist(), strict=True)
        ):
            asked = chosen == number
            shown[asked] = start + schedule.views(epoch, index)[asked]
        return shown


def schedule_of(
    views: ViewSet | MixedViews, *, seed: int, slots: Sequence[int], pick: Pick
) -> Schedule | MixedSchedule:
    """Return the schedule of a view set, or of several that share slots."""
    schedules = [
        Schedule(
            seed,
            len(one),
            cached=one.num_views,
            wanted=len(slots),
            pick=pick,
        )
        for one in (views.view_sets if isinstance(views, MixedViews) else [views])
    ]
    if isinstance(views, MixedViews):
        return MixedSchedule(views, schedules, seed, slots)
    return schedules[0]
