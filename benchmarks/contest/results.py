"""What a run comes to: repeats, their summary, and where they were taken."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

SCHEMA = 1
QUIET_LOAD = 0.5
QUIET_CORES = 0.25  # of other processes during a measured epoch
Status = Literal["measured", "absent", "failed", "not applicable"]


@dataclass(kw_only=True)
class Entry:
    """One contender in one workload.

    Attributes:
        why: Why there are no figures.
        repeats: One measured epoch each, as the process told.
        first_batch_seconds: From the start of each process.
    """

    status: Status = "measured"
    why: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    pixels: dict[str, Any] | None = None
    first_batch_seconds: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)
    repeats: list[dict[str, Any]] = field(default_factory=list)

    def failed(self, why: str) -> None:
        """There are no figures that count."""
        self.status, self.why = "failed", why

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), **summary(self.repeats)}


def summary(repeats: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians and ranges of repeats; nothing where there are none."""
    if not repeats:
        return {}
    rates = [each["views"] / each["seconds"] for each in repeats]
    cpu = [each["cpu_seconds"] / each["views"] for each in repeats]
    return {
        "views_per_second": {
            "median": statistics.median(rates),
            "min": min(rates),
            "max": max(rates),
        },
        "cpu_microseconds_per_view": statistics.median(cpu) * 1e6,
        "noisy_repeats": sum(each["others_cores"] > QUIET_CORES for each in repeats),
    }


def provenance(root: Path) -> dict[str, Any]:
    """Return what a reader must know to compare figures."""

    def git(*arguments: str) -> str:
        run = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=False
        )
        return run.stdout.strip()

    return {
        "commit": git("rev-parse", "HEAD"),
        "changed_files": len(git("status", "--porcelain", "--untracked-files=no").splitlines()),
        "command": ["python", *sys.argv],
        "machine": {
            "processor": processor(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "system": f"{platform.system()} {platform.release()}",
        },
    }


def processor() -> str:
    """Return the processor's model, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
