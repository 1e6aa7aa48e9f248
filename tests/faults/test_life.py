"""SIGKILLs over build, repair, finalise, gc, rm and mv of one store: what was whole stays whole."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.faults import life_driver
from tests.faults.drive import drive

COMMANDS = {"build", "repair", "finalise", "gc", "rm", "mv"}


def live(folder: Path, *, kills: int, writer: str = "ours", seed: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(drive(life_driver.__name__, folder, kills, writer, seed))
    return found


@pytest.mark.parametrize(
    ("kills", "seed"),
    [(30, 0), *(pytest.param(250, seed, marks=pytest.mark.slow) for seed in range(1, 5))],
)
def test_a_store_outlives_kills_of_every_command(tmp_path: Path, kills: int, seed: int) -> None:
    found = live(tmp_path, kills=kills, seed=seed)
    assert found["wrong"] == []
    assert set(found["kills"]) == COMMANDS
    assert sum(found["kills"].values()) >= kills


def test_a_naive_writer_does_not_outlive_them(tmp_path: Path) -> None:
    """The negative control: with names before bytes, the same kills do damage a store."""
    assert live(tmp_path, kills=20, writer="naive", seed=1)["wrong"]
