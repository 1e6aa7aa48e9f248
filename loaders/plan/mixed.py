"""The view sets that slots show, one or a mix of several, and the schedule of their views.

In a mix the set is drawn for each sample and slot; the views of each set keep the schedule that
they have alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real

import numpy as np
from numpy.typing import NDArray

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


def check_weights(weights: Mapping[str, float], *, of: str = "Mix") -> None:
    """Raise ConfigError unless every view set has a weight above 0."""
    if not weights:
        raise ConfigError(f"{of} must name at least one view set")
    for name, weight in weights.items():
        number = isinstance(weight, Real)  # numpy's too
        if not (number and math.isfinite(weight) and weight > 0):
            raise ConfigError(f"{of} weight of {name} must be above 0, got {weight}")


def by_weight(u: NDArray[np.float64], weights: Sequence[float]) -> Rows:
    """Return for words in [0, 1) which of some things is drawn, each as often as it weighs."""
    bounds = np.cumsum(weights)[:-1] / sum(weights)
    return np.asarray(np.searchsorted(bounds, u, side="right"))


@dataclass(frozen=True, eq=False)
class ViewSetGroup:
    """The view sets that some slots show, as one: a single set, or those of a Mix.

    The views of a group are numbered through: those of the first set, then those of the second.

    Attributes:
        view_sets: The sets; those of a Mix in the order of their names.
        weights: How often each is shown, of 1.
        balanced: Whether a sample goes through its sets evenly over the epochs.
        mixed: Whether the group is a Mix, even of one set: it has SET_COLUMN then.

    Raises:
        ConfigError: The sets have views of several sizes.
    """

    view_sets: tuple[ViewSet, ...]
    weights: tuple[float, ...] = (1.0,)
    balanced: bool = False
    mixed: bool = False

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
        """Names of the sets, joined by "|"."""
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
        """The distinct roles of the views, sorted."""
        return tuple(sorted({role for each in self.view_sets for role in each.roles}))

    @cached_property
    def starts(self) -> Rows:
        """Number of each set's first view, [S]."""
        counts = [each.num_views for each in self.view_sets]
        return np.cumsum([0, *counts[:-1]], dtype=np.int64)

    def columns(self, params: tuple[str, ...] | None) -> tuple[str, ...]:
        """Return the columns to deliver: `params`, or all packed ones, of a Mix those that its
        sets store in one form, and SET_COLUMN.

        Raises:
            ConfigError: No set has one of `params`, or they store it in several forms.
        """
        return self._mixed_columns(params) if self.mixed else self._own_columns(params)

    def _own_columns(self, params: tuple[str, ...] | None) -> tuple[str, ...]:
        (view_set,) = self.view_sets
        if params is None:
            return tuple(column.name for column in view_set.plan.columns if column.pack)
        for name in params:
            if name not in view_set.params:
                hint = nearest(name, list(view_set.params))
                raise ConfigError(
                    f"view set {view_set.name} has no column {name!r}; {hint}", code="VS102"
                )
        return params

    def _mixed_columns(self, params: tuple[str, ...] | None) -> tuple[str, ...]:
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
        """Return column `name` with the dtype and shape that one view has."""
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
        return by_weight(u, self.weights)


class GroupSchedule:
    """The views to show of each sample where every view of the sets was made."""

    def __init__(self, group: ViewSetGroup, *, seed: int, slots: Sequence[int], pick: Pick) -> None:
        """Show views of `group` in `slots`."""
        self._group, self._seed, self._slots = group, seed, slots
        self._schedules = [
            Schedule(seed, len(each), cached=each.num_views, wanted=len(slots), pick=pick)
            for each in group.view_sets
        ]

    def views(self, epoch: int, rows: Rows) -> Rows:
        """Return the view numbers, as the group counts them, of each slot, [B, n]."""
        if len(self._schedules) == 1:
            return self._schedules[0].views(epoch, rows)
        chosen = self._group.chosen(self._seed, epoch, rows, self._slots)
        views = np.empty(chosen.shape, np.int64)
        starts = self._group.starts.tolist()
        for number, (schedule, start) in enumerate(zip(self._schedules, starts, strict=True)):
            mine = chosen == number
            views[mine] = start + schedule.views(epoch, rows)[mine]
        return views
