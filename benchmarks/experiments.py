"""The experiments of docs/results.md: each prints its lines and writes them as JSON.

    python benchmarks/experiments.py cost hvp --source train.tar --out found.json
    python benchmarks/experiments.py table

Every figure of the page is in a file of benchmarks/results; `table` writes its table from them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from table import inserted
from trials.record import Record
from trials.record import table as table_of

from viewstore.files.disk import write_atomic

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "experiments"
PAGE = ROOT / "docs" / "results.md"
PLOT = "agreement.svg"  # beside it
BEGIN, END = "<!-- experiments table: begin -->", "<!-- experiments table: end -->"
PATH = click.Path(path_type=Path)
OUT = click.option("--out", type=PATH, metavar="FILE", help="Write the figures to this JSON file.")
SOURCE = click.option("--source", required=True, metavar="SRC", help="Take images from here.")
BACKBONE = click.option("--backbone", default="conv6", show_default=True, metavar="NAME")
BATCH = click.option("--batch-size", type=int, default=32, show_default=True, metavar="B")


def _record() -> Record:
    return Record(sys.argv[1:])


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
@click.option("--only", multiple=True, metavar="ARM", help="Take these arms of it; plain is one.")
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


@main.command()
@SOURCE
@click.option("--test", required=True, metavar="SRC", help="Take held-out images from here.")
@click.option("--rows", type=int, default=2048, show_default=True)
@click.option("--epochs", type=int, default=6, show_default=True)
@click.option("--images", type=int, default=1000, show_default=True)
@click.option("--backbone", default="conv6-half", show_default=True, metavar="NAME")
@OUT
def operators(out: Path | None, **options: Any) -> None:  # noqa: ANN401
    """DSSL-2: ask a trained encoder which operators move a view away from its image."""
    from trials import operators as trial

    record = _record()
    trial.report(record, options)
    record.write(out)


@main.command("digits-gan")
@click.option("--samples", type=int, default=64, show_default=True)
@click.option("--fewer", type=int, default=32, show_default=True, help="Samples of C2.")
@OUT
def digits_gan(out: Path | None, **options: Any) -> None:  # noqa: ANN401
    """C1, C2: build generated views of digits, and look at their distances."""
    from trials import digits_gan as trial

    record = _record()
    trial.report(record, options)
    record.write(out)


@main.command()
@SOURCE
@click.option("--test", required=True, metavar="SRC", help="Take held-out images from here.")
@click.option("--rows", type=int, default=2048, show_default=True)
@click.option("--epochs", type=int, default=6, show_default=True)
@click.option("--steps", type=int, default=20, show_default=True, help="Steps of H3.")
@click.option("--backbone", default="conv6-half", show_default=True, metavar="NAME")
@OUT
def hexa(out: Path | None, **options: Any) -> None:  # noqa: ANN401
    """H1, H2, H3: attack and mix a batch, trained and untrained; compare attacks."""
    from trials import hexa as trial

    record = _record()
    trial.report(record, options)
    record.write(out)


@main.command()
@SOURCE
@click.option("--rows", type=int, default=1024, show_default=True)
@click.option("--epochs", type=int, default=4, show_default=True)
@click.option("--backbone", default="conv6-half", show_default=True, metavar="NAME")
@OUT
def attacks(out: Path | None, **options: Any) -> None:  # noqa: ANN401
    """Build adversarial sets against four methods and a CutMix set; look at losses and shares."""
    from trials import attacks as trial

    record = _record()
    trial.report(record, options)
    record.write(out)


@main.command()
@SOURCE
@click.option("--samples", type=int, default=64, show_default=True)
@click.option("--repeats", type=int, default=5, show_default=True)
@click.option("--backbone", default="conv6-quarter", show_default=True, metavar="NAME")
@OUT
def crops(out: Path | None, **options: Any) -> None:  # noqa: ANN401
    """HVP on DINO: choose among 4 + 16 crops by a table, and by scoring each combination."""
    from trials import crop_search as trial

    record = _record()
    trial.report(record, options)
    record.write(out)


@main.command()
@SOURCE
@click.option("--rows", type=int, default=1024, show_default=True)
@BACKBONE
@click.option("--batch-size", type=int, default=128, show_default=True, metavar="B")
@click.option("--steps", type=int, default=2, show_default=True)
@OUT
def memory(out: Path | None, **options: Any) -> None:  # noqa: ANN401
    """Measure the peak memory of the arms of all groups, each in a process of its own."""
    from trials import memory as trial

    record = _record()
    trial.report(record, options)
    record.write(out)


@main.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@OUT
def selection(out: Path | None, **options: Any) -> None:  # noqa: ANN401
    """HVP-1: say by epochs what the selection logs of RUNS tell of the overlap of chosen pairs."""
    from trials import choices as trial

    record = _record()
    trial.report(record, options)
    record.write(out)


@main.command()
@SOURCE
@click.option("--rows", type=int, default=2048, show_default=True)
@click.option("--epochs", type=int, default=25, show_default=True)
@click.option("--batch-size", type=int, default=128, show_default=True, metavar="B")
@click.option("--backbone", default="conv6-half", show_default=True, metavar="NAME")
@OUT
def ages(out: Path | None, **options: Any) -> None:  # noqa: ANN401
    """HVP-5: choose views by checkpoints of a run; compare with brute force, and by age."""
    from trials import ages as trial

    record = _record()
    trial.report(record, options)
    record.write(out)


@main.command("graded-correlation")
@click.argument("encoders", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@SOURCE
@click.option("--images", type=int, default=1000, show_default=True)
@click.option("--least-area", type=float, default=0.08, show_default=True, help="Of a crop.")
@OUT
def graded_correlation(out: Path | None, **options: Any) -> None:  # noqa: ANN401
    """GS-1: correlate the overlap of held-out crops with their cosine for each of ENCODERS."""
    from trials import graded as trial

    record = _record()
    trial.report(record, options)
    record.write(out)


@main.command(hidden=True)
@click.argument("store", type=PATH)
@click.argument("group")
@click.argument("name")
@BACKBONE
@BATCH
@click.option("--steps", type=int, default=2)
def peak(store: Path, group: str, name: str, **options: Any) -> None:  # noqa: ANN401
    """Print the peak memory of one arm, for `memory`."""
    from trials import memory as trial

    click.echo(trial.peak_of(store, group, name, options))


@main.command()
@click.option("--results", type=PATH, default=RESULTS, help="Folder of the JSON files.")
@click.option("--page", type=PATH, default=PAGE, help="The page that has the markers.")
def table(results: Path, page: Path) -> None:
    """Write the table of docs/results.md, and its picture, from what was measured."""
    text = page_of(page.read_text(), results)
    write_atomic(page.absolute(), text.encode())
    write_atomic(page.absolute().with_name(PLOT), plot_of(results).encode())


def plot_of(results: Path) -> str:
    """Return the picture of how choices age."""
    from trials.ages import plot

    return plot(json.loads((results / "ages.json").read_text())["ages"])


def page_of(text: str, results: Path) -> str:
    """Return a page with the table of all JSON files of a folder between its markers."""
    records = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    return inserted(text, table_of(records), begin=BEGIN, end=END)


if __name__ == "__main__":
    main()
