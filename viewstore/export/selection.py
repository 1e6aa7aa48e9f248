"""Exporting a view set: which rows and columns of it, and whether that was done already.

What the formats share. The files themselves: export_beton.py, export_tar.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, UnavailableError, nearest
from viewstore.format.columns import Column
from viewstore.format.records import digest_of
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet


class Listener(Protocol):
    """Told about each sample that was written."""

    def advance(self, count: int = 1) -> object: ...


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What of a store goes out.

    Attributes:
        rows: Ascending rows of the store, int64 [n].
        columns: Params columns, by name.
    """

    store: Store
    view_set: ViewSet
    rows: NDArray[np.int64]
    columns: tuple[Column, ...]

    @cached_property
    def digest(self) -> str:
        """Digest of everything that decides an export of this selection."""
        facts = {
            "store_id": self.store.store_id,
            "view_set": self.view_set.name,
            "rows": self.rows.tolist(),
            "columns": [column.name for column in self.columns],
        }
        return digest_of(facts)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export came to.

    Attributes:
        paths: The files that hold it.
        already: Whether they were there, whole, and nothing was written.
    """

    paths: tuple[Path, ...]
    num_samples: int
    bytes: int
    already: bool


def select(
    store: Store,
    view_set: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    limit: int | None = None,
) -> Selection:
    """Choose what to export.

    Args:
        store: An open store.
        view_set: Name of a view set; None if the store has only one.
        columns: Names of params columns; None takes all but those that are large.
        where: Only rows that match, in the words of where.py.
        limit: The first of these rows only.

    Raises:
        ConfigError: There is no such view set or column, the view set is not complete, no row
            matches, or the limit is below 1.
    """
    chosen = store.view_set(view_set) if view_set is not None else _only(store)
    if not chosen.complete:
        raise ConfigError(
            f"view set {chosen.name} is not complete",
            code="VS202",
            where=store.location,
            why="an export that lacks rows could not say so",
            fix="run its build to the end",
        )
    if limit is not None and limit < 1:
        raise ConfigError(f"the number of samples to export must be at least 1, got {limit}")
    by_name = {column.name: column for column in chosen.plan.columns}
    wanted = [c.name for c in chosen.plan.columns if c.pack] if columns is None else columns
    for name in wanted:
        if name not in by_name:
            hint = nearest(name, list(by_name))
            raise ConfigError(f"there is no params column {name!r}; {hint}", code="VS102")
    rows = np.arange(store.num_samples) if where is None else _matching(store, where, chosen)
    return Selection(
        store=store,
        view_set=chosen,
        rows=rows[:limit],
        columns=tuple(by_name[name] for name in sorted(set(wanted))),
    )


def _matching(store: Store, where: str, view_set: ViewSet) -> NDArray[np.int64]:
    from viewstore.store.matching import matching_rows

    return matching_rows(store, where, [view_set.name])


def _only(store: Store) -> ViewSet:
    names = sorted(store.view_sets)
    if len(names) != 1:
        raise ConfigError(
            f"which view set to export must be said, the store has {', '.join(names) or 'none'}",
            where=store.location,
            fix=f"add --view-set {names[0]}" if names else None,
        )
    return store.view_sets[names[0]]


def check_room(folder: Path, needed: int) -> None:
    """Raise UnavailableError unless the disk of `folder` has `needed` bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UnavailableError(
            f"the disk has {free >> 20} MiB free, the export needs {needed >> 20} MiB",
            code="VS302",
            where=str(folder),
            fix="free some space, or name another --out",
        )
