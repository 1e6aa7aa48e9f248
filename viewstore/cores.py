"""How many cores this process may use: its affinity, and the CPU limit of its container."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/proc/self/cgroup")  # which control groups this process is in
MOUNTED = Path("/sys/fs/cgroup")  # where their files are


def usable_cores() -> int:
    """Return how many cores this process may use, at least 1."""
    cores = len(os.sched_getaffinity(0))
    limit = cpu_limit(_text(GROUPS), MOUNTED)
    return cores if limit is None else min(cores, math.ceil(limit))


def cpu_limit(groups: str, mounted: Path) -> float | None:
    """Return how many cores' time the control groups of a process leave it; None: no limit.

    A group has no more than the groups it lies in. A file that is not there, or says nothing
    that can be a limit, is none.

    Args:
        groups: The text of `/proc/PID/cgroup`, of either version: `0::/a/b`, `4:cpu,cpuacct:/a`.
        mounted: The folder of the files of all groups.
    """
    limits = (_own_limit(folder) for folder in _folders(groups, mounted))
    return min((limit for limit in limits if limit is not None), default=None)


def _folders(groups: str, mounted: Path) -> Iterator[Path]:
    """Yield the folders of the groups that may limit CPU time, from the outermost to the own.

    Within a container the path may be the host's, which is not there: its own group is then what
    is mounted.
    """
    for line in groups.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        parts = [part for part in path.split("/") if part]
        if ".." in parts:  # of a group outside of what is mounted here
            parts = []
        if not controllers:
            roots = {mounted}
        elif "cpu" in controllers.split(","):
            roots = {mounted / controllers, mounted / "cpu"}
        else:
            continue
        for root in roots:
            yield from (root.joinpath(*parts[:depth]) for depth in range(len(parts) + 1))


def _own_limit(folder: Path) -> float | None:
    """Return the limit of one group: microseconds of CPU time for each of a period."""
    said = _text(folder / "cpu.max") or " ".join(
        _text(folder / name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    )
    try:
        quota, period = map(int, said.split())
    except ValueError:  # "max 100000" is no limit
        return None
    return quota / period if quota > 0 and period > 0 else None  # a quota of -1 is none


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
