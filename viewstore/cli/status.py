"""The command status: how much of each view set is built, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from viewstore.cli.command import command
from viewstore.cli.options import ONE_VIEW_SET, STORE
from viewstore.cli.terminal import Terminal
from viewstore.errors import ConfigError


@command("status", example="viewstore status views --view-set w-search")
@STORE
@ONE_VIEW_SET
@click.option("--missing", is_flag=True, help="Also print the missing shards as --only has them.")
def status(terminal: Terminal, store: Path, view_set: str | None, missing: bool) -> int:
    """Say how much of each view set is built; exit 1 if something is missing.

    Rates and times left are those of the last 20 commits, by the clocks of the hosts.
    """
    from viewstore.format.paths import StorePaths
    from viewstore.store.advice import finalise_of
    from viewstore.store.progress import ranges, store_progress

    found = store_progress(StorePaths(store), view_set)
    if not found:
        raise _no_view_sets(store)
    lines = []
    for each in found.values():
        lines += each.lines()
        if missing and each.missing:
            lines.append(f"  missing: {ranges(each.missing)}")
    facts = {name: each.to_json() for name, each in found.items()}
    gone = [] if view_set else _gone(store, facts)
    lines += [f"{name}: gone from disk; viewstore rm {store} {name} forgets it" for name in gone]
    unpublished = _unpublished(store, facts)
    if unpublished:
        lines.append(
            f"all of {', '.join(unpublished)} is built, and not published yet; if no build is "
            f"running: {finalise_of(store)}"
        )
    answer = {"view_sets": facts, "unpublished": unpublished, "gone": gone}
    terminal.result(answer, "\n".join(lines))
    return int(bool(gone) or any(each.missing for each in found.values()))


def _no_view_sets(store: Path) -> ConfigError:
    from viewstore.format.paths import StorePaths
    from viewstore.store.advice import unfinished
    from viewstore.store.committed import is_store, no_store

    why, fix = unfinished(StorePaths(store))
    if not is_store(StorePaths(store)):
        return no_store(store, why=why, fix=fix)
    what = f"there is no view set in {store}"
    return ConfigError(what, code="VS202", where=str(store), why=why, fix=fix)


def _published(store: Path) -> Mapping[str, Any]:
    from viewstore.format.paths import StorePaths
    from viewstore.store.committed import read_manifest

    manifest = read_manifest(StorePaths(store))
    return {} if manifest is None else manifest.view_sets


def _gone(store: Path, facts: dict[str, Any]) -> list[str]:
    """Return the view sets that the manifest names and this disk has not."""
    return sorted(set(_published(store)) - set(facts))


def _unpublished(store: Path, facts: dict[str, Any]) -> list[str]:
    """Return the view sets that are built and not yet in the manifest as they are."""
    from viewstore.errors import FormatError
    from viewstore.format.paths import StorePaths
    from viewstore.store.published import published_view_sets

    published = published_view_sets(StorePaths(store))

    def is_told(name: str) -> bool:
        try:
            return name in published and published[name].complete
        except FormatError:  # finalise writes its index again
            return False

    return [name for name, entry in facts.items() if not entry["missing"] and not is_told(name)]
