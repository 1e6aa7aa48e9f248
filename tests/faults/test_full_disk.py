"""A disk that fills up ends a build in one clear error, loses nothing, and is no end of it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import viewstore
from tests.viewstore.small_stores import whole_id, write_npz
from viewstore.store.verify import verify

ROWS = 400
VIEW_SET = "simclr"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 2 MiB, which may grow."""
    path = tmp_path / "disk"
    path.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(path)]
    try:
        done = subprocess.run(options, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"may not mount a small disk: {done.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def build(store: Path, source: str, workers: int) -> subprocess.CompletedProcess[str]:
    """Build 50 shards of 8 views, about 4 MiB in all."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "viewstore", "build", "--generator", "simclr", "--json"),
            *("--views", "8", "--size", "20", "--shard-rows", "8", "--source", source),
            *("--out", str(store), "-j", str(workers)),
        ],
        capture_output=True,
        text=True,
    )


def commits(store: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in (store / "views" / VIEW_SET / "commits").iterdir()
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_stops_a_build_that_resumes_when_there_is_room(
    small_disk: Path, tmp_path: Path, workers: int
) -> None:
    store = small_disk / "store"
    source = write_npz(tmp_path / "images.npz", rows=ROWS)
    stopped = build(store, source, workers)
    error = json.loads(stopped.stdout)["error"]
    assert (error["code"], stopped.returncode) == ("VS302", 4), stopped.stderr
    assert "disk is full" in error["message"]
    assert error["fix"] == "free some space and run the same command again"
    assert "Traceback" not in stopped.stderr
    kept = commits(store)
    assert kept
    faults = [fault for fault in verify(store) if fault.view_set != "manifest"]
    assert {fault.kind for fault in faults} <= {"orphan", "unpublished"}

    refused = build(store, source, workers)
    assert json.loads(refused.stdout)["error"]["code"] == "VS302"
    assert refused.returncode == 4
    assert kept.items() <= commits(store).items()

    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert build(store, source, workers).returncode == 0
    assert kept.items() <= commits(store).items()
    assert build(tmp_path / "undisturbed", source, workers).returncode == 0
    assert whole_id(store) == viewstore.open(tmp_path / "undisturbed").store_id
