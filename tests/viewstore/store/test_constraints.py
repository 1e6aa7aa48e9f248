"""Which views keep the distances that were asked for, and which could not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from viewstore.store.constraints import Constraints, constraints_of, pair_bound, tally
from viewstore.store.store import open_store


def test_the_bound_is_the_one_of_the_published_table() -> None:
    bounds = [round(pair_bound(eps1, 8), 3) for eps1 in (0.1, 0.2, 0.3, 0.5)]
    assert bounds == [0.151, 0.301, 0.448, 0.732]


def test_counts_agree_with_a_plain_loop(searched: Path) -> None:
    view_set = open_store(searched).view_set("w-search")
    planned = constraints_of(view_set)
    assert planned is not None
    assert (planned.eps1, planned.eps2, planned.tolerance) == (0.3, pytest.approx(0.4), 0.02)
    low, middle, high = np.quantile(view_set.params["distance"], (0.25, 0.5, 0.75)).tolist()
    # How far the search comes differs between processors: so narrow a goal has both sides on any.
    narrow = replace(planned, eps1=middle, tolerance=min(middle - low, high - middle) / 2)
    for wanted in (planned, narrow):
        counted = tally(view_set, wanted)
        within = close = far = failed = 0
        for distances, converged in zip(
            view_set.params["distance"], view_set.params["converged"], strict=True
        ):
            failed += not all(converged)
            for distance in distances.tolist():
                close += distance < wanted.eps1 - wanted.tolerance
                far += distance > wanted.eps1 + wanted.tolerance
                within += abs(distance - wanted.eps1) <= wanted.tolerance
        assert (counted.within, counted.too_close, counted.too_far) == (within, close, far)
        assert (counted.samples, counted.not_converged) == (6, failed)
    assert close > 0
    assert far > 0


def test_a_hinge_has_no_views_that_are_too_far() -> None:
    hinge = Constraints(eps1=0.3, eps2=None, tolerance=0.02, hinge=True, bound=None)
    assert [hinge.verdict(d) for d in (0.2, 0.29, 0.9)] == ["too close", "", ""]
    assert hinge.verdict(float("nan")) == "not measured"


def test_eps2_above_the_bound_is_unreachable() -> None:
    reach = {"eps1": 0.3, "tolerance": 0.02, "hinge": False, "bound": 0.448}
    assert Constraints(eps2=0.5, **reach).unreachable  # type: ignore[arg-type]
    assert not Constraints(eps2=0.44, **reach).unreachable  # type: ignore[arg-type]
