"""SIGKILLs over build, repair, finalise, gc, rm and mv of one store: what was whole stays whole."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DRIVER = Path(__file__).with_name("life_driver.py")
COMMANDS = {"build", "repair", "finalise", "gc", "rm", "mv"}


def drive(folder: Path, *, kills: int, writer: str = "ours", seed: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(folder), str(kills), writer, str(seed)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": "."},
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("kills", "seed"),
    [(60, 0), *(pytest.param(250, seed, marks=pytest.mark.slow) for seed in range(1, 5))],
)
def test_a_store_outlives_kills_of_every_command(tmp_path: Path, kills: int, seed: int) -> None:
    found = drive(tmp_path, kills=kills, seed=seed)
    assert found["wrong"] == []
    assert set(found["kills"]) == COMMANDS
    assert sum(found["kills"].values()) >= kills


def test_a_naive_writer_does_not_outlive_them(tmp_path: Path) -> None:
    """The negative control: with names before bytes, the same kills do damage a store."""
    assert drive(tmp_path, kills=400, writer="naive", seed=1)["wrong"]
