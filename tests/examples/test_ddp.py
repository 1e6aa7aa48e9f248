"""The example for several processes, under torchrun with gloo."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.examples.conftest import EXAMPLES
from tests.examples.steps import Step, check_learns, steps_of


def torchrun(store: str, processes: int) -> list[Step]:
    """Run the example on a number of processes, warnings as errors; return its steps."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [sys.executable, *launch, str(EXAMPLES / "ddp.py"), store],
        env={**os.environ, "PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return steps_of(done.stdout)


def test_two_processes_take_the_steps_of_one(store: str) -> None:
    """Losses over all pairs of the global batch: other rows on a rank would have other losses."""
    one, two = torchrun(store, 1), torchrun(store, 2)
    check_learns(two, by=0.3)
    first = [[loss for epoch, _, loss in steps if epoch == 0] for steps in (one, two)]
    assert first[0] == pytest.approx(first[1], abs=1e-3)  # rounding grows with the steps
