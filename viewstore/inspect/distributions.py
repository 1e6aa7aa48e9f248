"""How values are distributed, as charts and text show it: bars, and percentiles of groups. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.inspect.numbers import axis_number

BINS = 48
LEAST_BARS = 8
CELLS = 40  # of a density, a side at most
BLOCK = 1 << 16  # values looked at together, which stay in the processor's cache


@dataclass(frozen=True)
class Bar:
    """How many values lie in [low, high); `label` names the one value of a bar that has one."""

    low: float
    high: float
    count: int
    label: str = ""


@dataclass(frozen=True)
class Range:
    """Percentiles 5, 25, 50, 75 and 95 of a group of values."""

    label: str
    percentiles: tuple[float, float, float, float, float]


@dataclass(frozen=True)
class Density:
    """How many pairs of values lie in each cell of a grid over two axes.

    Attributes:
        across, up: Ends of the horizontal and the vertical axis.
        counts: Of each cell, from the lowest row up, each from left to right.
    """

    across: tuple[float, float]
    up: tuple[float, float]
    counts: tuple[tuple[int, ...], ...]


def bars_of(low: float | None, high: float | None, counts: Sequence[int]) -> list[Bar]:
    """Return bars of the counts of equal bins between `low` and `high`, both None if empty.

    Whole numbers of few values get one bar each; otherwise bins are merged while most are empty.
    """
    if low is None or high is None or not counts:
        return []
    span = high - low
    if span == 0:
        return [Bar(low - 0.5, low + 0.5, sum(counts), axis_number(low))]
    if float(low).is_integer() and float(span).is_integer() and span < len(counts):
        bins = [min(len(counts) - 1, int(v * len(counts) / span)) for v in range(int(span) + 1)]
        if sum(counts[index] for index in bins) == sum(counts):
            return [
                Bar(low + v - 0.5, low + v + 0.5, counts[index], axis_number(low + v))
                for v, index in enumerate(bins)
            ]
    while len(counts) > LEAST_BARS and sum(count == 0 for count in counts) > len(counts) // 2:
        counts = [counts[i] + counts[i + 1] for i in range(0, len(counts), 2)]
    step = span / len(counts)
    return [Bar(low + i * step, low + (i + 1) * step, n) for i, n in enumerate(counts)]


def bars_of_values(values: NDArray[Any]) -> list[Bar]:
    """Return 48 bars of the finite values of an array; none if there is no such value."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if not len(finite):
        return []
    counts, edges = np.histogram(finite, BINS)
    ends = zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
    return [Bar(low, high, count) for low, high, count in ends]


def ranges_by_view(values: NDArray[Any]) -> list[Range]:
    """Return the range of the finite values of each view that has any. `values`: [N, V]."""
    groups = []
    for view, column in enumerate(values.T):
        finite = column[np.isfinite(column)]
        if len(finite):
            p5, p25, p50, p75, p95 = np.percentile(finite, (5, 25, 50, 75, 95)).tolist()
            groups.append(Range(str(view), (p5, p25, p50, p75, p95)))
    return groups


def merged(counts: Sequence[int], bins: int) -> list[int]:
    """Return counts of `bins` bins or fewer, each the sum of neighbours."""
    size = -(-len(counts) // bins)
    return [sum(counts[i : i + size]) for i in range(0, len(counts), size)]


def paired_bars(first: NDArray[Any], second: NDArray[Any]) -> tuple[list[Bar], list[Bar]]:
    """Return bars of the finite values of two arrays over the same bins; none if one has none."""
    both = [each[np.isfinite(each)].astype(np.float64) for each in (first, second)]
    if not all(map(len, both)):
        return [], []
    low, high = min(each.min() for each in both), max(each.max() for each in both)
    counted = [np.histogram(each, BINS, (low, high))[0].tolist() for each in both]
    edges = np.linspace(low, high, BINS + 1).tolist() if high > low else [low - 0.5, low + 0.5]
    counted = counted if high > low else [[sum(counts)] for counts in counted]
    first_bars, second_bars = (
        [Bar(a, b, n) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)]
        for counts in counted
    )
    return first_bars, second_bars


def density_of(
    across: NDArray[Any], up: NDArray[Any], *, whole: tuple[bool, bool] = (False, False)
) -> Density | None:
    """Return how two columns go together; None where no pair of values is finite.

    Args:
        across: [N, 1 or V]; values that are missing are NaN.
        up: Likewise; where one of the two has a value for the sample, it goes with all its views.
        whole: Which of them holds whole numbers: each has a cell, if there are few.
    """
    x_ends, y_ends = _finite_ends(across), _finite_ends(up)
    if x_ends is None or y_ends is None:
        return None
    low, columns, x_scale = _cells(*x_ends, whole[0])
    bottom, rows, y_scale = _cells(*y_ends, whole[1])
    counts = np.zeros(rows * columns, np.int64)
    step = max(1, BLOCK // max(across.shape[1], up.shape[1]))
    for begin in range(0, len(across), step):
        x, y = np.broadcast_arrays(across[begin : begin + step], up[begin : begin + step])
        known = np.isfinite(x) & np.isfinite(y)
        column = np.minimum((x[known] - low) * x_scale, columns - 1).astype(np.int64)
        row = np.minimum((y[known] - bottom) * y_scale, rows - 1).astype(np.int64)
        counts += np.bincount(row * columns + column, minlength=len(counts))
    if not counts.any():
        return None
    return Density(
        (low, low + columns / x_scale),
        (bottom, bottom + rows / y_scale),
        tuple(map(tuple, counts.reshape(rows, columns).tolist())),
    )


def _finite_ends(values: NDArray[Any]) -> tuple[float, float] | None:
    """Return the least and the greatest finite value, or None."""
    if not values.size:
        return None
    low, high = (float(each.reduce(values, axis=None)) for each in (np.fmin, np.fmax))
    if math.isfinite(low) and math.isfinite(high):
        return low, high
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if len(finite) else None


def _cells(low: float, high: float, whole: bool) -> tuple[float, int, float]:
    """Return the lower end of an axis, how many cells it has, and cells per unit."""
    if whole and high - low < CELLS:
        return low - 0.5, int(high - low) + 1, 1.0
    if high == low:
        return low - 0.5, 1, 1.0
    return low, CELLS, CELLS / (high - low)


def ks_distance(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return the Kolmogorov-Smirnov distance of two samples of finite values, [n] and [m].

    It is the greatest difference of the shares of them that are at most a value: 0 to 1.
    """
    ordered = [np.sort(each) for each in (first, second)]
    greatest = 0.0
    for at in ordered:
        shares = [np.searchsorted(each, at, "right") / len(each) for each in ordered]
        greatest = max(greatest, float(np.abs(shares[0] - shares[1]).max()))
    return greatest
