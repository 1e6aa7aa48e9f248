"""Our loader against FFCV, DALI, WebDataset, SPDL, torch's DataLoader and what the machine gives.

    python benchmarks/loaders.py --out benchmarks/results/loaders.json

Peers that this Python lacks are looked for in the one that VIEWSTORE_PEERS_PYTHON names. How it
is measured and how a peer is added: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from contest import data, results, usage
from contest.data import ROOT, SHARED
from contest.rounds import CONTENDERS, Run, contest, pythons, tune
from contest.workloads import WORKLOADS, Workload

from viewstore.errors import ConfigError, UnavailableError, ViewStoreError
from viewstore.files.disk import write_atomic

TUNED = Path(__file__).parent / "results" / "loaders_tuned.json"


def best_settings(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the winners that `--tune` wrote, by workload and contender."""
    if not path.is_file():
        return {}
    tuned = json.loads(path.read_text())["workloads"]
    return {
        workload: {name: tried[0]["settings"] for name, tried in contenders.items()}
        for workload, contenders in tuned.items()
    }


def check_quiet(*, allow_load: bool) -> float:
    """Return the load. Raises UnavailableError: this machine is busy with something else."""
    load = usage.load()
    if load >= results.QUIET_LOAD and not allow_load:
        raise UnavailableError(
            f"the load must be below {results.QUIET_LOAD} to measure, it is {load:.2f}",
            why="other processes take cores from whoever is measured while they run",
            fix="wait a minute, or pass --allow-load: the results then say so",
        )
    return load


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="for example A,C")
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--data", type=Path, help="keep the data here  [default: a temporary one]")
    parser.add_argument("--small", default=str(SHARED / "cifar10" / "train.tar"), metavar="SRC")
    parser.add_argument("--photos", type=Path, default=SHARED / "imagenet-sample", metavar="DIR")
    parser.add_argument("--rounds", type=int, default=1, help="fresh processes of each contender")
    parser.add_argument("--epochs", type=int, default=5, help="measured epochs in each process")
    parser.add_argument("--seconds", type=float, default=3.0, help="least length of an epoch")
    parser.add_argument("--warm-up", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument("--samples", type=int, help="another number of samples, to try things out")
    parser.add_argument("--cores", type=int, default=2, help="CPUs for each contender")
    parser.add_argument("--allow-load", action="store_true", help="measure on a busy machine")
    parser.add_argument("--tune", action="store_true", help=f"try all settings; write {TUNED.name}")
    return parser.parse_args(arguments)


def chosen(text: str, table: dict[str, Any], what: str) -> list[str]:
    """Return the names in a list. Raises ConfigError: one is not in the table."""
    names = text.split(",")
    unknown = set(names) - set(table)
    if unknown:
        raise ConfigError(f"--{what} must name some of {', '.join(table)}; got {sorted(unknown)}")
    return names


def sized(workload: Workload, samples: int | None) -> Workload:
    """Return a workload of another size, with at least four batches."""
    if samples is None:
        return workload
    return replace(workload, samples=samples, batch_size=min(workload.batch_size, samples // 4))


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    try:
        execute(options)
    except ViewStoreError as error:
        fix = f"; {error.fix}" if error.fix else ""
        sys.exit(f"{error}{fix}")


def execute(options: argparse.Namespace) -> None:
    """Make the data, compare, measure, and write the figures."""
    load = check_quiet(allow_load=options.allow_load)
    names = chosen(options.contenders, CONTENDERS, "contenders")
    workloads = [
        sized(WORKLOADS[name], options.samples)
        for name in chosen(options.workloads, WORKLOADS, "workloads")
    ]
    found = pythons(names)
    with ExitStack() as stack:
        folder = options.data
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        run = Run(
            folder=folder.absolute(),
            cores=min(options.cores, len(os.sched_getaffinity(0))),
            rounds=options.rounds,
            epochs=options.epochs,
            least_seconds=options.seconds,
            warm_up_seconds=options.warm_up,
            tuned={} if options.tune else best_settings(TUNED),
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
        origins = data.Origins(small=options.small, photos=options.photos)
        data.prepare(run.folder, workloads, origins, found.get("ffcv"))
        record = results.provenance(ROOT)
        record |= {"schema": results.SCHEMA, "load_before": load}
        record |= {"quiet": load < results.QUIET_LOAD, "cores": run.cores}
        if options.tune:
            tried = {each.name: tune(run, each, found) for each in workloads}
            write(TUNED, record | {"workloads": merged(TUNED, tried)})
            return
        record["protocol"] = {
            name: getattr(run, name)
            for name in ("rounds", "epochs", "least_seconds", "warm_up_seconds")
        }
        record["workloads"] = {}
        for each in workloads:
            entries = contest(run, each, found)
            contenders = {name: entry.to_json() for name, entry in entries.items()}
            facts = {**asdict(each), "slots": each.slots, "contenders": contenders}
            record["workloads"][each.name] = facts
            if options.out is not None:
                write(options.out, record)  # what was measured is kept if a later one is cut short


def merged(path: Path, tried: dict[str, Any]) -> dict[str, Any]:
    """Return what was tried, beside what an earlier run tried of other contenders."""
    before = json.loads(path.read_text())["workloads"] if path.is_file() else {}
    return {
        name: before.get(name, {}) | tried.get(name, {})
        for name in WORKLOADS
        if name in before | tried
    }


def write(path: Path, record: dict[str, Any]) -> None:
    """Write figures as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path.absolute(), json.dumps(record, indent=1, sort_keys=True).encode() + b"\n")


if __name__ == "__main__":
    main()
