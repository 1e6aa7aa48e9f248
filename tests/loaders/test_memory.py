"""The memory that belongs to a loading process hardly grows with the rows of its store."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "memory.py"
FEW, MANY = 100_000, 1_000_000
MIB = 1 << 20
Way = tuple[Path, *tuple[str, ...]]  # a store, and options of the script


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
    """Return what a loader needs.

    Batches are small: eight of 512 that are made together are as large as what is looked for.
    """
    few = ("--batches", 40, "--batch-size", 64)
    found: int = json.loads(script("one", root, *few, *how))["loader"]
    assert found > 0
    return found


def differences(one: Way, other: Way) -> Iterator[int]:
    """Yield how much more the other loader needs: by the least of one run each, of two, of three.

    A run may need more than the next one, for threads that are late hold batches for longer.
    """
    few, many = loader_bytes(*one), loader_bytes(*other)
    yield many - few
    for _ in range(2):
        few, many = min(few, loader_bytes(*one)), min(many, loader_bytes(*other))
        yield many - few


@pytest.mark.parametrize("how", [("raw", "global"), ("jpg", "block:8")])
def test_a_loader_of_ten_times_the_rows_takes_hardly_more(
    stores: dict[int, Path], how: tuple[str, str]
) -> None:
    """0.9 million rows more: keys, places of members or labels in memory would be 4 to 90 MB."""
    way = ("--codec", how[0], "--shuffle", how[1], "--no-params")
    grown = differences((stores[FEW], *way), (stores[MANY], *way))
    assert any(each < 12 * MIB for each in grown)


def test_params_that_are_kept_whole_stay_within_their_limit(stores: dict[int, Path]) -> None:
    """Of a million rows: 88 MB of columns here, and no more than 256 MB of whatever store."""
    way = (stores[MANY], "--codec", "raw")
    kept = differences((*way, "--no-params"), (*way, "--params"))
    assert any(16 * MIB < each < 160 * MIB for each in kept)
