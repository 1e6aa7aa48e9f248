"""Builds of parents and children that are killed anywhere end as if they had not been."""

from pathlib import Path

import numpy as np
import pytest

import viewstore
from tests.faults import family_driver
from tests.faults.drive import killed_stores
from tests.viewstore.small_stores import whole_id

ROWS = 48


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("source") / "images.npz"
    rng = np.random.Generator(np.random.Philox(7))
    np.savez(path, images=rng.integers(0, 256, (ROWS, 40, 40, 3), dtype=np.uint8))
    return str(path)


@pytest.mark.parametrize(
    ("kills", "builders"), [(12, 1), pytest.param(200, 1, marks=pytest.mark.slow), (12, 3)]
)
def test_a_family_that_was_killed_is_the_one_that_was_not(
    tmp_path: Path, source: str, kills: int, builders: int
) -> None:
    stores = killed_stores(family_driver.__name__, tmp_path, source, kills, builders, 1)
    expected = viewstore.open(tmp_path / "undisturbed").store_id
    assert {whole_id(store) for store in stores} == {expected}
    assert all(viewstore.open(store).view_sets["seen"].complete for store in stores)
