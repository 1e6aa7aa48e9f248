"""Distributions: bars of histograms, percentiles of groups."""

from __future__ import annotations

import numpy as np

from viewstore.inspect.distributions import (
    BINS,
    Bar,
    Range,
    bars_of,
    bars_of_values,
    merged,
    ranges_by_view,
)


def test_few_whole_numbers_get_a_bar_each_and_real_numbers_do_not() -> None:
    counts, _ = np.histogram([0, 0, 1, 3], 64)
    assert bars_of(0, 3, counts.tolist()) == [
        Bar(-0.5, 0.5, 2, "0"),
        Bar(0.5, 1.5, 1, "1"),
        Bar(1.5, 2.5, 0, "2"),
        Bar(2.5, 3.5, 1, "3"),
    ]
    counts, _ = np.histogram(np.linspace(0, 3, 1000), 64)
    bars = bars_of(0, 3, counts.tolist())
    assert (len(bars), sum(bar.count for bar in bars)) == (64, 1000)


def test_bars_are_merged_while_most_are_empty_and_a_single_value_has_one() -> None:
    assert bars_of(0.0, 1.5, [1] + [0] * 62 + [1]) == [
        Bar(number * 0.1875, (number + 1) * 0.1875, count)
        for number, count in enumerate([1, 0, 0, 0, 0, 0, 0, 1])
    ]
    assert bars_of(1234, 1234, [0, 7]) == [Bar(1233.5, 1234.5, 7, "1,234")]
    assert bars_of(None, None, []) == []


def test_values_that_are_no_numbers_are_left_out() -> None:
    values = np.array([[0.0, 1.0], [np.nan, 3.0], [np.inf, np.nan]])
    bars = bars_of_values(values)
    assert (len(bars), sum(bar.count for bar in bars)) == (BINS, 3)
    assert ranges_by_view(values) == [
        Range("0", (0.0,) * 5),
        Range("1", (1.1, 1.5, 2.0, 2.5, 2.9)),
    ]
    assert bars_of_values(np.full((2, 2), np.nan)) == []
    assert ranges_by_view(np.full((2, 2), np.nan)) == []


def test_neighbours_are_merged_to_so_many_bins_or_fewer() -> None:
    assert merged([1, 2, 3, 4, 5], 2) == [6, 9]
    assert merged([1, 2], 16) == [1, 2]
