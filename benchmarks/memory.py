"""Memory of the loader over the number of rows, in fresh processes: 10 thousand to 10 million.

Stores are simulated. The memory that counts is what belongs to the process; the pages of mapped
files (tables, shards) are the system's: ranks share them, and it takes them back when it needs to.
"""

from __future__ import annotations

import gc
import itertools
import json
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click

SIZES = (10_000, 1_000_000, 10_000_000)
BATCH = 512
SHUFFLES = ("global", "block:8")


def own_bytes() -> dict[str, int]:
    """Return the memory of this process by kind, and the most it had, in bytes."""
    names = {"RssAnon": "own", "RssFile": "mapped", "VmHWM": "peak_with_mapped"}
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {names[key[:-1]]: int(rest[0]) << 10 for key, *rest in lines if key[:-1] in names}


def measure(
    root: Path, codec: str, shuffle: str, params: bool, batches: int, batch_size: int
) -> dict[str, object]:
    """Open, load and report in this process."""
    import torch

    import viewstore
    from viewstore.loaders import Cached, ViewLoader

    torch.set_num_threads(1)
    gc.collect()
    facts: dict[str, object] = {"imported": own_bytes()["own"]}
    began = time.perf_counter()
    store = viewstore.open(root)
    views = [Cached(codec, n=2, params=None if params else (), then="flip")]
    with ViewLoader(
        store, views, batch_size=batch_size, shuffle=shuffle, num_threads=2, resident=False
    ) as loader:
        facts["ready_seconds"] = round(time.perf_counter() - began, 3)
        facts["ready"] = own_bytes()["own"]
        most = 0
        began = time.perf_counter()
        for batch in itertools.islice(itertools.chain(loader, loader, loader), batches):
            if params:
                for view in batch.views:
                    for name in view.params:
                        view.params[name]
            most = max(most, own_bytes()["own"])
        facts["samples_per_second"] = round(batches * batch_size / (time.perf_counter() - began))
        facts["loading"] = most
        facts["loader"] = max(most, facts["ready"]) - facts["imported"]  # type: ignore[operator]
        facts["with_mapped"] = own_bytes()
    return facts


def summary(runs: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return for each way of loading what a row takes, by the fewest and the most rows."""
    found = []
    ways = dict.fromkeys((run["codec"], run["shuffle"], run["params"]) for run in runs)
    for way in ways:
        mine = [run for run in runs if (run["codec"], run["shuffle"], run["params"]) == way]
        first, last = mine[0], mine[-1]
        rows = int(str(last["rows"])) - int(str(first["rows"]))
        grown = int(str(last["loader"])) - int(str(first["loader"]))
        found.append(
            {
                **dict(zip(("codec", "shuffle", "params"), way, strict=True)),
                "loader_mib": {
                    str(run["rows"]): round(int(str(run["loader"])) / 2**20, 1) for run in mine
                },
                "bytes_a_row": round(grown / rows, 2) if rows else None,
            }
        )
    return found


@click.group()
def main() -> None:
    """Measure the memory of the loader."""


@main.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--rows", type=int, required=True)
def make(root: Path, rows: int) -> None:
    """Simulate a store of ROWS rows at ROOT."""
    from simulated import simulate

    simulate(root, rows)


@main.command()
@click.argument("root", type=click.Path(path_type=Path, exists=True))
@click.option("--codec", default="raw")
@click.option("--shuffle", default="global")
@click.option("--params/--no-params", default=True)
@click.option("--batches", default=100)
@click.option("--batch-size", default=BATCH)
def one(root: Path, codec: str, shuffle: str, params: bool, batches: int, batch_size: int) -> None:
    """Load batches of the simulated store ROOT in this process; print JSON."""
    click.echo(json.dumps(measure(root, codec, shuffle, params, batches, batch_size)))


@main.command()
@click.option("--rows", multiple=True, type=int, default=SIZES, show_default=True)
@click.option("--batches", default=100, show_default=True)
@click.option("--scratch", type=click.Path(path_type=Path), required=True, help="For the stores.")
@click.option("--results", type=click.Path(path_type=Path), required=True, help="JSON file.")
def run(rows: tuple[int, ...], batches: int, scratch: Path, results: Path) -> None:
    """Simulate stores of each number of ROWS, and load them in every way."""
    from simulated import CODECS, simulate

    runs = []
    for count in rows:
        root = scratch / f"rows-{count}"
        simulate(root, count)
        for codec, shuffle, params in itertools.product(CODECS, SHUFFLES, (False, True)):
            way = [f"--codec={codec}", f"--shuffle={shuffle}", f"--batches={batches}"]
            way.append("--params" if params else "--no-params")
            done = subprocess.run(
                [sys.executable, __file__, "one", str(root), *way],
                check=True,
                capture_output=True,
                text=True,
            )
            facts = {"rows": count, "codec": codec, "shuffle": shuffle, "params": params}
            runs.append({**facts, **json.loads(done.stdout)})
            click.echo(runs[-1])
        shutil.rmtree(root)
        shutil.rmtree(root.with_name(root.name + "-small"))
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    facts = {
        "commit": commit.stdout.strip(),
        "machine": {"processor": platform.processor(), "python": platform.python_version()},
        "command": f"python benchmarks/memory.py run --batches {batches}",
        "batch_size": BATCH,
        "view_sets": "raw and jpg, 2 views of 32 x 32 px, both shown and flipped",
        "summary": summary(runs),
        "runs": runs,
    }
    results.write_text(json.dumps(facts, indent=2) + "\n")
    for line in facts["summary"]:  # type: ignore[attr-defined]
        click.echo(line)


if __name__ == "__main__":
    main()
