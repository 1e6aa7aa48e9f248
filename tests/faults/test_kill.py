"""A build that is killed anywhere resumes and ends byte-identical; a naive writer does not."""

from pathlib import Path

import numpy as np
import pytest

import viewstore
from tests.faults import kill_driver
from tests.faults.drive import drive, killed_stores
from tests.viewstore.small_stores import whole_id
from viewstore.store.verify import verify

ROWS = 160


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("source") / "images.npz"
    rng = np.random.Generator(np.random.Philox(7))
    images = rng.integers(0, 256, (ROWS, 32, 32, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(ROWS) % 5)
    return str(path)


@pytest.fixture(scope="module")
def undisturbed(source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    kill_driver.begin(source, str(store))()
    return store


def contents(store: Path) -> dict[str, bytes]:
    """Every file of the view set but the records of attempts, which name times and hosts."""
    root = store / "views" / "simclr"
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.parent.name not in ("commits", "tmp")
    }


@pytest.mark.parametrize("kills", [100, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("builders", [1, 3])
def test_killed_builds_end_as_if_undisturbed(
    builders: int, kills: int, source: str, undisturbed: Path, tmp_path: Path
) -> None:
    stores = killed_stores(kill_driver.__name__, tmp_path, source, kills, builders, 1)
    identity = viewstore.open(undisturbed).store_id
    for store in stores:
        assert whole_id(store) == identity
        assert contents(store) == contents(undisturbed)


def test_a_naive_writer_is_caught(source: str, tmp_path: Path) -> None:
    """The negative control: without temporary names a kill does corrupt a shard."""
    drive(kill_driver.__name__, tmp_path, source, "naive", 1, 1)
    assert {fault.kind for fault in verify(tmp_path / "0")} & {"size", "hash"}
