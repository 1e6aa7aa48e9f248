"""W-search with the networks that the package ships for the digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import viewstore
from benchmarks.w_search import measure
from viewstore.build.request import BuildRequest
from viewstore.build.roles import packaged_weights
from viewstore.build.run import build
from viewstore.store.constraints import pair_bound

pytestmark = pytest.mark.skipif(
    not all(packaged_weights(role).is_file() for role in ("gan", "encoder", "inverter")),
    reason="the weights for the digits are not in this checkout: make demo-weights",
)


def search(out: Path, limit: int, **settings: object) -> viewstore.Store:
    build(
        BuildRequest(
            generator="w-search",
            out=out,
            source="digits",
            limit=limit,
            settings=settings,
            workers=1,
        )
    )
    return viewstore.open(out)


@pytest.mark.parametrize("solver", ["adam", "secant"])
def test_a_few_digits_converge(tmp_path: Path, solver: str) -> None:
    store = search(tmp_path / "store", 8, solver=solver)
    views = store.view_sets["w-search"]
    args = views.plan.generator["args"]
    distance = views.params["distance"]
    assert (views.params["status"] == 1).all()
    assert np.abs(distance - args["eps1"]).max() <= 0.02
    assert store.view_sets["recon"].params["anchor_shift"].mean() < args["eps1"] / 2
    assert 0.1 < args["eps1"] < 0.6


@pytest.mark.slow
def test_the_digits_search_meets_its_published_figures(tmp_path: Path) -> None:
    """The table of the default preset: 42 steps, p95 55, |d - eps1| .007 and .022 at most."""
    views = search(tmp_path / "store", 64).view_sets["w-search"]
    eps1 = views.plan.generator["args"]["eps1"]
    steps, off = views.params["steps"][:, 0], np.abs(views.params["distance"] - eps1)
    assert (views.params["status"] == 1).mean() > 0.98
    assert steps.mean() < 60
    assert np.percentile(steps, 95) < 90
    assert off.mean() < 0.01
    assert views.params["mean_pair_distance"].mean() > 0.9 * pair_bound(eps1, 8)
    assert np.percentile(views.params["min_pair_distance"].min(1), 5) > 0.3 * eps1


def test_the_benchmark_measures_all_loops() -> None:
    found = measure(samples=2, repeats=1, slots=2)
    assert set(found["repeats"]) == {"textbook", "pool", "secant"}
    assert found["steps_per_view"]["secant"] < 30
    for made in found["made"].values():
        assert made["converged"] == 1
        assert made["off"] <= 0.02
        assert 0.5 < made["class_kept"] <= 1
    steps = found["steps_per_view"]
    assert steps["pool"] == pytest.approx(steps["textbook"], rel=0.2)
    assert found["ratio"] > 0


@pytest.mark.slow
def test_the_pool_is_two_and_a_half_times_as_fast() -> None:
    assert measure(samples=128, repeats=3, slots=16)["ratio"] >= 2.5


@pytest.mark.slow
def test_secant_makes_four_times_the_views_and_keeps_their_classes() -> None:
    found = measure(samples=128, repeats=3, slots=16)
    adam, secant = found["made"]["pool"], found["made"]["secant"]
    assert found["secant_to_pool"] >= 4
    assert found["secant_to_textbook"] >= 10
    assert secant["converged"] == 1
    assert secant["converged_alone"] >= 0.97
    assert secant["class_kept"] >= adam["class_kept"] - 0.01
