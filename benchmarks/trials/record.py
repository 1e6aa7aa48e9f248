"""What an experiment found: lines of the table of docs/results.md, and the JSON they lie in."""

from __future__ import annotations

import json
import math
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from contest import results, usage
from contest.data import ROOT

from viewstore.files.disk import write_atomic

HEADS = ("experiment", "claim", "ours", "holds", "n", "interval", "steps", "seconds", "run")
SCRIPT = ("python", "benchmarks/experiments.py")
CELLS = ("experiment", "claim", "ours", "verdict", "n", "interval", "steps")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table.

    Attributes:
        experiment: What is looked at, with its setting.
        claim: What the paper, or the goal of this project, says.
        ours: What was measured.
        n: Number of what, such as "1,000 images".
        interval: 95 % interval, standard error or range, with its kind; "exact" where there is
            nothing random; else why there is none.
        steps: Training steps behind it; 0: none.
        verdict: Whether the claim holds here: "yes", "no" or "inconclusive"; "-": none is made.
    """

    experiment: str
    claim: str
    ours: str
    n: str
    interval: str
    steps: int = 0
    verdict: str = "yes"


def verdict(interval: tuple[float, float], least: float, most: float = math.inf) -> str:
    """Say whether a figure lies in [least, most]: "yes" if all of its interval does."""
    low, high = interval
    if least <= low and high <= most:
        return "yes"
    return "no" if high < least or low > most else "inconclusive"


class Record:
    """Collects what an experiment found; it begins when it is made."""

    def __init__(self, arguments: Sequence[str]) -> None:
        """Begin. Of the script's arguments that are paths the last name alone is kept."""
        self._provenance = results.provenance(ROOT)
        self._command = [*SCRIPT, *map(_without_folders, arguments)]
        self._load = usage.load()
        self._began = time.monotonic()
        self.lines: list[Line] = []
        self.facts: dict[str, Any] = {}

    def to_json(self) -> dict[str, Any]:
        """Return the lines and facts, with where and how they were taken."""
        return {
            "schema": results.SCHEMA,
            **self._provenance,
            "command": self._command,
            "threads": torch.get_num_threads(),
            "load_before": self._load,
            "load_after": usage.load(),
            "seconds": round(time.monotonic() - self._began, 1),
            "lines": [asdict(line) for line in self.lines],
            **self.facts,
        }

    def write(self, path: Path | None) -> None:
        """Print the lines, and write everything to `path` if there is one."""
        found = self.to_json()
        for line in self.lines:
            print(f"{line.experiment}: {line.ours} [{line.interval}; n = {line.n}] {line.verdict}")
        if path is not None:
            write_atomic(path, json.dumps(found, indent=1).encode() + b"\n")


def _without_folders(word: str) -> str:
    name, equals, value = word.rpartition("=")
    return name + equals + (Path(value).name if os.sep in value else value)


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of docs/results.md and the list of its runs, as Markdown."""
    rows = [f"| {' | '.join(HEADS)} |", "|---|---|---|---|---|---|---:|---:|---:|"]
    runs = []
    for number, record in enumerate(records, 1):
        for line in record["lines"]:
            cells = [str(line[name] or "") for name in CELLS]
            rows.append(f"| {' | '.join([*cells, str(round(record['seconds'])), str(number)])} |")
        load = f"load {record['load_before']:.1f} before and {record['load_after']:.1f} after it"
        commit = record["commit"][:10]
        command = shlex.join(record["command"])
        runs.append(f"{number}. `{command}`: {record['seconds']:.0f} s, {load}, commit {commit}.")
    machine = records[0]["machine"]
    where = f"Runs, on {machine['cores']} cores of an {machine['processor']}, one thread each:"
    return "\n".join([*rows, "", where, "", *runs]) + "\n"
