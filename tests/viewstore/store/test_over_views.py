"""Reductions over views are those of numpy over the last axis."""

from __future__ import annotations

import numpy as np
import pytest

from viewstore.store.over_views import over_views

VALUES = np.random.Generator(np.random.Philox(1)).integers(0, 3, (50, 4)).astype(np.float32)


@pytest.mark.parametrize("rows", [0, 50])
@pytest.mark.parametrize("operation", [np.logical_or, np.logical_and, np.add, np.maximum])
def test_a_reduction_over_views_is_that_over_the_last_axis(operation: np.ufunc, rows: int) -> None:
    some = VALUES[:rows]
    np.testing.assert_array_equal(over_views(operation, some), operation.reduce(some, axis=1))


def test_sums_are_in_the_type_that_is_asked_for() -> None:
    assert over_views(np.add, VALUES == 1, np.int64).tolist() == (VALUES == 1).sum(1).tolist()
    assert over_views(np.add, VALUES, np.float64).dtype == np.float64
