"""Runs the drivers of builds that are killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

REPO = Path(__file__).parents[2]


def drive(module: str, *arguments: object, environment: Mapping[str, str] = os.environ) -> str:
    """Run a driver as a process of its own, which must end well; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=REPO,
        env=dict(environment),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def killed_stores(module: str, folder: Path, *arguments: object) -> list[Path]:
    """Run a driver of `kill_builds` in a folder; return the stores that it left there."""
    return [folder / str(number) for number in range(int(drive(module, folder, *arguments)))]
