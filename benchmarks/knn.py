"""Nearest neighbours of 10,000 queries among 50,000 features of 512 numbers, on random features.

python benchmarks/knn.py --threads 2 --out benchmarks/results/knn.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contest import results, usage
from contest.data import ROOT

from viewstore.files.disk import write_atomic
from viewstore.train.eval.neighbours import KNN_PRESETS, knn
from viewstore.train.eval.samples import Samples

CLASSES = 10
GOAL_SECONDS = 30.0


def features(count: int, width: int, seed: int) -> Samples:
    """Return normal features around one of CLASSES centres each."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((CLASSES, width), np.float32)
    labels = rng.integers(0, CLASSES, count)
    noise = rng.standard_normal((count, width), np.float32)
    return Samples(centres[labels] + 4 * noise, labels)


def resident(kind: str) -> int:
    """Return the memory of this process now (VmRSS), or the most it had (VmHWM), in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(kind))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return seconds of wall and CPU of each repeat, and the memory beyond the features."""
    bank = features(options.bank, options.width, 1)
    queries = features(options.queries, options.width, 2)
    preset = KNN_PRESETS[options.preset]
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
    before = resident("VmRSS")
    repeats = []
    for _ in range(options.rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        found = knn(bank, queries, neighbours=preset.neighbours, temperature=preset.temperature)
        repeats.append(
            {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        )
    seconds = statistics.median(each["seconds"] for each in repeats)
    return {
        "seconds": seconds,
        "reached": seconds < GOAL_SECONDS,
        "grown_bytes": resident("VmHWM") - before,
        "accuracy": found,
        "repeats": repeats,
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bank", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--preset", default="monitor", choices=sorted(KNN_PRESETS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    load = usage.load()
    found = measure(options)
    grown = found["grown_bytes"] / 2**20
    print(f"{found['seconds']:.2f} s, {grown:.0f} MiB beyond the features", file=sys.stderr)
    if options.out is not None:
        settings = {name: str(value) for name, value in vars(options).items() if name != "out"}
        provenance = results.provenance(ROOT)
        facts = {"schema": results.SCHEMA, "load": load, **provenance, "settings": settings}
        write_atomic(options.out, json.dumps(facts | found, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
