"""The most memory that a training under each strategy takes, beside its plain arm.

Each arm trains in a process of its own, whose peak is that of the system: torch is in it.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trials.arms import GROUPS, prepare
from trials.record import Line, Record
from trials.world import THREADS, train
from viewstore.store.store import open_store


def peak_of(store: Path, group: str, name: str, options: Mapping[str, Any]) -> int:
    """Return the peak memory in bytes of this process, which trains a few steps of an arm."""
    torch.set_num_threads(THREADS)
    arm = GROUPS[group][name]
    config = arm.config(options["backbone"], options["batch_size"])
    with tempfile.TemporaryDirectory() as folder:
        config = replace(config, steps=options["steps"])
        train(open_store(store), config, Path(folder), selection=False)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def report(record: Record, options: Mapping[str, Any]) -> None:
    """Measure the peak memory of each arm in a process of its own, beside that of its plain arm."""
    torch.set_num_threads(THREADS)
    settings = {name: options[name] for name in ("backbone", "batch_size", "steps")}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    script = Path(sys.argv[0]).resolve()
    found: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = prepare(Path(folder) / "store", options["source"], options["rows"])
        for group, arms in GROUPS.items():
            found[group] = {}
            for name in arms:
                command = [sys.executable, script, "peak", store.root, group, name, *flags]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found[group][name] = int(done.stdout)
    record.facts |= {"settings": settings | {"rows": options["rows"]}, "peak_bytes": found}
    for group, arms in GROUPS.items():
        plain = found[group]["plain"]
        for name in arms:
            if name != "plain":
                peak = found[group][name]
                record.lines.append(
                    Line(
                        experiment=f"peak memory of {name}, {options['backbone']}, batch "
                        f"{options['batch_size']}",
                        claim="reported",
                        ours=f"{peak / 2**20:.0f} MiB, {peak / plain:.2f} of plain "
                        f"({plain / 2**20:.0f} MiB), the process with torch",
                        n="1 process",
                        interval="none: one process",
                        steps=options["steps"],
                        verdict="-",
                    )
                )
