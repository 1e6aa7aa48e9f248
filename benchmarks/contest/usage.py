"""What a process and its children have used, and the machine as a whole, from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process, its children and theirs, ended ones included."""
    return sum(sum(map(int, _stat(each)[11:15])) for each in _family(pid)) / TICKS


def peak_bytes(pid: int) -> int:
    """Return the peak resident bytes of a process and its live children, added up.

    Pages that several of them map count in each.
    """
    return sum(_peak(each) for each in _family(pid))


def machine_seconds() -> float:
    """Return the CPU seconds that everything on this machine has used since it started."""
    fields = (PROC / "stat").read_text().split("\n", 1)[0].split()
    user, nice, system, _, _, irq, softirq = map(int, fields[1:8])
    return (user + nice + system + irq + softirq) / TICKS


def load() -> float:
    """Return the load average of the last minute."""
    return os.getloadavg()[0]


def _family(pid: int) -> Iterator[int]:
    yield pid
    for task in (PROC / str(pid) / "task").glob("*"):
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in children:
            yield from _family(int(child))


def _stat(pid: int) -> list[str]:
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended; its parent has its seconds now
        return ["0"] * 20


def _peak(pid: int) -> int:
    try:
        status = (PROC / str(pid) / "status").read_text()
    except OSError:
        return 0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) << 10 if lines else 0
