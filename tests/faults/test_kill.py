"""A build that is killed anywhere resumes and ends byte-identical; a naive writer does not."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import viewstore
from viewstore.build.garbage import collect_garbage
from viewstore.store.verify import verify

DRIVER = Path(__file__).with_name("kill_driver.py")
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
    drive(store, source, kills=0)
    return store


def drive(
    store: Path, source: str, *, kills: int, builders: int = 1, writer: str = "ours", seed: int = 0
) -> int:
    arguments = [str(store), source, str(kills), str(builders), writer, str(seed)]
    done = subprocess.run(
        [sys.executable, str(DRIVER), *arguments], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


def contents(store: Path) -> dict[str, bytes]:
    """Every file of the view set but the records of attempts, which name times and hosts."""
    root = store / "views" / "simclr"
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.parent.name not in ("commits", "tmp")
    }


def killed_stores(
    tmp_path: Path, source: str, *, builders: int, writer: str, wanted: int
) -> tuple[list[Path], int]:
    """Kill builds of one store after another until `wanted` children were killed."""
    stores: list[Path] = []
    killed = 0
    while killed < wanted:
        stores.append(tmp_path / f"store{len(stores)}")
        killed += drive(
            stores[-1],
            source,
            kills=wanted - killed,
            builders=builders,
            writer=writer,
            seed=len(stores),
        )
    return stores, killed


@pytest.mark.parametrize("kills", [100, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("builders", [1, 3])
def test_killed_builds_end_as_if_undisturbed(
    builders: int, kills: int, source: str, undisturbed: Path, tmp_path: Path
) -> None:
    stores, killed = killed_stores(tmp_path, source, builders=builders, writer="ours", wanted=kills)
    assert killed >= kills
    expected = contents(undisturbed)
    identity = viewstore.open(undisturbed).store_id
    for store in stores:
        collect_garbage(store, older_seconds=0, dry_run=False)
        assert list(verify(store)) == []
        assert viewstore.open(store).store_id == identity
        assert contents(store) == expected


@pytest.mark.parametrize("builders", [1, 3])
def test_a_naive_writer_is_caught(builders: int, source: str, tmp_path: Path) -> None:
    """The negative control: without temporary names the same kills do corrupt shards."""
    corrupt = 0
    for round_number in range(6):
        folder = tmp_path / str(round_number)
        folder.mkdir()
        stores, _ = killed_stores(folder, source, builders=builders, writer="naive", wanted=30)
        corrupt += sum(
            fault.kind in ("size", "hash") for store in stores for fault in verify(store)
        )
        if corrupt:
            return
    pytest.fail("180 kills of a naive writer corrupted nothing: this test cannot see corruption")
