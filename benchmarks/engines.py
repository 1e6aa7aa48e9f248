"""What an engine costs: seconds of an empty unit, in this process, a local pool and a Ray cluster.

    python benchmarks/engines.py --out benchmarks/results/engines.json

A unit of "nothing" runs no code at all: what it takes is the engine's own. One of "view" makes and
commits a shard of one tiny view. Engines go in turns; the clock begins to run when all workers
have loaded and each has answered once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from contest import results, usage
from contest.data import ROOT

from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.files.disk import write_atomic
from viewstore.progress import Silent
from viewstore.shards.builder import BuilderFactory, ShardBuilder, Watch
from viewstore.shards.engine import Executor, Job, Policy, Queue
from viewstore.shards.engine_ray import run_ray
from viewstore.shards.local import run_local
from viewstore.shards.place import Place
from viewstore.shards.signals import StopRequest
from viewstore.shards.unit import Outcome, Unit

ENGINES: Mapping[str, tuple[Executor, int]] = {  # and its number of workers
    "in process": (run_local, 1),
    "local pool": (run_local, 2),
    "ray": (run_ray, 2),
}
TARGETS = {"local pool": 0.02, "ray": 0.05}  # seconds of an empty unit, on an idle machine
SIDE = 8


class Nothing(ShardBuilder):
    """A builder whose units are empty."""

    def __init__(self, watch: Watch, place: Place) -> None:
        """Load nothing."""

    def run(self, unit: Unit) -> Outcome:
        """Say that it is done."""
        return Outcome(shard=unit.shard, attempt="", status="committed", seconds=0.0)


def made_together(
    make: BuilderFactory, folder: Path, workers: int, watch: Watch, place: Place
) -> ShardBuilder:
    """Return a builder once every worker has one."""
    builder = make(watch, place)
    (folder / uuid.uuid4().hex).touch()
    while sum(1 for _ in folder.iterdir()) < workers:
        time.sleep(0.01)
    return builder


@dataclass
class Clock:
    """An executor that notes when each outcome of another one came."""

    inner: Executor
    workers: int
    came: list[float] = field(default_factory=list)

    def __call__(self, job: Job) -> Generator[Outcome]:
        """Run a job whose workers begin together."""
        with tempfile.TemporaryDirectory() as folder:
            make = partial(made_together, job.make, Path(folder), self.workers)
            self.came.append(time.perf_counter())
            with closing(self.inner(replace(job, make=make, workers=self.workers))) as outcomes:
                for outcome in outcomes:
                    self.came.append(time.perf_counter())
                    yield outcome

    def repeat(self) -> dict[str, float]:
        """Return the seconds until the first outcome, and those of a unit afterwards."""
        start, first, *_ = self.came
        warm = self.came[self.workers]
        measured = len(self.came) - 1 - self.workers
        return {
            "start_seconds": first - start,
            "seconds_a_unit": (self.came[-1] - warm) / measured,
        }


def run_nothing(clock: Clock, units: int) -> None:
    """Run empty units."""
    todo = [Unit(view_set="t", shard=shard, first=shard, num_samples=1) for shard in range(units)]
    queue = Queue(Policy(), todo)
    job = Job(make=Nothing, queue=queue, stop=StopRequest(0.0), progress=Silent())
    for _ in clock(job):
        pass


def run_view(clock: Clock, units: int) -> None:
    """Build shards of one tiny view each."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "images.npz"
        rng = np.random.Generator(np.random.Philox(1))
        np.savez(source, images=rng.integers(0, 256, (units, SIDE, SIDE, 3), dtype=np.uint8))
        build(
            BuildRequest(
                generator="simclr",
                out=Path(folder) / "store",
                source=str(source),
                settings={"views": 1, "height": SIDE, "width": SIDE},
                shard_rows=1,
                executor=clock,
            )
        )


WORK: Mapping[str, Callable[[Clock, int], None]] = {"nothing": run_nothing, "view": run_view}


def repeats(rounds: int, units: int) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Yield engine, work and figures of each repeat; engines go in turns."""
    for _ in range(rounds):
        for work, run in WORK.items():
            for engine, (executor, workers) in ENGINES.items():
                clock = Clock(executor, workers)
                run(clock, units)
                yield engine, work, clock.repeat()


def compare(rounds: int, units: int) -> dict[str, dict[str, Any]]:
    """Return the figures of each engine, by work."""
    found: dict[str, dict[str, Any]] = {
        engine: {work: {"repeats": []} for work in WORK} for engine in ENGINES
    }
    for engine, work, repeat in repeats(rounds, units):
        found[engine][work]["repeats"].append(repeat)
    for each in found.values():
        for entry in each.values():
            for name in ("seconds_a_unit", "start_seconds"):
                entry[name] = statistics.median(repeat[name] for repeat in entry["repeats"])
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, default=400, help="in each repeat")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args(arguments)
    load = usage.load()
    found = compare(options.rounds, options.units)
    for engine, each in found.items():
        for work, entry in each.items():
            print(
                f"{engine}, {work}: {1000 * entry['seconds_a_unit']:.2f} ms a unit, first after "
                f"{entry['start_seconds']:.1f} s (median of {options.rounds})",
                file=sys.stderr,
            )
    if options.out is not None:
        asked = {"units": options.units, "rounds": options.rounds}
        facts = {"schema": results.SCHEMA, "load": load, **results.provenance(ROOT)}
        facts |= {"asked": asked, "targets": TARGETS, "engines": found}
        write_atomic(options.out, json.dumps(facts, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
