"""Which samples to show, in which order: a filter and an order, and the rows that they come to.

Pages, JSON, CSV, contact sheet, report and text of a query use the one list that is made here.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, UnavailableError
from viewstore.format.plan import checked_seed
from viewstore.inspect.ranking import OFF_BY, Ranking, json_numbers, ranking_of
from viewstore.inspect.summary import label_text
from viewstore.inspect.view_set_charts import HASHES
from viewstore.randomness import Stream
from viewstore.store.matching import (
    SOURCE_COLUMNS,
    Filter,
    Found,
    Place,
    bind,
    find_column,
    is_single,
)
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet
from viewstore.store.where import Joined

RANDOM, WORST = "random", "worst"
FAILED = "any(status >= 3)"  # the filter of samples with a view that failed
SECONDS = 2.0  # that a page gives a query
LONGEST_SORT = 128  # characters; names of a view set and of a column
UNORDERED = HASHES | {"status"}

Between = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Query:
    """What is asked for.

    Attributes:
        where: A filter (store/where.py); "" takes all samples.
        sort: A column, "-" and a column for the greatest first, "random", "worst": by how far
            samples are from their goal; or "" for the order of the store.
        seed: Of the random order.
    """

    where: str = ""
    sort: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        checked_seed(self.seed)
        if len(self.sort) > LONGEST_SORT:
            raise ConfigError(f"sort must have at most {LONGEST_SORT} characters")


@dataclass(frozen=True, kw_only=True)
class Understood:
    """A query, its columns found in a store.

    Attributes:
        store: The store.
        view_set: The one that columns are of unless they say of which; None: there is none.
        query: What was asked for.
        filter: Its filter; None takes all samples.
        order: The column that it is ordered by; None: by none.
        ranking: How samples are ranked where the worst are asked for; None: they are not.
    """

    store: Store
    view_set: ViewSet | None
    query: Query
    filter: Filter | None
    order: Found | None
    ranking: Ranking | None = None

    @property
    def text(self) -> str:
        """The filter as it was understood, any(..) spelled out; "" without one."""
        return "" if self.filter is None else str(self.filter.understood)

    @property
    def terms(self) -> list[tuple[str, str]]:
        """The terms that must all be true: each as it was understood, and the filter without it."""
        if self.filter is None:
            return []
        expr, whole = self.filter.expr, self.filter.understood
        if not (isinstance(expr, Joined) and isinstance(whole, Joined) and expr.word == "and"):
            return [(str(whole), "")]
        return [
            (str(whole.parts[place]), str(Joined("and", others)) if others[1:] else str(others[0]))
            for place in range(len(expr.parts))
            for others in [expr.parts[:place] + expr.parts[place + 1 :]]
        ]

    @property
    def columns(self) -> list[str]:
        """The columns that filter and order name, each once; OFF_BY where the worst come first."""
        named = [] if self.filter is None else self.filter.columns
        ordered = [] if self.order is None else [self.query.sort.removeprefix("-")]
        ranked = [] if self.ranking is None else [OFF_BY]
        return list(dict.fromkeys([*named, *ordered, *ranked]))

    @property
    def id(self) -> str:
        """A sha256 of store, filter as it was understood, order and seed: it names the result."""
        shown = "" if self.view_set is None else self.view_set.name
        seed = self.query.seed if self.query.sort == RANDOM else 0
        facts = [self.store.store_id, shown, self.text, self.query.sort, seed]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def find(
        self, between: Between = lambda: None, among: NDArray[np.int64] | None = None
    ) -> Result:
        """Return the rows, an empty result too.

        `between` is called between blocks of rows; it raises where it has taken too long. `among`:
        Rows that others are left out for, [M]; None: none are.

        Raises:
            FormatError: A column is damaged.
        """
        count = self.store.num_samples
        rows = np.arange(count) if self.filter is None else self.filter.rows(between)
        if among is not None:
            rows = rows[np.isin(rows, among)]
        between()
        sort = self.query.sort
        if self.ranking is not None:
            return Result.in_order(self.ranking.order(rows))
        if sort == RANDOM:
            words = Stream(self.query.seed).seed_word(rows.astype(np.uint64), 0)
            return Result(rows, words, pages_ascend=True)
        if self.order is None:
            return Result.in_order(rows)
        descending = sort.startswith("-")
        values, missing = self._values(self.order, rows, between, descending=descending)
        return Result(rows[~missing], values[~missing], rows[missing], descending=descending)

    def values(self, name: str, rows: Sequence[int]) -> list[Any]:
        """Return a named column of `rows` as JSON values: lists of views, None for a missing one.

        Raises:
            ConfigError: There is no such column.
        """
        if name == OFF_BY and self.ranking is not None:
            return json_numbers(self.ranking.off(np.array(rows, np.int64)))
        found = find_column(self.store, name, Place(name), _names(self.view_set))
        if found.name == "key" and found.view_set is None:
            return [self.store.keys[row] for row in rows]
        values, missing = found.values(self.store, np.array(rows, np.int64))
        known = [
            [None if gone else value for value, gone in zip(*each, strict=True)]
            for each in zip(values.tolist(), missing.tolist(), strict=True)
        ]
        return known if found.per_view else [value for (value,) in known]

    def listed(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Return key, row and label of `rows`, with the columns that the query names."""
        values = {name: self.values(name, rows) for name in self.columns}
        order = [] if self.order is None else values[self.query.sort.removeprefix("-")]
        return [
            {
                "key": self.store.keys[row],
                "row": row,
                "label": label_text(
                    self.store.label_names, int(self.store.labels[row]), unlabelled=""
                ),
                "values": {name: column[place] for name, column in values.items()},
                "by_view": self.deciding(order[place]) if order else None,
            }
            for place, row in enumerate(rows)
        ]

    def ranked(self, found: Result) -> str:
        """Return in words what the order says, where the worst of `found` come first; else ""."""
        if self.ranking is None:
            return ""
        return self.ranking.words(next(iter(found.page(0, 1)), None))

    def deciding(self, values: Any) -> int | None:  # noqa: ANN401
        """Return which view gave a row its place in the order, of the row's `values` of it.

        None: they are no values of views, or none is known.
        """
        if not isinstance(values, list):
            return None
        known = {view: each for view, each in enumerate(values) if each is not None}
        known = {view: each for view, each in known.items() if not math.isnan(each)}
        choose = max if self.query.sort.startswith("-") else min
        return choose(known, key=known.__getitem__, default=None)

    def _values(
        self, column: Found, rows: NDArray[np.int64], between: Between, *, descending: bool
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return what `rows` are ordered by, [B], and which of them have no value, [B]."""
        parts = []
        for begin in range(0, len(rows), BLOCK):
            between()
            block = rows[begin : begin + BLOCK]
            values, missing = column.values(self.store, block)
            parts.append(_extreme(values, missing, greatest=descending))
        if not parts:
            return np.empty(0), np.empty(0, np.bool_)
        values, missing = zip(*parts, strict=True)
        return np.concatenate(values), np.concatenate(missing)


BLOCK = 1 << 18  # rows whose values are read at once


def understand(store: Store, query: Query, view_set: ViewSet | None) -> Understood:
    """Return a query, its columns found; names are those of `view_set` where it has them.

    Raises:
        ConfigError: The filter is none, a column is unknown or ambiguous, or the worst samples of
            no view set, or of one without a goal, are asked for.
    """
    name = query.sort.removeprefix("-")
    place = Place(query.sort, len(query.sort) - len(name), "sort")
    by_column = query.sort not in ("", RANDOM, WORST)
    return Understood(
        store=store,
        view_set=view_set,
        query=query,
        filter=bind(store, query.where, _names(view_set)) if query.where.strip() else None,
        order=find_column(store, name, place, _names(view_set)) if by_column else None,
        ranking=_ranking(view_set) if query.sort == WORST else None,
    )


def _ranking(view_set: ViewSet | None) -> Ranking:
    """Return how the samples of a view set are ranked. Raises ConfigError: they are not."""
    if view_set is None:
        raise ConfigError("the worst samples are those of a view set, and none is shown")
    ranking = ranking_of(view_set)
    if ranking is None:
        raise ConfigError(
            f"view set {view_set.name} has no goal that its samples could be far from",
            fix="order by a column, sort=-COLUMN on a page or --sort -COLUMN; the filter "
            f"'{FAILED}' finds samples that failed",
        )
    return ranking


def sortable(store: Store, view_set: ViewSet | None) -> list[str]:
    """Return the columns that samples can be ordered by, as a query names them.

    They are those of the source, of `view_set`, and of the columns sets that describe it. Seeds
    and hashes have no order for a person, and the order of status is "worst".
    """
    found = ["key", *SOURCE_COLUMNS]
    if view_set is not None:
        found += _single(view_set)
        described = [store.view_sets[name] for name in store.columns_of(view_set.name)]
        found += [f"{each.name}.{name}" for each in described for name in _single(each)]
    return found


class Deadline:
    """Raises once a query has taken too long; call it between blocks."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds, self._end = seconds, time.monotonic() + seconds

    def __call__(self) -> None:
        """Raise UnavailableError if the time is over."""
        if time.monotonic() > self._end:
            raise UnavailableError(
                f"this query takes more than {self._seconds:g} s",
                why="a page gives a query no more time, so that others get theirs",
                fix="try it again: what was read is kept; viewstore inspect STORE --where Q has "
                "no such limit",
            )


class Result:
    """The rows of a query in their order, which is worked out as far as it is asked for."""

    def __init__(
        self,
        rows: NDArray[np.int64],
        values: NDArray[Any] | None,
        last: NDArray[np.int64] | None = None,
        *,
        descending: bool = False,
        pages_ascend: bool = False,
    ) -> None:
        """Take rows, ascending; the values [B] that order them; and rows without one, the last.

        Ties go by row number. Without values the rows are in order already. `pages_ascend`: The
        rows of a page are shown by row number.
        """
        self._rows, self._values = rows, values
        self._last = np.empty(0, np.int64) if last is None else last
        self._descending, self._pages_ascend = descending, pages_ascend

    @classmethod
    def in_order(cls, rows: NDArray[np.int64]) -> Result:
        """Return the result of rows that are in their order."""
        return cls(rows, None)

    def __len__(self) -> int:
        return len(self._rows) + len(self._last)

    def page(self, begin: int, end: int) -> list[int]:
        """Return the rows from place `begin` to `end`, excluded, as far as there are so many."""
        ordered = self._first(end) if begin == 0 else self._all
        found: list[int] = ordered[begin:end].tolist()
        return sorted(found) if self._pages_ascend else found

    def _first(self, count: int) -> NDArray[np.int64]:
        """Return the first `count` rows without ordering the others."""
        if self._values is None or not 0 < count < len(self._rows) or "_all" in vars(self):
            return self._all
        at = len(self._rows) - count if self._descending else count - 1
        edge = np.partition(self._values, at)[at]
        inside = self._values >= edge if self._descending else self._values <= edge
        among = np.flatnonzero(inside)
        order = _stable(self._values[among], descending=self._descending)
        return self._rows[among[order[:count]]]

    @cached_property
    def _all(self) -> NDArray[np.int64]:
        if self._values is None:
            return self._rows
        order = _stable(self._values, descending=self._descending)
        return np.concatenate([self._rows[order], self._last])


def _stable(values: NDArray[Any], *, descending: bool) -> NDArray[np.int64]:
    """Return the order of values in which equal ones stay as they stand."""
    if not descending:
        return np.argsort(values, kind="stable")
    return (len(values) - 1 - np.argsort(values[::-1], kind="stable"))[::-1]


def _extreme(
    values: NDArray[Any], missing: NDArray[np.bool_], *, greatest: bool
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the greatest or least value of each row of [B, V], and which rows have none."""
    if values.dtype.kind == "f":
        missing = missing | np.isnan(values)
        limits: Any = (-np.inf, np.inf)
    else:
        limits = (np.iinfo(values.dtype).min, np.iinfo(values.dtype).max)
    choose = np.maximum if greatest else np.minimum
    beyond = values.dtype.type(limits[0] if greatest else limits[1])
    found = np.full(len(values), beyond)
    for view in range(values.shape[1]):
        choose(found, np.where(missing[:, view], beyond, values[:, view]), out=found)
    return found, np.logical_and.reduce(missing.T)


def _single(view_set: ViewSet) -> list[str]:
    """Return the columns of a view set that hold single numbers."""
    single = [each.name for each in view_set.plan.columns if is_single(view_set, each.name)]
    return [name for name in single if name not in UNORDERED]


def _names(view_set: ViewSet | None) -> list[str]:
    return [] if view_set is None else [view_set.name]
