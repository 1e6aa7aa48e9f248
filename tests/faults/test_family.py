"""Builds of parents and children that are killed anywhere end as if they had not been."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import viewstore
from viewstore.build.garbage import collect_garbage
from viewstore.store.verify import verify

DRIVER = Path(__file__).with_name("family_driver.py")
ROWS = 48


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("source") / "images.npz"
    rng = np.random.Generator(np.random.Philox(7))
    np.savez(path, images=rng.integers(0, 256, (ROWS, 40, 40, 3), dtype=np.uint8))
    return str(path)


def drive(store: Path, source: str, *, kills: int, builders: int, seed: int) -> int:
    arguments = [str(store), source, str(kills), str(builders), str(seed)]
    done = subprocess.run(
        [sys.executable, str(DRIVER), *arguments],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": "."},
    )
    return int(done.stdout)


@pytest.mark.parametrize(
    ("kills", "builders"), [(12, 1), pytest.param(200, 1, marks=pytest.mark.slow), (12, 3)]
)
def test_a_family_that_was_killed_is_the_one_that_was_not(
    tmp_path: Path, source: str, kills: int, builders: int
) -> None:
    killed = 0
    stores: list[Path] = []
    while killed < kills:
        stores.append(tmp_path / f"store{len(stores)}")
        wanted = kills - killed
        killed += drive(stores[-1], source, kills=wanted, builders=builders, seed=len(stores))
    expected = viewstore.open(f"{stores[0]}-undisturbed").store_id
    for store in stores:
        collect_garbage(store, older_seconds=0, dry_run=False)
        assert list(verify(store, level="content")) == []
        opened = viewstore.open(store)
        assert opened.store_id == expected
        assert opened.view_sets["seen"].complete
