"""Commands that take out and rename view sets: rm, mv."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from viewstore.cli.command import command
from viewstore.cli.options import STORE
from viewstore.cli.terminal import Terminal

if TYPE_CHECKING:
    from viewstore.format.manifest import Manifest


@command("rm", example="viewstore rm views moco")
@STORE
@click.argument("view_set", metavar="SET")
def remove(terminal: Terminal, store: Path, view_set: str) -> None:
    """Take the view set SET out of a store, and remove its files.

    Refused where another view set starts from it.
    """
    from viewstore.build.rename import remove_view_set

    _check_store(store)
    _answer(terminal, remove_view_set(store, view_set), f"{view_set} is taken out")


@command("mv", example="viewstore mv views w-search w-search-long")
@STORE
@click.argument("old")
@click.argument("new")
def rename(terminal: Terminal, store: Path, old: str, new: str) -> None:
    """Give the view set OLD the name NEW. Its views stay as they are.

    Refused where another view set starts from it. To build on, name it with --view-set NEW. A
    training that shows it as OLD goes on only while it has that name.
    """
    from viewstore.build.rename import rename_view_set

    _check_store(store)
    _answer(terminal, rename_view_set(store, old, new), f"{old} is called {new} now")


def _check_store(store: Path) -> None:
    from viewstore.format.paths import StorePaths
    from viewstore.store.advice import STORE_FOLDER
    from viewstore.store.committed import is_store, no_store

    if not is_store(StorePaths(store)):
        raise no_store(store, fix=STORE_FOLDER)


def _answer(terminal: Terminal, manifest: Manifest | None, text: str) -> None:
    names = [] if manifest is None else sorted(manifest.view_sets)
    if manifest is not None:
        terminal.store_id = manifest.store_id
    terminal.result({"view_sets": names}, f"{text}; the store has {', '.join(names) or 'none'}")
