"""Commands that move views elsewhere: export."""

from __future__ import annotations

from pathlib import Path

import click

from viewstore.cli.command import command
from viewstore.cli.options import FILE, STORE
from viewstore.cli.terminal import Terminal
from viewstore.errors import counted
from viewstore.export.formats import FORMATS
from viewstore.progress import tracked


@command("export", example="viewstore export views --format ffcv --out views.beton")
@STORE
@click.option(
    "--format",
    "form",
    type=click.Choice(list(FORMATS)),
    required=True,
    help="Write in this form. "
    + " ".join(f"{name}: {each.contents}." for name, each in FORMATS.items()),
)
@click.option(
    "-o", "--out", type=FILE, required=True, metavar="PATH", help="Write to this file or folder."
)
@click.option("--view-set", metavar="NAME", help="Export this view set.  [default: the only one]")
@click.option(
    "--columns",
    metavar="A,B|none",
    help="Write these params columns; SET.column is one of a columns set that describes the views."
    "  [default: all but latents and other large ones]",
)
@click.option("--where", metavar="Q", help="Export only samples like these, say 'distance < 0.35'.")
@click.option(
    "--images", is_flag=True, help="Put the pictures into a table, too; other forms have them."
)
@click.option("--overwrite", is_flag=True, help="Replace another export that is at PATH.")
@click.option("-n", "limit", type=int, metavar="N", help="Export only the first N of them.")
def export(
    terminal: Terminal,
    store: Path,
    form: str,
    out: Path,
    view_set: str | None,
    columns: str | None,
    where: str | None,
    images: bool,
    overwrite: bool,
    limit: int | None,
) -> None:
    """Write a view set in a form that other programs read.

    The same store gives the same bytes. What is at PATH already and is this very export is left
    alone; an export that was stopped is begun again. Another export is replaced with --overwrite
    only, and what no export wrote never is.
    """
    from viewstore.export.selection import select
    from viewstore.files import disk
    from viewstore.store.store import open_store

    opened = open_store(store)
    terminal.store_id = opened.store_id
    names = None if columns is None else [] if columns == "none" else columns.split(",")
    selection = select(opened, view_set, columns=names, where=where, limit=limit, images=images)
    total = len(selection.rows)
    with disk.explained(out), tracked(terminal, "export", total, "samples"):
        done = FORMATS[form].export(selection, out, overwrite=overwrite, progress=terminal)
    facts = {
        "paths": [str(path) for path in done.paths],
        "num_samples": done.num_samples,
        "bytes": done.bytes,
        "already": done.already,
        "left_out": done.left_out,
    }
    samples, files = counted(done.num_samples, "sample"), counted(len(done.paths), "file")
    text = f"{out}: {samples}, {done.bytes / 1e6:.1f} MB in {files}"
    text += ", there already" if done.already else ""
    if done.left_out:
        are = "is" if done.left_out == 1 else "are"
        text += f"\n{counted(done.left_out, 'sample')} {are} left out: "
        text += "a view was not made, and would be black"
    terminal.result(facts, text)
