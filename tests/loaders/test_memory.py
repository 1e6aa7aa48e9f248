"""The memory that belongs to a loading process hardly grows with the rows of its store."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "memory.py"
FEW, MANY = 100_000, 1_000_000
MIB = 1 << 20


def script(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Simulated stores of 0.1 and 1 million rows: sparse shards, real tables and params."""
    folder = tmp_path_factory.mktemp("simulated")
    roots = {rows: folder / str(rows) for rows in (FEW, MANY)}
    for rows, root in roots.items():
        script("make", root, "--rows", rows)
    return roots


def loader_bytes(root: Path, *how: str) -> int:
    """Return what a loader needs; of three, for threads that are late hold batches for longer.

    Batches are small: eight of 512 that are made together are as large as what is looked for.
    """
    few = ("--batches", 40, "--batch-size", 64)
    found: list[dict[str, Any]] = [json.loads(script("one", root, *few, *how)) for _ in range(3)]
    assert min(each["loader"] for each in found) > 0
    return min(int(each["loader"]) for each in found)


@pytest.mark.parametrize("how", [("raw", "global"), ("jpg", "block:8")])
def test_a_loader_of_ten_times_the_rows_takes_hardly_more(
    stores: dict[int, Path], how: tuple[str, str]
) -> None:
    """0.9 million rows more: keys, places of members or labels in memory would be 4 to 90 MB."""
    few, many = (
        loader_bytes(root, "--codec", how[0], "--shuffle", how[1], "--no-params")
        for root in stores.values()
    )
    assert many - few < 12 * MIB


def test_params_that_are_kept_whole_stay_within_their_limit(stores: dict[int, Path]) -> None:
    """Of a million rows: 88 MB of columns here, and no more than 256 MB of whatever store."""
    without, kept = (
        loader_bytes(stores[MANY], "--codec", "raw", flag) for flag in ("--no-params", "--params")
    )
    assert 16 * MIB < kept - without < 160 * MIB
