"""The experiments of docs/results.md: each prints its lines and writes them as JSON.

    python benchmarks/experiments.py cost hvp --source train.tar --out found.json
    python benchmarks/experiments.py table

Every figure of the page is in a file of benchmarks/results; `table` writes its table from them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from trials.record import Record

PATH = click.Path(path_type=Path)
OUT = click.option("--out", type=PATH, metavar="FILE", help="Write the figures to this JSON file.")
SOURCE = click.option("--source", required=True, metavar="SRC", help="Take images from here.")
BACKBONE = click.option("--backbone", default="conv6", show_default=True, metavar="NAME")
BATCH = click.option("--batch-size", type=int, default=32, show_default=True, metavar="B")


def _record() -> Record:
    return Record(["python", "benchmarks/experiments.py", *sys.argv[1:]])


@click.group()
def main() -> None:
    """Measure what docs/results.md says."""


@main.command()
@click.argument("group")
@SOURCE
@click.option("--rows", type=int, default=2048, show_default=True)
@BACKBONE
@BATCH
@click.option("--steps", type=int, default=12, show_default=True, help="Steps of a turn.")
@click.option("--rounds", type=int, default=6, show_default=True)
@OUT
def cost(out: Path | None, **options: Any) -> None:  # noqa: ANN401
    """Time steps of the arms of GROUP in turns: hvp, views, dssl, hexa."""
    from trials import cost as trial

    record = _record()
    trial.report(record, options)
    record.write(out)


@main.command("loop")
@click.argument("runs", nargs=-1, required=True, metavar="BACKBONE:STEPS..")
@SOURCE
@click.option("--rows", type=int, default=4096, show_default=True)
@click.option("--batch-size", type=int, default=256, show_default=True, metavar="B")
@OUT
def loop(out: Path | None, **options: Any) -> None:  # noqa: ANN401
    """Profile the loop on each BACKBONE for so many STEPS: what it costs itself."""
    from trials import loop_share as trial

    record = _record()
    trial.report(record, options)
    record.write(out)


if __name__ == "__main__":
    main()
