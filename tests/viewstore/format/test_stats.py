"""Statistics of columns: what they say, and that no value stops them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tests.viewstore.small_stores import build_small, write_npz
from viewstore.format.columns import DTYPES, Column
from viewstore.format.records import canonical
from viewstore.format.stats import (
    BINS,
    COMPONENTS,
    ColumnStats,
    column_stats,
    component_stats,
)
from viewstore.inspect.summary import column_facts
from viewstore.store.store import open_store


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


def test_components_have_statistics_of_their_own_in_old_stores_too(
    tmp_path: Path,
) -> None:
    build_small(tmp_path / "s", write_npz(tmp_path / "images.npz"))
    views = open_store(tmp_path / "s").view_sets["simclr"]
    stored = views.stats
    assert {name for name in stored if "." in name} == {
        f"{name}.{component}" for name, components in COMPONENTS.items() for component in components
    }
    for name, components in COMPONENTS.items():
        for index, component in enumerate(components):
            values = views.params[name][..., index]
            assert stored[f"{name}.{component}"] == column_stats(views.plan.column(name), values)
    told = column_facts(views)
    old = open_store(tmp_path / "s").view_sets["simclr"]
    old.stats = {name: each for name, each in stored.items() if "." not in name}
    assert list(column_facts(old).items()) == list(told.items())
    assert "crop_box.top" in told
    assert "crop_box" not in told
    assert list(column_facts(views, "jitter")) == [
        f"jitter.{each}" for each in COMPONENTS["jitter"]
    ]
    assert list(column_facts(views, "jitter.hue")) == ["jitter.hue"]


def test_a_sample_keeps_counts_and_ends_and_says_of_how_many_values_the_rest_is() -> None:
    column = Column(name="crop_box", dtype="f4", shape=(4,))
    values = np.random.Generator(np.random.Philox(4)).normal(size=(5000, 4)).astype(np.float32)
    values[7, 0], values[9, 0] = math.nan, math.inf
    exact, some = (component_stats(column, values, most)["crop_box.top"] for most in (None, 1000))
    assert (some.count, some.fill, some.min, some.max) == (4999, 1, exact.min, exact.max)
    assert (sum(exact.histogram), sum(some.histogram)) == (4998, 1000)
    assert some.percentiles != exact.percentiles
    np.testing.assert_allclose(some.percentiles, exact.percentiles, atol=0.25)
    assert component_stats(column, values, 5000)["crop_box.top"] == exact


def test_facts_of_large_components_that_finalise_wrote_nothing_of_are_those_of_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_small(tmp_path / "s", write_npz(tmp_path / "images.npz"))
    views = open_store(tmp_path / "s").view_sets["simclr"]
    assert column_facts(views)["crop_box.top"]["summarised"] == 40
    monkeypatch.setattr("viewstore.inspect.summary.MOST_VALUES", 10)
    assert column_facts(views)["crop_box.top"]["summarised"] == 40
    views.stats = {name: each for name, each in views.stats.items() if "." not in name}
    assert column_facts(views)["crop_box.top"]["summarised"] == 10


def test_a_column_that_only_has_the_name_of_one_with_components_has_none() -> None:
    column = Column(name="jitter", dtype="f4", shape=(2,))
    assert component_stats(column, np.zeros((3, 2), np.float32)) == {}
