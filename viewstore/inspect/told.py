"""What views were made from and what columns sets say of them, in words, and what they chose."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.format.columns import Column
from viewstore.format.plan import SOURCE
from viewstore.inspect.numbers import NONE
from viewstore.inspect.shown_rows import Row, in_words, is_attack
from viewstore.store.described import chosen_column, described_by, newest_about
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

OF_IMAGE = ("view", "sample")  # what columns about images may be per
MOST_NUMBERS = 5  # of a column of one view: more of them say nothing at a look
NOT_TOLD = frozenset({"dhash", "status", "x_extra"})  # numbers that say nothing to a reader


@dataclass(frozen=True)
class Chosen:
    """A choice whose views are framed.

    Attributes:
        name: "hard.selected".
        of: Name of the view set whose views were chosen.
        view_set: The columns set.
        column: Its column of choices.
    """

    name: str
    of: str
    view_set: ViewSet
    column: Column

    def groups(self, row: int) -> dict[int, list[int]]:
        """Return the groups in which each view of a row was chosen, by view number."""
        found: dict[int, list[int]] = {}
        choices = self.view_set.params.rows(self.column.name, np.array([row]))[0]
        for group, views in enumerate(choices.tolist()):
            for view in views:
                found.setdefault(view, []).append(group)
        return found

    def words(self, groups: Sequence[int]) -> tuple[str, ...]:
        """Return in which groups a view was chosen, in words; nothing where there is only one."""
        if self.column.shape[0] == 1 or not groups:
            return ()
        return (f"group {', '.join(map(str, groups))}",)


def chosen_of(store: Store, view_sets: Sequence[ViewSet], pick: str) -> Chosen:
    """Return the choice of views of one of `view_sets` that `pick` names, as loaders understand it.

    Raises:
        ConfigError: There is no such choice, or it is one of other views.
    """
    name = pick.partition(".")[0]
    shown = [each for each in view_sets if newest_about(store, name, [each.plan.id]) is not None]
    of = (shown or view_sets)[0]
    found, column = chosen_column(store, of, pick)
    return Chosen(f"{found.name}.{column.name}", of.name, found, column)


def choices_of(store: Store, view_set: ViewSet) -> list[str]:
    """Return the choices of views of a view set that columns sets made: "hard.selected"."""
    return [
        f"{each.name}.{column.name}"
        for each in described(store, view_set)
        for column in each.plan.columns
        if column.per == "choice"
    ]


def described(store: Store, view_set: ViewSet) -> list[ViewSet]:
    """Return the columns sets that describe a view set, by name."""
    return [store.view_sets[name] for name in store.columns_of(view_set.name)]


def about_images(store: Store) -> list[ViewSet]:
    """Return the columns sets that describe the images, by name."""
    return [store.view_sets[name] for name in store.columns_of(SOURCE)]


def looked_at(store: Store, view_sets: Sequence[ViewSet]) -> list[ViewSet]:
    """Return the view sets that have views; in the place of columns sets those they describe.

    Of columns about the images there are none: originals are looked at alone. Attacks
    and mixes are to be compared with what they were made from: that stands before them.
    """
    by_id = {each.plan.id: each for each in store.view_sets.values() if each.kind != "columns"}
    found: dict[str, ViewSet] = {}
    for each in sorted(view_sets, key=lambda one: one.kind == "columns"):
        for shown in (made_from(store, each), by_id.get(described_by(each.plan))):
            if shown is not None:
                found.setdefault(shown.name, shown)
    return list(found.values())


def is_compared(view_set: ViewSet) -> bool:
    """Whether its views are attacks or mixes, which say little without what they were made from."""
    return is_attack(view_set) or {"mix_box", "parent"} <= set(view_set.params)


def made_from(store: Store, view_set: ViewSet) -> ViewSet | None:
    """Return the view set whose views were attacked or mixed; None: it has none, or it is gone."""
    parent = view_set.plan.parent
    if parent is None or not is_compared(view_set):
        return None
    found = store.view_sets.get(parent["view_set"])
    return found if found is not None and found.plan.id == parent["plan_id"] else None


def told_columns(columns_set: ViewSet, per: Collection[str] = ("view",)) -> list[Column]:
    """Return the columns whose numbers are told of each view; `per` has what they may be per."""
    return [
        column
        for column in columns_set.plan.columns
        if column.per in per
        and column.pack
        and column.name not in NOT_TOLD
        and column.row_bytes <= MOST_NUMBERS * _entries(column) * column.numpy_dtype.itemsize
    ]


def _entries(column: Column) -> int:
    return column.shape[0] if column.per == "view" else 1


def told_of(
    store: Store, view_set: ViewSet, row: int, chosen: Chosen | None = None
) -> list[tuple[str, ...]]:
    """Return for each view of a row what it was made from, and what columns sets say of it.

    That is in words: "from view 0", "luma mean 87.3". Where several sets say something by one name,
    the set is named too. Of views that were `chosen` it is also said in which group, where there
    are several.
    """
    groups = chosen.groups(row) if chosen is not None and chosen.of == view_set.name else {}
    found = _made_from(view_set, row)
    for view, words in enumerate(found):
        if chosen is not None:
            words += chosen.words(groups.get(view, ()))
    sets = described(store, view_set)
    counts = Counter(column.name for each in sets for column in told_columns(each))
    for columns_set in sets:
        for column in told_columns(columns_set):
            whose = f"{columns_set.name} " if counts[column.name] > 1 else ""
            values = columns_set.params.rows(column.name, np.array([row]))[0]
            for words, value in zip(found, values, strict=True):
                words += [whose + each for each in _told_words(column, value)]
    return [tuple(words) for words in found]


def told_of_image(store: Store, row: int) -> tuple[str, ...]:
    """Return what columns sets say of the image of a row, in words as `told_of`."""
    sets = about_images(store)
    counts = Counter(column.name for each in sets for column in told_columns(each, OF_IMAGE))
    found: list[str] = []
    for columns_set in sets:
        for column in told_columns(columns_set, OF_IMAGE):
            whose = f"{columns_set.name} " if counts[column.name] > 1 else ""
            value = columns_set.params.rows(column.name, np.array([row]))[0]
            only = value[0] if column.per == "view" else value
            found += [whose + each for each in _told_words(column, only)]
    return tuple(found)


def _told_words(column: Column, value: NDArray[Any]) -> list[str]:
    """Return what a column holds of one view or sample, in words; nothing where it is missing."""
    number = value.tolist()
    if column.missing(value).all() or number == NONE.get(column.name):
        return []
    return in_words(column.name, number)


def _made_from(view_set: ViewSet, row: int) -> list[list[str]]:
    """Return for each view of a row from which view it was made, what with, and what that gave."""
    found: list[list[str]] = [[] for _ in range(view_set.num_views)]

    def column(name: str) -> list[float]:
        values: list[float] = view_set.params.rows(name, np.array([row]))[0].tolist()
        return values

    parents = column("parent") if "parent" in view_set.params else []
    if is_compared(view_set) or len(set(parents)) > 1:
        for words, parent in zip(found, parents, strict=True):
            words += [f"from view {parent}"] if parent >= 0 else []
    if "mix_partner" in view_set.params:
        for words, partner in zip(found, column("mix_partner"), strict=True):
            words += [f"mixed with row {partner}"] if partner >= 0 else []
    if is_attack(view_set):
        for words, before, after in zip(found, column("loss0"), column("loss"), strict=True):
            words += [f"loss {before:.3g} to {after:.3g}"] if math.isfinite(before) else []
    return found


def with_told(
    store: Store, row: Row, view_sets: Sequence[ViewSet], chosen: Chosen | None = None
) -> Row:
    """Return a sample with what columns sets say of it and its views; chosen ones are framed.

    `view_sets` are those whose views `row` has.
    """
    cells = {}
    for each in view_sets:
        framed = chosen.groups(row.row) if chosen is not None and chosen.of == each.name else {}
        told = told_of(store, each, row.row, chosen)
        cells[each.name] = tuple(
            replace(cell, told=words, chosen=cell.view in framed)
            for cell, words in zip(row.cells[each.name], told, strict=True)
        )
    return replace(row, cells=cells, told=told_of_image(store, row.row))
