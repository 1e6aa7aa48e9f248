"""Columns of columns sets that slots deliver: joined to the views they show, by row and view."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, nearest
from viewstore.format.columns import Column
from viewstore.images.policies import ViewPolicy
from viewstore.loaders.plan.rows import Rows
from viewstore.store.lineage import check_fresh
from viewstore.store.rounds import (
    described_by,
    describes_source,
    newest_about,
    round_names,
    rounds_of,
)
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

MOVES = frozenset({"crop_box", "flip"})  # draws of policies that show another part of a view


@dataclass(frozen=True, eq=False)
class JoinedColumn:
    """A column of a columns set that slots deliver beside those of the view set they show.

    Attributes:
        name: By which it is asked for and delivered: "teacher.feature".
        view_set: The columns set.
        column: The column.
        of_views: Whether it says something about each view that is shown; else about the sample.
    """

    name: str
    view_set: ViewSet
    column: Column
    of_views: bool

    @property
    def in_memory(self) -> bool:
        """Whether the column is small enough to be in memory as a whole."""
        return self.column.name in self.view_set.params.small

    def values(self, rows: Rows, views: Rows) -> NDArray[Any]:
        """Return the column of views `views` [B] of `rows` [B], [B, ...]."""
        params = self.view_set.params
        if self.column.per != "view":
            return params.take(self.column.name, rows)
        return params.cells(self.column.name, rows, views if self.of_views else np.zeros_like(rows))

    def prefetch(self, shards: Sequence[int]) -> None:
        """Begin to fetch what it has of remote shards that are read next, in this order."""
        self.view_set.prefetch_column(self.column.name, shards)


def is_joined(name: str) -> bool:
    """Whether the name of a column is one of another view set: SET.column."""
    return "." in name


def joined_columns(store: Store, shown: ViewSet, names: Sequence[str]) -> tuple[JoinedColumn, ...]:
    """Return the columns SET.column that are to be delivered with views of `shown`.

    SET is a columns set that describes `shown`, or the images; of its rounds the newest that does.

    Raises:
        ConfigError: There is no such set or column, it describes another set, it was made from
            other bytes than are there now, or the cache is too small for it.
    """
    joined = tuple(_joined(store, shown, name) for name in names)
    if joined:
        beside = sum(each.view_set.largest_chunk(each.column.name) for each in joined)
        shown.check_cache(beside=beside)
    return joined


def _joined(store: Store, shown: ViewSet, name: str) -> JoinedColumn:
    set_name, _, column = name.rpartition(".")
    found = columns_set(store, shown, set_name, use="joined")
    if column not in found.params:
        hint = nearest(column, list(found.params))
        raise ConfigError(f"{found.name} has no column {column!r}; {hint}", code="VS102")
    of_views = described_by(found.plan) == shown.plan.id
    return JoinedColumn(name, found, found.plan.column(column), of_views)


def columns_set(store: Store, shown: ViewSet, name: str, *, use: str) -> ViewSet:
    """Return columns set `name`, of a round that describes the views of `shown`, or the images.

    Raises:
        ConfigError: There is none, it describes another view set, or what it was made from has
            other bytes now. `use` says what it was wanted for, as a participle.
    """
    found = newest_about(store, name, (shown.plan.id, store.manifest.sources_id))
    if found is None:
        rounds = rounds_of(store, name) or [store.view_set(name)]
        found = next((each for each in rounds if describes_source(store, each)), None)
        if found is None:
            raise _describes_another(store, shown, rounds[0], use)
    check_fresh(found, store.view_sets)
    return found


def _describes_another(store: Store, shown: ViewSet, found: ViewSet, use: str) -> ConfigError:
    if found.kind != "columns" or found.of is None:
        describing = ", ".join(store.columns_of(shown.name)) or "none"
        return ConfigError(
            f"{found.name} has views of its own, only columns sets are {use}",
            why=f"columns sets that describe {shown.name}: {describing}",
            fix=f"write the name of a column of {shown.name} without its set"
            if found is shown
            else f"show views of {found.name} in a slot of their own",
        )
    about, wanted = round_names(found.of, shown.name)
    if about == wanted:
        about = f"another {about}"
        wanted = "the one that is there now"
    return ConfigError(
        f"{found.name} describes {about}, not {wanted}",
        code="VS103",
        where=store.location,
        fix=f"viewstore build --generator {found.plan.generator['name']} --of {shown.name} "
        f"--out {store.location}",
    )


def warn_of_moved_targets(
    joined: Sequence[JoinedColumn], then: Sequence[ViewPolicy], shown: str
) -> None:
    """Warn where features are joined to views on which a crop or a flip is rendered."""
    features = [each.name for each in joined if each.of_views and each.column.name == "feature"]
    moving = [each.name for each in then if MOVES & {column.name for column in each.columns}]
    if features and moving:
        warnings.warn(
            f"{features[0]} is that of the stored view of {shown}: {moving[0]} is rendered on it, "
            "and shows another view than the one whose target is delivered",
            stacklevel=2,
        )
