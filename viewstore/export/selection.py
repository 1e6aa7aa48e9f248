"""What of a store is exported, and what an export came to: the parts that all formats share.

`viewstore export` calls `select` and hands the Selection to one of FORMATS (formats.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from viewstore.costs.disk_space import check_free_bytes
from viewstore.errors import ConfigError, nearest, quoted
from viewstore.files import disk
from viewstore.files.remedy import remedy_at
from viewstore.format.columns import MADE, Column
from viewstore.format.records import digest_of
from viewstore.store.committed import shards_there, unfinished_view_set
from viewstore.store.described import described_by, is_joined, joined_column
from viewstore.store.matching import matching_rows
from viewstore.store.store import Store, chosen_view_set
from viewstore.store.view_set import ViewSet


@dataclass(frozen=True, kw_only=True)
class JoinedForm(Column):
    """A column of a columns set, by the name SET.column under which it is exported."""

    def __post_init__(self) -> None:
        """Accept the name: its set has checked the rest."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What of a store is exported.

    Attributes:
        store: The open store.
        view_set: One of its view sets, complete.
        rows: Ascending rows of the store, int64 [n], n >= 1.
        columns: Params columns, ordered by name: its own, and those of what describes it.
        joined: Columns sets of the latter, by the name of the column.
        left_out: Rows that were asked for and have a view that was not made: it is black.
        images: Whether a format that can do without pictures, a table, holds them too.
    """

    store: Store
    view_set: ViewSet
    rows: NDArray[np.int64]
    columns: tuple[Column, ...]
    joined: Mapping[str, ViewSet] = field(default_factory=dict)
    left_out: int = 0
    images: bool = False

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what decides the content of an export of this selection.

        Other view sets of the store do not; `images` is recorded by the formats that obey it.
        """
        facts: dict[str, Any] = {
            "sources_id": self.store.manifest.sources_id,
            "view_set": self.view_set.name,
            "plan_id": self.view_set.plan.id,
            "root": self.view_set.index.root,
            "rows": self.rows.tolist(),
            "columns": [column.name for column in self.columns],
        }
        if self.joined:
            facts["joined"] = {
                name: [each.plan.id, each.index.root] for name, each in self.joined.items()
            }
        return digest_of(facts)

    def read(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return column `name` of `rows` [B], [B, *shape], of the images without an axis of views.

        Raises:
            FormatError: It is damaged.
        """
        if name not in self.joined:
            return self.view_set.params.rows(name, rows)
        view_set, column = self.joined[name], name.rpartition(".")[2]
        values = view_set.params.rows(column, rows)
        of_images = view_set.plan.per_view(column) and not _describes(view_set, self.view_set)
        return values[:, 0] if of_images else values


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A finished export.

    Attributes:
        paths: The files that hold it.
        num_samples: Samples in them.
        bytes: Size of the files together.
        already: Whether they were there before, whole, and nothing was written.
        left_out: Samples that are not in them, since a view of theirs was not made.
    """

    paths: tuple[Path, ...]
    num_samples: int
    bytes: int
    already: bool
    left_out: int

    @classmethod
    def of(cls, selection: Selection, paths: Sequence[Path], *, already: bool) -> Self:
        """Return what an export of `selection` came to, whose files are `paths`."""
        size = sum(path.stat().st_size for path in paths)
        return cls(
            paths=tuple(paths),
            num_samples=len(selection.rows),
            bytes=size,
            already=already,
            left_out=selection.left_out,
        )


def select(
    store: Store,
    view_set: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    limit: int | None = None,
    images: bool = False,
) -> Selection:
    """Return what to export of a store.

    Rows with a view that was not made, since its source image could not be read or its generator
    failed, are left out and counted.

    Args:
        store: An open store.
        view_set: Name of a view set; None if the store has only one.
        columns: Names of params columns; None takes all but those that are large. SET.column is
            one of a columns set that describes the view set, or the images.
        where: Only rows that match this condition (store/where.py), say "distance < 0.35".
        limit: Only so many of these rows, the first ones.
        images: Put pictures into a table, too; other formats always hold them.

    Raises:
        ConfigError: There is no such view set or column, the view set is not complete, no row
            matches, none of them was made, or the limit is below 1.
    """
    chosen = chosen_view_set(store, view_set, purpose="export")
    if not chosen.complete:
        there = shards_there(len(chosen.index.shards), chosen.plan)
        raise unfinished_view_set(chosen.name, there, store.location)
    if limit is not None and limit < 1:
        raise ConfigError(f"the number of samples to export must be at least 1, got {limit}")
    by_name = {column.name: column for column in chosen.plan.columns}
    # Of a set of columns nothing is left out: they are all that it has.
    own = [c.name for c in chosen.plan.columns if c.pack or chosen.kind == "columns"]
    names = own if columns is None else columns
    joined = {}
    for name in filter(is_joined, names):
        joined[name], column = joined_column(store, chosen, name)
        by_name[name] = _form(name, column, of_views=_describes(joined[name], chosen))
    for name in names:
        if name not in by_name:
            hint = nearest(name, list(by_name))
            raise ConfigError(f"there is no params column {name!r}; {hint}", code="VS102")
    rows = np.arange(store.num_samples)
    if where is not None:
        rows = matching_rows(store, where, [chosen.name])
    made = rows[np.isin(chosen.params.rows("status", rows), MADE).all(axis=1)]
    if not len(made):
        raise ConfigError(
            f"none of the {len(rows)} samples to export has all of its views",
            where=store.location,
            why="their source images could not be read, or their generator failed",
            fix=remedy_at(
                store.location,
                f"viewstore verify {quoted(store.location)} --repair --failed",
            ),
        )
    return Selection(
        store=store,
        view_set=chosen,
        joined=joined,
        rows=made[:limit],
        left_out=len(rows) - len(made) if limit is None else _before(rows, made[:limit]),
        columns=tuple(by_name[name] for name in sorted(set(names))),
        images=images,
    )


def _before(rows: NDArray[np.int64], made: NDArray[np.int64]) -> int:
    """Return how many of `rows` up to the last of `made` are not among them."""
    return int(np.count_nonzero(rows <= made[-1])) - len(made)


def check_pictures(selection: Selection) -> None:
    """Raise ConfigError if the view set has no views, but says what is known of those of others."""
    chosen = selection.view_set
    if chosen.kind == "columns":
        raise ConfigError(
            f"view set {chosen.name} has no views to export, it describes those of {chosen.of}",
            fix="export its columns with --format parquet, without --images",
        )


def _describes(columns_set: ViewSet, view_set: ViewSet) -> bool:
    return described_by(columns_set.plan) == view_set.plan.id


def _form(name: str, column: Column, *, of_views: bool) -> JoinedForm:
    """Return the form in which a column is exported; that of images is one of the sample."""
    values = {**vars(column), "name": name}
    if column.per == "view" and not of_views:
        values |= {"shape": column.shape[1:], "per": "sample", "views": None}
    return JoinedForm(**values)


def another_export(out: Path) -> ConfigError:
    """Return the error of a place that holds an export of something else."""
    return cannot_take(
        out,
        why="it holds another export",
        fix="add --overwrite to replace that, or name another --out",
    )


def cannot_take(out: Path, *, why: str, fix: str) -> ConfigError:
    """Return the error of a place that cannot take an export."""
    return ConfigError(f"{out} cannot take this export", where=str(out), why=why, fix=fix)


def check_export_space(folder: Path, needed: int) -> None:
    """Raise UnavailableError unless the disk of `folder` has `needed` bytes free."""
    check_free_bytes(
        folder, needed, needed_by="the export needs", fix="free some space, or name another --out"
    )


def are_whole(digests: Mapping[Path, str]) -> bool:
    """Return whether every file is there and has the SHA-256 that its export recorded."""
    return all(
        path.is_file() and disk.sha256_of(path) == sha256 for path, sha256 in digests.items()
    )
