"""How values are distributed, as charts and text show it: bars, and percentiles of groups. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.inspect.numbers import axis_number

BINS = 48
LEAST_BARS = 8


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
