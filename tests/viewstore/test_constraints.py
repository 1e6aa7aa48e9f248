"""Which views keep the distances that were asked for, and which could not."""

from __future__ import annotations

from pathlib import Path

import pytest

from viewstore.constraints import Constraints, constraints_of, pair_bound, tally
from viewstore.store import open_store


def test_the_bound_is_the_one_of_the_published_table() -> None:
    bounds = [round(pair_bound(eps1, 8), 3) for eps1 in (0.1, 0.2, 0.3, 0.5)]
    assert bounds == [0.151, 0.301, 0.448, 0.732]


def test_counts_agree_with_a_plain_loop(searched: Path) -> None:
    view_set = open_store(searched).view_set("w-search")
    wanted = constraints_of(view_set)
    assert wanted is not None
    assert (wanted.eps1, wanted.eps2, wanted.tolerance) == (0.3, pytest.approx(0.4), 0.02)
    counted = tally(view_set, wanted)
    within = close = far = failed = 0
    for distances, converged in zip(
        view_set.params["distance"], view_set.params["converged"], strict=True
    ):
        failed += not all(converged)
        for distance in distances.tolist():
            within += 0.28 <= distance <= 0.32
            close += distance < 0.28
            far += distance > 0.32
    assert (counted.within, counted.too_close, counted.too_far) == (within, close, far)
    assert (counted.samples, counted.not_converged) == (6, failed)
    assert 0 < within < 18, "the store must have views on both sides"


def test_a_hinge_has_no_views_that_are_too_far() -> None:
    hinge = Constraints(eps1=0.3, eps2=None, tolerance=0.02, hinge=True, bound=None)
    assert [hinge.verdict(d) for d in (0.2, 0.29, 0.9)] == ["too close", "", ""]
    assert hinge.verdict(float("nan")) == "not measured"


def test_eps2_above_the_bound_is_unreachable() -> None:
    reach = {"eps1": 0.3, "tolerance": 0.02, "hinge": False, "bound": 0.448}
    assert Constraints(eps2=0.5, **reach).unreachable  # type: ignore[arg-type]
    assert not Constraints(eps2=0.44, **reach).unreachable  # type: ignore[arg-type]
