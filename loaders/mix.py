"""Several view sets in one slot: the set is drawn for each sample, its views go on their schedule.

To what reads and delivers them, mixed view sets are one: its views are those of the first set,
then those of the second, and so on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.loaders.buffers import Buffer
from viewstore.loaders.choose import Missing, Pick, Schedule, preference, replace_missing
from viewstore.loaders.compose import Mirrored, mirrored_views
from viewstore.loaders.reader import CachedReader
from viewstore.loaders.stored import Damage, Rows
from viewstore.plan import Column, nearest
from viewstore.randomness import Op, Stream
from viewstore.store import Store
from viewstore.view_set import ViewSet

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


class MixedReader:
    """Reads mixed view sets as CachedReader reads one."""

    strided = None  # what is gathered row by row from one array, these are not

    def __init__(self, views: MixedViews, readers: Sequence[CachedReader]) -> None:
        """Read each set with its reader."""
        self.view_set = views
        self.readers = list(readers)
        self.shape = self.readers[0].shape
        self.clock = self.readers[0].clock

    def read(
        self,
        rows: Rows,
        views: Rows,
        out: Sequence[Buffer],
        flips: Sequence[NDArray[np.bool_] | None] | None = None,
        damaged: Damage | None = None,
    ) -> None:
        """Fill the buffers of some slots, as CachedReader.read."""
        copy_seconds = 0.0
        mirrored = np.zeros(views.shape, np.bool_)
        for slot, flip in enumerate(flips or ()):
            if flip is not None:
                mirrored[:, slot] = flip
        for number, places, slots, local in self.by_set(views):
            reader = self.readers[number]
            pixels = np.empty((len(places), *reader.shape), np.uint8)
            found: Damage | None = None if damaged is None else {}
            flip = mirrored[places, slots] if flips else None
            reader.read(rows[places], local, [pixels], [flip], found)
            began = time.perf_counter()
            for slot, buffer in enumerate(out):
                here = slots == slot
                buffer[places[here]] = pixels[here]
            copy_seconds += time.perf_counter() - began
            if damaged is not None and found:
                damaged.update({int(places[place]): error for place, error in found.items()})
        self.clock.add(copy_seconds=copy_seconds)

    def announce(self, rows: Rows, views: Rows) -> None:
        """Have the system fetch what `read` will touch."""
        for number, places, _, local in self.by_set(views):
            self.readers[number].announce(rows[places], local)

    def params(self, name: str, rows: Rows, views: Rows) -> NDArray[Any]:
        """Return a column for each row and slot, [B, n, ...]; what a set has not is its fill."""
        if name == SET_COLUMN:
            return self.numbers(views).astype(np.uint8)
        form = self.view_set.form(name)
        values = form.empty(views.size).reshape(*views.shape, *form.shape)
        for number, places, slots, local in self.by_set(views):
            reader = self.readers[number]
            if name in reader.view_set.params:
                found = reader.params(name, rows[places], local)
                values[places, slots] = found[:, 0] if reader.per_view(name) else found
        return values

    def in_memory(self, name: str) -> bool:
        """Whether a column is small enough to be read whole, in every set that has it."""
        having = (each for each in self.readers if name in each.view_set.params)
        return all(each.in_memory(name) for each in having)

    def per_view(self, name: str) -> bool:
        """Return True: the rows of a batch are of several sets, so no column is per sample."""
        return True

    def constant(self, name: str, value: int) -> bool:
        """Whether a small column of integers has one value everywhere, or is not there."""
        return all(each.constant(name, value) for each in self.readers)

    @property
    def all_usable(self) -> bool:
        """Whether every view was made, so that none has to be replaced."""
        return all(each.all_usable for each in self.readers)

    def numbers(self, views: Rows) -> Rows:
        """Return the number of the set that each view belongs to."""
        return np.asarray(np.searchsorted(self.view_set.starts, views, side="right") - 1)

    def by_set(self, views: Rows) -> list[tuple[int, Rows, Rows, Rows]]:
        """Return for each set its number, and the places, slots and views of it, [k, 1]."""
        numbers = self.numbers(views)
        found = []
        for number in range(len(self.readers)):
            places, slots = np.nonzero(numbers == number)
            local = views[places, slots] - self.view_set.starts[number]
            found.append((number, places, slots, local[:, None]))
        return found

    def close(self) -> None:
        """Forget the maps."""
        for reader in self.readers:
            reader.close()


AnyReader = CachedReader | MixedReader


def reader_of(view_set: ViewSet | MixedViews, make: Callable[[ViewSet], CachedReader]) -> AnyReader:
    """Return what reads a view set, or several as one, each with the reader that `make` gives."""
    if isinstance(view_set, MixedViews):
        return MixedReader(view_set, [make(each) for each in view_set.view_sets])
    return make(view_set)


def parts_of(reader: AnyReader) -> list[CachedReader]:
    """Return the readers of single view sets."""
    return reader.readers if isinstance(reader, MixedReader) else [reader]


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
    reader: AnyReader, *, seed: int, slots: Sequence[int], pick: Pick
) -> Schedule | MixedSchedule:
    """Return the schedule of what a reader reads."""
    schedules = [
        Schedule(
            seed,
            len(one.view_set),
            cached=one.view_set.num_views,
            wanted=len(slots),
            pick=pick,
        )
        for one in parts_of(reader)
    ]
    if isinstance(reader, MixedReader):
        return MixedSchedule(reader.view_set, schedules, seed, slots)
    return schedules[0]


def shown_views(
    reader: AnyReader,
    rows: Rows,
    *,
    seed: int,
    epoch: int,
    slots: Sequence[int],
    pick: Pick,
    missing: Missing,
) -> Rows:
    """Return the view that each row shows in each slot, [B, n].

    Raises:
        FormatError: A view that would be shown was not made, and `missing` is "raise", or no
            view of its sample was.
    """

    def of(one: CachedReader, asked: NDArray[np.bool_] | None) -> Rows:
        cached = one.view_set.num_views
        order = preference(seed, epoch, rows, cached=cached, wanted=len(slots), pick=pick)
        every = np.broadcast_to(np.arange(cached), (len(rows), cached))
        return replace_missing(
            order[:, : len(slots)],
            order,
            one.params("status", rows, every),
            rows,
            name=one.view_set.name,
            missing=missing,
            asked=asked,
        )

    if isinstance(reader, CachedReader):
        return of(reader, None)
    chosen = reader.view_set.chosen(seed, epoch, rows, slots)
    shown = np.empty(chosen.shape, np.int64)
    for number, (one, start) in enumerate(
        zip(reader.readers, reader.view_set.starts.tolist(), strict=True)
    ):
        asked = chosen == number
        shown[asked] = start + of(one, asked)[asked]
    return shown


def by_set(
    reader: AnyReader,
    views: Rows,
    values: Callable[[CachedReader, Rows, Rows], NDArray[Any]],
) -> NDArray[Any]:
    """Return values [B, ...] of views [B], of `values`(reader, places, views) for each set."""
    if isinstance(reader, CachedReader):
        return values(reader, np.arange(len(views)), views)
    parts = [
        (places, values(reader.readers[number], places, local[:, 0]))
        for number, places, _, local in reader.by_set(views[:, None])
    ]
    found = np.empty((len(views), *parts[0][1].shape[1:]), parts[0][1].dtype)
    for places, mine in parts:
        found[places] = mine
    return found


def numbers_within(reader: AnyReader, views: Rows) -> Rows:
    """Return views as their own set numbers them."""
    if isinstance(reader, CachedReader):
        return views
    return views - reader.view_set.starts[reader.numbers(views)]


def mirrored_by_view(store: Store, views: ViewSet | MixedViews) -> Mirrored | None:
    """Return what says of rows which views show their box from right to left; None: no view."""
    if not isinstance(views, MixedViews):
        return mirrored_views(store, views)
    parts = [mirrored_views(store, each) for each in views.view_sets]
    if all(part is None for part in parts):
        return None
    counts = [each.num_views for each in views.view_sets]

    def mirrored(rows: Rows) -> NDArray[np.bool_]:
        found = [
            np.zeros((len(rows), count), np.bool_) if part is None else part(rows)
            for part, count in zip(parts, counts, strict=True)
        ]
        return np.concatenate(found, axis=1)

    return mirrored
