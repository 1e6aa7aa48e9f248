"""The command refresh: a new round of a view set, made with newer networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from viewstore.cli import options as shared
from viewstore.cli.build import HOW, how_of
from viewstore.cli.command import command, options_of
from viewstore.cli.options import STORE
from viewstore.cli.outcome import tell
from viewstore.cli.terminal import Terminal


@command("refresh", example="viewstore refresh views --view-set embed --encoder new.safetensors")
@STORE
@click.option(
    "--view-set", metavar="NAME", required=True, help="Make the next round of this view set."
)
@options_of(shared.WEIGHTS)
@click.option(
    "--of",
    metavar="SET",
    help="Make it from the views of this view set.  [default: as in the newest round]",
)
@click.option(
    "--source",
    metavar="SRC",
    help="Take the images from here, if they were moved.  [default: the store's]",
)
@options_of(HOW)
def refresh(terminal: Terminal, store: Path, **options: Any) -> int:  # noqa: ANN401
    """Make a view set anew with newer networks, as its next round: NAME-r2, NAME-r3, and so on.

    Settings, seed and codec are those of the newest round. A network that is not given must be
    packaged, and the one of before. Stopped at any moment, it goes on where it was when the same
    command runs again. Readers take the newest round that is complete.
    """
    from viewstore.build.refresh import refresh as run
    from viewstore.format.paths import StorePaths
    from viewstore.store.advice import STORE_FOLDER
    from viewstore.store.committed import is_store, no_store

    if not is_store(StorePaths(store)):
        raise no_store(store, fix=STORE_FOLDER)
    built = run(
        store,
        options["view_set"],
        shared.weight_files(options),
        terminal,
        of=options["of"],
        source=options["source"],
        **how_of(terminal, options),
    )
    return tell(terminal, built, {**options, "out": store})
