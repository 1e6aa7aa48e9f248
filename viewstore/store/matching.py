"""Evaluates a row filter of `where.py` on the columns of a store, block by block."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, nearest
from viewstore.store.described import described_by, newest_about
from viewstore.store.rounds import newest_round, rounds_of
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet
from viewstore.store.where import (
    Expr,
    Joined,
    Not,
    Over,
    Test,
    Truth,
    compare,
    error_at,
    join,
    parse,
    spelled,
    tests_of,
)

# Rows looked at together: what a filter takes of memory does not grow with the store.
BLOCK_ROWS = 1 << 16
Rows = slice | NDArray[np.int64]  # of a store: [begin, end), or these [B]
SOURCE_COLUMNS = ("label", "index", "height", "width")


@dataclass(frozen=True)
class Found:
    """A column of single numbers that a name stands for.

    Attributes:
        name: Column of the view set, or one of SOURCE_COLUMNS, or "key".
        view_set: Where the column lies; None: it belongs to the source.
        per_view: Whether it has a value for each view.
    """

    name: str
    view_set: ViewSet | None
    per_view: bool

    def values(self, store: Store, rows: Rows) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return values of `rows`, and which of them were never written, [B, 1 or V] each.

        Of "key" it is the place of each key in their order that is returned.
        """
        if self.view_set is not None:
            params = self.view_set.params
            if params.stays(self.name):
                stored = params[self.name][rows]
            else:
                stored = params.rows(self.name, _numbered(rows))
            values = stored.reshape(len(stored), math.prod(stored.shape[1:]))
            return values, self.view_set.plan.column(self.name).missing(values)
        if self.name == "index":
            values = _numbered(rows)[:, None]
        elif self.name == "key":
            values = store.keys.places[rows][:, None]
        else:
            values = getattr(store.table, self.name)[rows][:, None]
        return values, values == -1 if self.name == "label" else np.zeros(values.shape, np.bool_)


def _numbered(rows: Rows) -> NDArray[np.int64]:
    return np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows


@dataclass(frozen=True)
class Place:
    """Where a column is named, for messages: in which text, at which character, and what it is."""

    text: str
    position: int = 0
    what: str = "where"

    def error(self, message: str, *, code: str | None = None) -> ConfigError:
        """Return an error about it."""
        return error_at(message, self.text, self.position, code=code, what=self.what)


@dataclass(frozen=True)
class Bound:
    """A test of a filter in a store: its column, and the numbers that it is compared with."""

    column: Found
    wanted: tuple[Any, ...]


@dataclass(frozen=True)
class Filter:
    """A row filter, bound to the columns of a store."""

    store: Store
    expr: Expr
    bound: Mapping[Test, Bound]

    @property
    def understood(self) -> Expr:
        """What it means, any(..) spelled out wherever a test is about any view."""
        return spelled(self.expr, lambda test: self.bound[test].column.per_view)

    @property
    def columns(self) -> list[str]:
        """The columns that it names, as it names them, each once."""
        return list(dict.fromkeys(test.column for test in tests_of(self.expr)))

    def rows(self, between: Callable[[], None] = lambda: None) -> NDArray[np.int64]:
        """Return the rows for which it is true, int64, ascending; maybe none.

        `between` is called between two blocks of rows; it raises where it has taken too long.
        """
        selected = []
        for begin in range(0, self.store.num_samples, BLOCK_ROWS):
            between()
            end = min(self.store.num_samples, begin + BLOCK_ROWS)
            truth = _truth(self.store, self.expr, self.bound, slice(begin, end), inside=False)
            selected.append(np.flatnonzero(np.broadcast_to(truth.is_true[:, 0], end - begin)))
            selected[-1] += begin
        return np.concatenate(selected)


def bind(store: Store, text: str, preferred: Sequence[str] = ()) -> Filter:
    """Return the filter `text` bound to the columns of a store.

    A name alone is a column of one of the `preferred` view sets if they have it, else of any view
    set; "view-set.column" says which: of its rounds the preferred one, or the newest that
    describes a preferred one, or the newest.

    Raises:
        ConfigError: The text is no filter, or a column or value is unknown or ambiguous.
    """
    expr = parse(text)
    bound = {}
    for test in tests_of(expr):
        place = Place(text, test.position)
        column = find_column(store, test.column, place, preferred)
        bound[test] = _compared(store, test, column, place)
    _check_spans(expr, bound, text)
    return Filter(store, expr, bound)


def matching_rows(store: Store, text: str, preferred: Sequence[str] = ()) -> NDArray[np.int64]:
    """Return the rows for which the filter `text` is true, int64, ascending.

    Only the columns it names are read. Names are understood as `bind` does.

    Raises:
        ConfigError: The text is no filter, a column or value is unknown or ambiguous, or it is
            true for no row.
    """
    found = bind(store, text, preferred)
    rows = found.rows()
    if not len(rows):
        raise ConfigError(
            f"where keeps none of {store.num_samples} rows: {found.expr}",
            why="a value that was never written is neither true nor false; 'is missing' finds it",
            fix=f"viewstore stats {shlex.quote(store.location)} shows the range of each column",
        )
    return rows


def find_column(store: Store, named: str, place: Place, preferred: Sequence[str] = ()) -> Found:
    """Return the column of single numbers that a name stands for, as `bind` says.

    Raises:
        ConfigError: There is none, or there are several; `place` is where it is named.
    """
    set_name, dot, name = named.rpartition(".")
    if dot:
        if not rounds_of(store, set_name):
            hint = nearest(set_name, list(store.view_sets))
            message = f"must name a view set of this store, got {set_name!r}; {hint}"
            raise place.error(message, code="VS102")
        return _of_view_set(_round_meant(store, set_name, preferred), name, place)
    if name == "key" or name in SOURCE_COLUMNS:
        return Found(name, None, False)
    view_sets = [each for each in store.view_sets.values() if name in each.params]
    having = [each for each in view_sets if each.name in preferred] or view_sets
    if len(having) > 1:
        names = " or ".join(f"{each.name}.{name}" for each in having)
        raise place.error(f"must say which column {name} is meant: {names}")
    if not having:
        every = {column for each in store.view_sets.values() for column in each.params}
        hint = nearest(name, sorted({*every, *SOURCE_COLUMNS, "key"}))
        raise place.error(f"must name a column, got {name!r}; {hint}", code="VS102")
    return _of_view_set(having[0], name, place)


def _round_meant(store: Store, name: str, preferred: Sequence[str]) -> ViewSet:
    """Return the round that a name means: the preferred one, or the newest that describes one."""
    if name in preferred:
        return store.view_sets[name]
    shown = [store.view_sets[each].plan.id for each in preferred]
    return newest_about(store, name, shown) or newest_round(store, name)


def _of_view_set(view_set: ViewSet, name: str, place: Place) -> Found:
    if name not in view_set.params:
        hint = nearest(name, list(view_set.params))
        message = f"must name a column of {view_set.name}, got {name!r}; {hint}"
        raise place.error(message, code="VS102")
    if not is_single(view_set, name):
        raise place.error(
            f"must name a column of single numbers; {name} has {numbers_of(view_set, name)}, "
            f"which {_told_by(view_set, name)}"
        )
    return Found(name, view_set, view_set.plan.per_view(name))


def is_single(view_set: ViewSet, name: str) -> bool:
    """Return whether a column has one number for each view, or one for the sample."""
    return math.prod(_entry(view_set, name)) == 1


def _entry(view_set: ViewSet, name: str) -> tuple[int, ...]:
    """Return the shape of what a column holds of each view, or of the sample."""
    return view_set.plan.column(name).shape[view_set.plan.per_view(name) :]


def numbers_of(view_set: ViewSet, name: str) -> str:
    """Return how many numbers a column has of what, in words: "128 numbers a view"."""
    sides = " x ".join(map(str, _entry(view_set, name)))
    return f"{sides} numbers a {'view' if view_set.plan.per_view(name) else 'sample'}"


def page_of(view_set: ViewSet, name: str) -> str:
    """Return the title of the page that shows a column of several numbers; "": none does."""
    column = view_set.plan.column(name)
    if column.per == "choice" or name.startswith("pair_"):
        return "Pairs"
    if column.pack and name != "feature":
        return "Stats"
    return "Embeddings" if len(_entry(view_set, name)) == 1 else ""


def _told_by(view_set: ViewSet, name: str) -> str:
    page = page_of(view_set, name)
    return f"the page {page} shows" if page else f"no page shows; view_set.params[{name!r}] does"


def _compared(store: Store, test: Test, column: Found, place: Place) -> Bound:
    """Return a test with what its column is compared with; a key is compared as its row number."""
    if column.view_set is None and column.name == "key":
        return Bound(Found("index", None, False), _keys(store, test, place))
    if column.view_set is None and column.name == "label":
        return Bound(column, _labels(store, test, place))
    return Bound(column, _numbers(test, place))


def _numbers(test: Test, place: Place) -> tuple[Any, ...]:
    if any(isinstance(value, str) for value in test.values):
        raise place.error(f"must compare {test.column} with numbers, got {test}")
    return tuple(int(value) if isinstance(value, bool) else value for value in test.values)


def _labels(store: Store, test: Test, place: Place) -> tuple[Any, ...]:
    wanted: list[Any] = []
    for value in test.values:
        if isinstance(value, str) and value not in store.label_names:
            hint = nearest(value, list(store.label_names))
            raise place.error(f"must name a label, got {value!r}; {hint}", code="VS102")
        wanted.append(store.label_names.index(value) if isinstance(value, str) else value)
    return tuple(wanted)


def _keys(store: Store, test: Test, place: Place) -> tuple[int, ...]:
    texts = [value for value in test.values if isinstance(value, str)]
    if test.sign not in ("=", "!=", "in") or len(texts) < len(test.values):
        raise place.error("must ask of key = 'text', != or in")
    rows = (store.keys.lookup(text) for text in texts)
    return tuple(-1 if row is None else row for row in rows)


def _check_spans(expr: Expr, bound: Mapping[Test, Bound], text: str) -> None:
    """Raise ConfigError if any(..) or all(..) would go over the views of two view sets.

    A columns set has the views of its parent: both may be asked about in one.
    """
    if isinstance(expr, Over):
        columns = [bound[test].column for test in tests_of(expr.expr)]
        sets = {
            each.view_set.name: each.view_set
            for each in columns
            if each.view_set is not None and each.per_view
        }
        if len({described_by(each.plan) for each in sets.values()}) > 1:
            found = " and ".join(sorted(sets))
            message = f"must not go over the views of {found} in one {expr.span}(..)"
            raise error_at(message, text, expr.position)
    elif isinstance(expr, Joined):
        for part in expr.parts:
            _check_spans(part, bound, text)
    elif isinstance(expr, Not):
        _check_spans(expr.expr, bound, text)


def _truth(
    store: Store, expr: Expr, bound: Mapping[Test, Bound], rows: slice, *, inside: bool
) -> Truth:
    """Return the truth of an expression for rows, [B, 1]; `inside` any(..) and all(..), [B, V]."""
    if isinstance(expr, Over):
        return _truth(store, expr.expr, bound, rows, inside=True).over(expr.span)
    if isinstance(expr, Not):
        truth = _truth(store, expr.expr, bound, rows, inside=inside)
        return Truth(truth.is_false, truth.is_true)
    if isinstance(expr, Joined):
        parts = [_truth(store, part, bound, rows, inside=inside) for part in expr.parts]
        return join(expr.word, parts)
    values, missing = bound[expr].column.values(store, rows)
    truth = compare(expr, values, missing, bound[expr].wanted)
    return truth if inside else truth.over("any")
