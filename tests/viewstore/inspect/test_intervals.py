"""The interval of a share: roots of its equation, and how often it misses."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from viewstore.errors import ConfigError
from viewstore.inspect.intervals import wilson


@given(st.integers(1, 5000), st.data(), st.floats(1e-4, 0.6))
def test_the_wilson_interval_holds_the_roots_of_its_equation(
    count: int, data: st.DataObject, level: float
) -> None:
    successes = data.draw(st.integers(0, count))
    share = successes / count
    low, high = wilson(successes, count, level)
    z = NormalDist().inv_cdf(1 - level / 2)
    assert 0 <= low <= share <= high <= 1
    for root in (low, high):
        off = (root - share) ** 2 - z * z * root * (1 - root) / count
        assert abs(off) < 1e-12


def test_the_wilson_interval_of_known_shares() -> None:
    """(25, 100): 17.55 % to 34.30 %, as R's prop.test gives without correction."""
    assert wilson(25, 100) == pytest.approx((0.17545, 0.34304), abs=1e-5)
    assert wilson(0, 10) == pytest.approx((0, 1.959964**2 / (10 + 1.959964**2)))
    for bad in ((1, 0), (3, 2), (-1, 5)):
        with pytest.raises(ConfigError, match="an interval needs"):
            wilson(*bad)


def test_wilson_intervals_hold_their_probability_and_know_its_ends() -> None:
    low, high = wilson(50, 100, 0.05)
    assert (round(low, 4), round(high, 4)) == (0.4038, 0.5962)
    assert wilson(0, 20, 0.01)[0] == pytest.approx(0)
    assert wilson(20, 20, 0.01)[1] == pytest.approx(1)
    rng = np.random.Generator(np.random.Philox(4))
    missed = 0
    for count in rng.binomial(400, 0.3, 2000).tolist():
        low, high = wilson(count, 400, 0.05)
        missed += not low <= 0.3 <= high
    assert 0.03 < missed / 2000 < 0.07
