"""Columns of single numbers: their values as arrays, and filters that find some of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.format.stats import COMPONENTS
from viewstore.inspect.distributions import Bar
from viewstore.inspect.numbers import no_number
from viewstore.store.described import newest_about
from viewstore.store.matching import is_single
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet


@dataclass(frozen=True)
class ColumnFilter:
    """Tests of a column; a row is found by any of its views.

    A filter compares float32 numbers. Bounds are therefore moved to the next number that is one,
    to the side on which no stored value changes its answer.

    Attributes:
        name: As filters have it: "w-search.distance".
        per_view: Whether it has a value for each view.
        floats: Whether its values are floats; else they are whole numbers.
    """

    name: str
    per_view: bool = True
    floats: bool = True

    def below(self, value: float) -> str:
        """Return the filter of values below a number."""
        return self._any(f"{self.name} < {self._up(value)}")

    def above(self, value: float) -> str:
        """Return the filter of values above a number."""
        return self._any(f"{self.name} > {self._down(value)}")

    def at_most(self, value: float) -> str:
        """Return the filter of values up to a number."""
        return self._any(f"{self.name} <= {self._down(value)}")

    def at_least(self, value: float) -> str:
        """Return the filter of values from a number on."""
        return self._any(f"{self.name} >= {self._up(value)}")

    def within(self, low: float, high: float) -> str:
        """Return the filter of values from `low` to `high`, both inclusive."""
        return self._any(f"{self.name} >= {self._up(low)} and {self.name} <= {self._down(high)}")

    def missing(self) -> str:
        """Return the filter of values that were never written."""
        return self._any(f"{self.name} is missing")

    def bar(self, bar: Bar, greatest: float) -> str:
        """Return the filter of a bar of a histogram; its last bar holds `greatest` too."""
        if bar.label:
            middle = (bar.low + bar.high) / 2
            return self._any(f"{self.name} = {self._up(middle)}")
        if bar.high >= greatest or np.isclose(bar.high, greatest, rtol=1e-12, atol=0):
            return self.within(bar.low, greatest)
        return self._any(
            f"{self.name} >= {self._up(bar.low)} and {self.name} < {self._up(bar.high)}"
        )

    def _any(self, test: str) -> str:
        return f"any({test})" if self.per_view else test

    def _up(self, value: float) -> str:
        """Return the least number from `value` on that the column can be compared with exactly."""
        near = np.float32(value)
        if self.floats:
            over = float(near) >= value
            return _word(near if over else np.nextafter(near, np.float32(np.inf)))
        return _whole(value)

    def _down(self, value: float) -> str:
        """Return the greatest such number up to `value`."""
        near = np.float32(value)
        if self.floats:
            under = float(near) <= value
            return _word(near if under else np.nextafter(near, np.float32(-np.inf)))
        return _whole(value)


def _word(value: np.float32) -> str:
    """Return the shortest text that is read as this float32."""
    return str(value).removesuffix(".0")


def _whole(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def column_filter(
    store: Store, shown: ViewSet, view_set: ViewSet, name: str
) -> ColumnFilter | None:
    """Return the filters of column `name` of a view set, where `shown` is picked.

    None: a filter cannot ask for it, since it has several numbers for each view.
    """
    column, per_view = view_set.plan.column(name), view_set.plan.per_view(name)
    if not is_single(view_set, name):
        return None
    meant = view_set.name
    if view_set is not shown and newest_about(store, meant, [shown.plan.id]) is not view_set:
        meant = f"{meant}-r1"  # its name alone means a newer round
    return ColumnFilter(f"{meant}.{name}", per_view, column.dtype.startswith("f"))


def single_columns(view_set: ViewSet) -> list[str]:
    """Return the columns of a view set that hold single numbers, and the components of others."""
    found = []
    for name in view_set.params.columns:
        if name in COMPONENTS:
            found += [f"{name}.{part}" for part in COMPONENTS[name]]
        elif is_single(view_set, name):
            found.append(name)
    return found


def holds_floats(view_set: ViewSet, name: str) -> bool:
    """Return whether a column or component holds floats, and no whole numbers."""
    return view_set.plan.column(name.partition(".")[0]).dtype.startswith("f")


def column_values(
    view_set: ViewSet, name: str, rows: NDArray[np.int64] | None = None
) -> NDArray[Any]:
    """Return a column or component, [N, 1 or V], with NaN where a value was never written.

    So it is where a value says "off" or "none", which is no number.

    `rows`: Those that are wanted; None: all.
    """
    base, _, part = name.partition(".")
    column = view_set.plan.column(base)
    values = view_set.params[base] if rows is None else view_set.params.rows(base, rows)
    if part:
        values = values[..., COMPONENTS[base].index(part)]
    missing = column.missing(values)
    if (word := no_number(base)) is not None:
        missing = missing | (values == word[0])
    if missing.any() and not np.isnan(column.fill):
        values = np.where(missing, np.nan, values)
    return values.reshape(len(values), math.prod(values.shape[1:]))
