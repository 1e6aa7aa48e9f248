"""The loader of this checkout against that of an earlier one, in one interleaved run.

    git worktree add ../before COMMIT && make -C ../before .venv/.installed
    python benchmarks/before_after.py --before ../before --out benchmarks/results/before_after.json

Both read the same store. In each round each has a fresh process, and measured epochs go in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from contest import data, results, usage
from contest.data import ROOT, SHARED
from contest.process import Order, Process
from contest.results import provenance, summary
from contest.workloads import WORKLOADS, Workload

from viewstore.errors import ConfigError
from viewstore.files.disk import write_atomic


def measure(
    checkouts: dict[str, Path], workload: Workload, folder: Path, options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """Return the measured epochs of each checkout, by name."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in checkouts}
    order = Order(
        contender="viewstore",
        workload=workload,
        data=folder,
        settings={},
        cores=min(options.cores, len(os.sched_getaffinity(0))),
        least_seconds=options.seconds,
    )
    for number in range(options.rounds):
        names = list(checkouts) if number % 2 == 0 else list(reversed(checkouts))
        with ExitStack() as stack:
            running = {}
            for name in names:
                python = str(checkouts[name] / ".venv/bin/python")
                process = Process(python, order, benchmarks=checkouts[name] / "benchmarks")
                running[name] = stack.enter_context(process)
                process.first_batch()
                process.hear(options.seconds * 20 + 60)
            for _ in range(options.epochs):
                for name in names:
                    found[name].append(running[name].measure())
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, required=True, metavar="CHECKOUT")
    parser.add_argument("--workloads", default="A,D", help="for example A,D")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--data", type=Path, help="keep the data here  [default: a temporary one]")
    parser.add_argument("--small", default=str(SHARED / "cifar10" / "train.tar"), metavar="SRC")
    parser.add_argument("--photos", type=Path, default=SHARED / "imagenet-sample", metavar="DIR")
    parser.add_argument("--rounds", type=int, default=4, help="fresh processes of each checkout")
    parser.add_argument("--epochs", type=int, default=5, help="measured epochs in each process")
    parser.add_argument("--seconds", type=float, default=2.0, help="least length of an epoch")
    parser.add_argument("--samples", type=int, help="another number of samples, to try things out")
    parser.add_argument("--cores", type=int, default=2, help="CPUs for each checkout")
    options = parser.parse_args(arguments)
    checkouts = {"before": options.before.absolute(), "after": ROOT}
    for checkout in checkouts.values():
        if not (checkout / ".venv/bin/python").is_file():
            raise ConfigError(f"{checkout} has no .venv; run `make .venv/.installed` there")
    load = usage.load()
    workloads = [
        replace(workload, samples=options.samples or workload.samples)
        for workload in (WORKLOADS[name] for name in options.workloads.split(","))
    ]
    facts: dict[str, Any] = {"schema": results.SCHEMA, "load": load, **provenance(ROOT)}
    facts["before"] = provenance(checkouts["before"])["commit"]
    with ExitStack() as stack:
        folder = options.data or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        origins = data.Origins(small=options.small, photos=options.photos)
        data.prepare(folder.absolute(), workloads, origins, None)
        facts["workloads"] = {}
        for workload in workloads:
            found = measure(checkouts, workload, folder.absolute(), options)
            entry: dict[str, Any] = {
                name: {**summary(repeats), "repeats": repeats} for name, repeats in found.items()
            }
            pairs = zip(found["before"], found["after"], strict=True)
            ratios = [rate(after) / rate(before) for before, after in pairs]
            entry["ratio"] = statistics.median(ratios)
            facts["workloads"][workload.name] = entry
            print(
                f"{workload.name}: before {entry['before']['views_per_second']['median']:,.0f}, "
                f"after {entry['after']['views_per_second']['median']:,.0f} views/s, "
                f"ratio {entry['ratio']:.3f} (median of {len(ratios)} neighbouring epochs)",
                file=sys.stderr,
            )
    if options.out is not None:
        write_atomic(options.out, json.dumps(facts, indent=1).encode() + b"\n")


def rate(repeat: dict[str, Any]) -> float:
    """Return the views per second of a measured epoch."""
    return float(repeat["views"] / repeat["seconds"])


if __name__ == "__main__":
    main()
