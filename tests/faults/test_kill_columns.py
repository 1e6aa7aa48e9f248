"""A build of columns, and a refresh, that is killed resumes, and ends with the id of another."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import viewstore
from tests.faults import columns_driver
from tests.generators.scored.encoders import classifier, export
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.build.garbage import collect_garbage
from viewstore.store.verify import verify

REPO = Path(__file__).parents[2]
MOST_STORES = 20


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two encoders, and a store of many shards of views for each kind of work.

    That of "refresh" has the columns of the other encoder.
    """
    folder = tmp_path_factory.mktemp("killed")
    source = write_npz(folder / "images.npz", rows=120)
    build_small(folder / "embed", source, shard_rows=4, codec="params")
    export(folder / "net.pt2", classifier())
    export(folder / "older.pt2", classifier(logits=False))
    shutil.copytree(folder / "embed", folder / "refresh")
    columns_driver.build(folder / "refresh", folder / "older.pt2")
    return folder


def drive(what: str, store: Path, encoder: Path, *, kills: int, builders: int, seed: int) -> int:
    arguments = map(str, (what, store, encoder, kills, builders, seed))
    program = [sys.executable, "-m", "tests.faults.columns_driver", *arguments]
    done = subprocess.run(program, cwd=REPO, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


@pytest.mark.parametrize("what", ["embed", "refresh"])
@pytest.mark.parametrize(
    ("builders", "kills"),
    [(1, 6), pytest.param(1, 100, marks=pytest.mark.slow),
     pytest.param(3, 100, marks=pytest.mark.slow)],
)  # fmt: skip
def test_killed_builds_of_columns_end_as_if_undisturbed(
    begun: Path, tmp_path: Path, what: str, builders: int, kills: int
) -> None:
    killed, stores = 0, []
    while killed < kills:
        assert len(stores) < MOST_STORES, f"{killed} kills only"
        stores.append(tmp_path / f"s{len(stores)}")
        shutil.copytree(begun / what, stores[-1])
        wanted = min(kills - killed, 40)
        files, seed = (stores[-1], begun / "net.pt2"), len(stores)
        killed += drive(what, *files, kills=wanted, builders=builders, seed=seed)
    undisturbed = viewstore.open(tmp_path / "s0-undisturbed")
    assert ("embed-r2" in undisturbed.view_sets) == (what == "refresh")
    expected = undisturbed.store_id
    for store in stores:
        collect_garbage(store, older_seconds=0, dry_run=False)
        assert list(verify(store, level="content")) == []
        assert viewstore.open(store).store_id == expected
