"""The example for several processes: two under torchrun with gloo, against one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.examples.conftest import EXAMPLES
from tests.examples.steps import check_learns, steps_of


def torchrun(store: str, processes: int) -> str:
    """Run the example on a number of processes, warnings as errors; return what it prints."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [sys.executable, *launch, str(EXAMPLES / "ddp.py"), store],
        env={**os.environ, "PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_processes_take_the_steps_of_one(
    monkeypatch: pytest.MonkeyPatch, run: Callable[..., str], store: str
) -> None:
    """Losses over all pairs of the global batch: other rows on a rank would have other losses."""
    two = steps_of(torchrun(store, 2))
    check_learns(two, by=0.2)
    alone = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_PORT": 0}
    for name, number in alone.items():
        monkeypatch.setenv(name, str(number))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    one = steps_of(run("ddp", store))
    check_learns(one, by=0.2)
    first = [[loss for epoch, _, loss in steps if epoch == 0] for steps in (one, two)]
    assert first[0] == pytest.approx(first[1], abs=1e-3)  # rounding grows with the steps
