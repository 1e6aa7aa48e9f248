"""Columns of columns sets that slots deliver: joined to the views they show, by row and view."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.format.columns import Column
from viewstore.images.policies import ViewPolicy
from viewstore.loaders.plan.rows import Rows
from viewstore.store.described import described_by, joined_column
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
        if not self.column.pack:
            self.view_set.prefetch(shards, role=self._role)

    @property
    def largest_file(self) -> int:
        """Bytes of its largest file; 0 where it lies in the packs of its view set."""
        if self.column.pack:
            return 0
        entries = (shard.entry for shard in self.view_set.shards.values())
        return max((entry.file(self._role).bytes for entry in entries), default=0)

    @property
    def _role(self) -> str:
        return f"column:{self.column.name}"


def joined_columns(store: Store, shown: ViewSet, names: Sequence[str]) -> tuple[JoinedColumn, ...]:
    """Return the columns SET.column that are to be delivered with views of `shown`.

    SET is a columns set that describes `shown`, or the images; of its rounds the newest that does.

    Raises:
        ConfigError: There is no such set or column, it describes another set, it was made from
            other bytes than are there now, or the cache is too small for it.
    """
    joined = tuple(_joined(store, shown, name) for name in names)
    if joined:
        shown.check_cache(beside=sum(each.largest_file for each in joined))
    return joined


def _joined(store: Store, shown: ViewSet, name: str) -> JoinedColumn:
    found, column = joined_column(store, shown, name)
    return JoinedColumn(name, found, column, described_by(found.plan) == shown.plan.id)


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
