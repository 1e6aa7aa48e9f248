"""Two view sets, joined by the keys of their samples, and how far their columns differ. Pure."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.format.stats import evenly_spread
from viewstore.inspect.distributions import ks_distance
from viewstore.store.over_views import over_views

MOST_VALUES = 1 << 20  # of a column, between which a Kolmogorov-Smirnov distance is taken


@dataclass(frozen=True)
class Join:
    """The samples of two stores by key.

    Attributes:
        first, second: Rows of the samples that are in both, int64 [n], ascending in the first.
        only_first, only_second: How many are in one of them alone.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    only_first: int
    only_second: int


def join_keys(first: Sequence[str], second: Sequence[str]) -> Join:
    """Return the samples of two lists of distinct keys; nothing is sorted."""
    row_of = dict(zip(second, range(len(second)), strict=True))
    found = np.fromiter((row_of.get(key, -1) for key in first), np.int64, len(first))
    rows = np.flatnonzero(found >= 0)
    return Join(rows, found[rows], len(first) - len(rows), len(second) - len(rows))


def same_rows(count: int) -> Join:
    """Return the join of two view sets of the same `count` samples in the same order."""
    rows = np.arange(count, dtype=np.int64)
    return Join(rows, rows, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How the values of a column differ between two view sets.

    Attributes:
        first_mean, second_mean: Of the finite values.
        ks: The Kolmogorov-Smirnov distance of their distributions.
        ks_values: How many values of the two it was taken of: all, or 2^20 spread evenly.
    """

    first_mean: float
    second_mean: float
    ks: float
    ks_values: tuple[int, int]

    @property
    def mean(self) -> float:
        """The second mean less the first."""
        return self.second_mean - self.first_mean


def difference_of(first: NDArray[Any], second: NDArray[Any]) -> Difference | None:
    """Return how two columns [n, ..] and [m, ..] differ; None where one has no finite value."""
    both = [each[np.isfinite(each)].astype(np.float64) for each in (first, second)]
    if not all(map(len, both)):
        return None
    some = [evenly_spread(each, MOST_VALUES) for each in both]
    return Difference(
        first_mean=float(both[0].mean()),
        second_mean=float(both[1].mean()),
        ks=ks_distance(*some),
        ks_values=(len(some[0]), len(some[1])),
    )


def row_differences(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """Return the absolute difference of two columns in each row, [n]; NaN where there is none.

    Args:
        first: [n, V], NaN where a value is missing.
        second: [n, W]. Where W is V it is the greatest difference of a view of one to the view of
            the same number of the other; else that of the means over views.
    """
    ours, theirs = (each.astype(np.float64) for each in (first, second))
    if ours.shape == theirs.shape:
        return over_views(np.fmax, np.abs(ours - theirs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # rows without a value
        return np.asarray(np.abs(np.nanmean(ours, axis=1) - np.nanmean(theirs, axis=1)))
