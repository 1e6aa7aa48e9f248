"""Statistics of columns: what they say, and that no value stops them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from viewstore.format.columns import DTYPES, Column
from viewstore.format.records import canonical
from viewstore.format.stats import BINS, ColumnStats, column_stats


def stats_of(dtype: str, values: list[float]) -> ColumnStats:
    column = Column(name="x_a", dtype=dtype, shape=())
    found = column_stats(column, np.array(values, column.numpy_dtype))
    canonical(vars(found) | {"percentiles": list(found.percentiles)})  # can be written down
    return found


def test_statistics_are_of_what_was_written() -> None:
    found = stats_of("f4", [1.0, 2.0, math.nan, 5.0])
    assert (found.count, found.fill, found.min, found.max) == (3, 1, 1.0, 5.0)
    assert sum(found.histogram) == 3
    assert len(found.histogram) == BINS


@pytest.mark.parametrize("extreme", [math.inf, -math.inf])
@pytest.mark.parametrize("dtype", ["f2", "f4"])
def test_an_infinity_counts_and_moves_nothing(dtype: str, extreme: float) -> None:
    found = stats_of(dtype, [1.0, extreme, 3.0])
    assert (found.count, found.min, found.max, found.mean) == (3, 1.0, 3.0, 2.0)
    assert stats_of(dtype, [extreme, extreme]).mean is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_extreme_value_has_statistics(dtype: str) -> None:
    numpy_dtype = np.dtype("<" + dtype)
    limits = np.finfo(numpy_dtype) if dtype.startswith("f") else np.iinfo(numpy_dtype)
    values = [limits.max - 1 if dtype.startswith("u") else limits.max]
    for count in (1, 3):
        found = stats_of(dtype, values * count)
        assert found.count == sum(found.histogram) == count
        assert found.min == found.max == float(values[0])


def test_values_that_float64_cannot_tell_apart_have_a_histogram() -> None:
    found = stats_of("u8", [2**63, 2**63 + 2048, 2**63 + 4096])
    assert found.count == sum(found.histogram) == 3
