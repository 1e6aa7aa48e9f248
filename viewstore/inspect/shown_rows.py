"""The row of a sample, as contact sheet and report show it: the original, boxes and views."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from viewstore.errors import ConfigError, ViewStoreError
from viewstore.format.columns import Status
from viewstore.images.colours import Pixels
from viewstore.randomness import Stream
from viewstore.store.constraints import Constraints, constraints_of
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

# Okabe and Ito: told apart by most people who see colours differently.
COLOURS = ("E69F00", "56B4E9", "009E73", "CC79A7", "F0E442", "0072B2", "D55E00", "000000")
REMARKS: Mapping[int, str] = {
    Status.NEVER_WRITTEN: "not built",
    Status.GOAL_NOT_MET: "off goal",
    Status.FAILED: "failed",
    Status.UNREADABLE: "fallback",
}


@dataclass(frozen=True, kw_only=True)
class Box:
    """A crop box in source pixels."""

    top: float
    left: float
    height: float
    width: float


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One view of a sample, addressed by (view set, view).

    Attributes:
        pixels: uint8 [H, W, C], or None if it cannot be shown; `note` says why.
        area: Of the crop box, as a share of the source image.
        note: Words for what is wrong with it; empty if nothing is.
    """

    view_set: str
    view: int
    role: str
    pixels: Pixels | None
    box: Box | None
    area: float | None
    distance: float | None
    note: str

    @property
    def colour(self) -> str:
        """Colour of its box, six hex digits."""
        return COLOURS[self.view % len(COLOURS)]

    @property
    def dashed(self) -> bool:
        """Every other box, so that colour is not all that tells them apart."""
        return self.view % 2 == 1


@dataclass(frozen=True, kw_only=True)
class Row:
    """A sample: its original, None if the source cannot be reached, and its cells by view set."""

    key: str
    row: int
    label: str
    height: int
    width: int
    original: Pixels | None
    cells: dict[str, tuple[Cell, ...]]


def choose_rows(
    store: Store, *, count: int, random: bool = False, seed: int = 0, key: str | None = None
) -> list[int]:
    """Return the rows to show, ascending: that of `key`, the first `count`, or random ones.

    The same seed draws the same rows of a store for ever: they are those with the least words.
    """
    if key is not None:
        return [store.keys.row(key)]
    if count < 1:
        raise ConfigError(f"the number of samples to show must be at least 1, got {count}")
    if not random:
        return list(range(min(count, store.num_samples)))
    words = Stream(seed).seed_word(np.arange(store.num_samples, dtype=np.uint64), 0)
    return sorted(np.argsort(words, kind="stable")[:count].tolist())


def choose_view_sets(store: Store, name: str | None) -> list[ViewSet]:
    """Return the view set `name`, or all of them by name."""
    if name is not None:
        return [store.view_set(name)]
    return [store.view_sets[each] for each in sorted(store.view_sets)]


def read_row(store: Store, row: int, view_sets: Sequence[ViewSet]) -> Row:
    """Read what is shown of a sample; what cannot be read becomes a cell without pixels."""
    try:
        original = store.source.image(row)
    except ViewStoreError:
        original = None
    label = int(store.labels[row])
    names = store.label_names
    height, width = int(store.table.height[row]), int(store.table.width[row])
    return Row(
        key=store.keys[row],
        row=row,
        label="" if label < 0 else names[label] if label < len(names) else str(label),
        height=height,
        width=width,
        original=original,
        cells={each.name: _cells(each, row, height * width) for each in view_sets},
    )


def _cells(view_set: ViewSet, row: int, source_area: int) -> tuple[Cell, ...]:
    pixels: Pixels | None = None
    broken = ""
    try:
        pixels = view_set[row]
    except ViewStoreError:
        broken = "cannot be read" if row // view_set.plan.shard_rows in view_set.shards else ""
    wanted = constraints_of(view_set)
    return tuple(
        _cell(view_set, row, view, pixels, source_area, wanted, broken)
        for view in range(view_set.num_views)
    )


def _cell(
    view_set: ViewSet,
    row: int,
    view: int,
    pixels: Pixels | None,
    source_area: int,
    wanted: Constraints | None,
    broken: str,
) -> Cell:
    box = _box(view_set, row, view)
    distance = _value(view_set, "distance", row, view)
    status = _value(view_set, "status", row, view)
    missed = wanted.verdict(distance) if wanted is not None and distance is not None else ""
    note = broken or missed or REMARKS.get(int(status or 0), "")
    area = None if box is None else box.height * box.width / source_area
    return Cell(
        view_set=view_set.name,
        view=view,
        role=view_set.roles[view],
        pixels=None if pixels is None else pixels[view],
        box=box,
        area=area,
        distance=distance,
        note=note,
    )


def _box(view_set: ViewSet, row: int, view: int) -> Box | None:
    if "crop_box" not in view_set.params:
        return None
    values = view_set.params.rows("crop_box", np.array([row]))[0, view].tolist()
    if not all(math.isfinite(value) for value in values):
        return None
    top, left, height, width = values
    return Box(top=top, left=left, height=height, width=width)


def _value(view_set: ViewSet, name: str, row: int, view: int) -> float | None:
    if name not in view_set.params:
        return None
    value = float(view_set.params.rows(name, np.array([row]))[0, view])
    return None if math.isnan(value) else value
