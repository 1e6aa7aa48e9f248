"""Evaluates a row filter of `where.py` on the columns of a store, block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    tests_of,
)

# Rows looked at together: what a filter takes of memory does not grow with the store.
BLOCK_ROWS = 1 << 16
SOURCE_COLUMNS = ("label", "index", "height", "width")


@dataclass(frozen=True)
class Bound:
    """The column of a test in the store, and the values it is compared with.

    Attributes:
        name: Column of the view set, or one of SOURCE_COLUMNS, or "key".
        view_set: Where the column lies; None: it belongs to the source.
        per_view: Whether it has a value for each view.
        wanted: Values of the test.
    """

    name: str
    view_set: ViewSet | None
    per_view: bool
    wanted: tuple[Any, ...]


def matching_rows(store: Store, text: str, preferred: Sequence[str] = ()) -> NDArray[np.int64]:
    """Return the rows for which the filter `text` is true, int64, ascending.

    Only the columns it names are read. A name alone is a column of one of the `preferred` view
    sets if they have it, else of any view set; "view-set.column" says which: of its rounds the
    preferred one, or the newest that describes a preferred one, or the newest.

    Raises:
        ConfigError: The text is no filter, a column or value is unknown or ambiguous, or it is
            true for no row.
    """
    expr = parse(text)
    bound = {test: _bind(store, test, text, preferred) for test in tests_of(expr)}
    _check_spans(expr, bound, text)
    selected = []
    for begin in range(0, store.num_samples, BLOCK_ROWS):
        block = np.arange(begin, min(store.num_samples, begin + BLOCK_ROWS), dtype=np.int64)
        truth = _truth(store, expr, bound, block, inside=False)
        selected.append(block[np.broadcast_to(truth.is_true[:, 0], block.shape)])
    rows = np.concatenate(selected)
    if not len(rows):
        raise ConfigError(
            f"where keeps none of {store.num_samples} rows: {expr}",
            why="a value that was never written is neither true nor false; 'is missing' finds it",
            fix="viewstore stats STORE shows the range of each column",
        )
    return rows


def _bind(store: Store, test: Test, text: str, preferred: Sequence[str]) -> Bound:
    set_name, dot, name = test.column.rpartition(".")
    if dot:
        if not rounds_of(store, set_name):
            hint = nearest(set_name, list(store.view_sets))
            message = f"must name a view set of this store, got {set_name!r}; {hint}"
            raise error_at(message, text, test.position, code="VS102")
        return _of_view_set(_round_meant(store, set_name, preferred), test, name, text)
    if name == "key":
        return Bound(name, None, False, _keys(test, text))
    if name in SOURCE_COLUMNS:
        wanted = _labels(store, test, text) if name == "label" else _numbers(test, text)
        return Bound(name, None, False, wanted)
    view_sets = [each for each in store.view_sets.values() if name in each.params]
    having = [each for each in view_sets if each.name in preferred] or view_sets
    if len(having) > 1:
        names = " or ".join(f"{each.name}.{name}" for each in having)
        raise error_at(f"must say which column {name} is meant: {names}", text, test.position)
    if not having:
        every = {column for each in store.view_sets.values() for column in each.params}
        hint = nearest(name, sorted({*every, *SOURCE_COLUMNS, "key"}))
        message = f"must name a column, got {name!r}; {hint}"
        raise error_at(message, text, test.position, code="VS102")
    return _of_view_set(having[0], test, name, text)


def _round_meant(store: Store, name: str, preferred: Sequence[str]) -> ViewSet:
    """Return the round that a name means: the preferred one, or the newest that describes one."""
    if name in preferred:
        return store.view_sets[name]
    shown = [store.view_sets[each].plan.id for each in preferred]
    return newest_about(store, name, shown) or newest_round(store, name)


def _of_view_set(view_set: ViewSet, test: Test, name: str, text: str) -> Bound:
    if name not in view_set.params:
        hint = nearest(name, list(view_set.params))
        message = f"must name a column of {view_set.name}, got {name!r}; {hint}"
        raise error_at(message, text, test.position, code="VS102")
    column, per_view = view_set.plan.column(name), view_set.plan.per_view(name)
    if len(column.shape) > per_view:
        message = f"must name a column of single numbers; {name} has {column.shape} a row"
        raise error_at(message, text, test.position)
    return Bound(name, view_set, per_view, _numbers(test, text))


def _numbers(test: Test, text: str) -> tuple[Any, ...]:
    if any(isinstance(value, str) for value in test.values):
        message = f"must compare {test.column} with numbers, got {test}"
        raise error_at(message, text, test.position)
    return tuple(int(value) if isinstance(value, bool) else value for value in test.values)


def _labels(store: Store, test: Test, text: str) -> tuple[Any, ...]:
    wanted: list[Any] = []
    for value in test.values:
        if isinstance(value, str) and value not in store.label_names:
            hint = nearest(value, list(store.label_names))
            message = f"must name a label, got {value!r}; {hint}"
            raise error_at(message, text, test.position, code="VS102")
        wanted.append(store.label_names.index(value) if isinstance(value, str) else value)
    return tuple(wanted)


def _keys(test: Test, text: str) -> tuple[Any, ...]:
    if test.sign not in ("=", "!=", "in") or not all(isinstance(v, str) for v in test.values):
        raise error_at("must ask of key = 'text', != or in", text, test.position)
    return test.values


def _check_spans(expr: Expr, bound: Mapping[Test, Bound], text: str) -> None:
    """Raise ConfigError if any(..) or all(..) would go over the views of two view sets.

    A columns set has the views of its parent: both may be asked about in one.
    """
    if isinstance(expr, Over):
        columns = [bound[test] for test in tests_of(expr.expr)]
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
    store: Store, expr: Expr, bound: Mapping[Test, Bound], rows: NDArray[np.int64], *, inside: bool
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
    column = bound[expr]
    values, missing = _values(store, column, rows)
    truth = compare(expr, values, missing, column.wanted)
    return truth if inside else truth.over("any")


def _values(
    store: Store, bound: Bound, rows: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return values and which of them were never written, [B, 1 or V]."""
    if bound.view_set is not None:
        values = bound.view_set.params.rows(bound.name, rows).reshape(len(rows), -1)
        return values, bound.view_set.plan.column(bound.name).missing(values)
    if bound.name == "key":
        keys = np.array(store.table.keys[rows[0] : rows[-1] + 1], dtype=object)[:, None]
        return keys, np.zeros(keys.shape, np.bool_)
    if bound.name == "index":
        return rows[:, None], np.zeros((len(rows), 1), np.bool_)
    values = getattr(store.table, bound.name)[rows][:, None]
    return values, values == -1 if bound.name == "label" else np.zeros(values.shape, np.bool_)
