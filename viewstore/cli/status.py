"""The command status: how much of each view set is built, and what is missing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from viewstore.cli.command import command
from viewstore.cli.options import ONE_VIEW_SET, POSITIVE, STORE
from viewstore.cli.terminal import Terminal
from viewstore.errors import ConfigError

if TYPE_CHECKING:
    from viewstore.store.progress import SetProgress


@command("status", example="viewstore status views --view-set w-search")
@STORE
@ONE_VIEW_SET
@click.option("--missing", is_flag=True, help="Also print the missing shards as --only has them.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["lines", "slurm"]),
    default="lines",
    show_default=True,
    help="Print lines for people; or for sbatch --array the slices with missing shards, and "
    "nothing else.",
)
@click.option(
    "--slices", type=POSITIVE, metavar="N", help="For --format slurm: the N of build --shard I/N."
)
def status(
    terminal: Terminal,
    store: Path,
    view_set: str | None,
    missing: bool,
    form: str,
    slices: int | None,
) -> int:
    """Say how much of each view set is built; exit 1 if something is missing.

    Rates and times left are those of the last 20 commits, by the clocks of the hosts. With
    --missing --format slurm --slices N it prints what goes on with a job array on Slurm: sbatch
    --array="$(viewstore status ..)". That is nothing where nothing is missing.
    """
    from viewstore.format.paths import StorePaths
    from viewstore.store.progress import ranges, store_progress

    if form == "slurm":
        _check_array(store, view_set, missing, slices)
    elif slices is not None:
        raise ConfigError(
            "--slices has no effect without --format slurm", fix="add --missing --format slurm"
        )
    found = store_progress(StorePaths(store), view_set)
    if not found:
        raise _no_view_sets(store)
    if slices is not None:
        return _tell_array(terminal, store, found, slices)
    lines = []
    for each in found.values():
        lines += each.lines()
        if missing and each.missing:
            lines.append(f"  missing: {ranges(each.missing)}")
    facts = {name: each.to_json() for name, each in found.items()}
    gone = [] if view_set else _gone(store, facts)
    lines += [f"{name}: gone from disk; viewstore rm {store} {name} forgets it" for name in gone]
    unpublished = _unpublished(store, found)
    if unpublished:
        lines.append(_not_published(store, unpublished))
    answer = {"view_sets": facts, "unpublished": unpublished, "gone": gone}
    terminal.result(answer, "\n".join(lines))
    return int(bool(gone) or any(each.missing for each in found.values()))


def _array_command(store: Path, view_set: str | None, slices: int | None) -> str:
    of = "" if view_set is None else f" --view-set {view_set}"
    array = f"--missing --format slurm --slices {slices or 'N'}"
    return f"viewstore status {shlex.quote(str(store))}{of} {array}"


def _check_array(store: Path, view_set: str | None, missing: bool, slices: int | None) -> None:
    """Raise ConfigError if what --format slurm goes with is not given."""
    lacking = [] if missing else ["--missing"]
    if slices is None:
        lacking.append("--slices N")
    if lacking:
        raise ConfigError(
            f"--format slurm needs {' and '.join(lacking)}",
            why="it prints which of N slices have missing shards; N is that of build --shard I/N",
            fix=_array_command(store, view_set, slices),
        )


def _tell_array(
    terminal: Terminal, store: Path, found: Mapping[str, SetProgress], slices: int
) -> int:
    """Answer with the slices of a view set that have missing shards; return the exit code."""
    from viewstore.store.progress import ranges, slices_left

    if len(found) > 1:
        raise ConfigError(
            f"a job array builds one view set, and {store} has several: {', '.join(found)}",
            where=str(store),
            fix=_array_command(store, next(iter(found)), slices),
        )
    ((name, progress),) = found.items()
    array = ranges(slices_left(progress.missing, slices))
    if not array:
        published = not _unpublished(store, found)
        terminal.note(
            f"no shard of {name} is missing" if published else _not_published(store, [name])
        )
    terminal.result({"view_set": name, "slices": slices, "array": array}, array)
    return int(bool(array))


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


def _not_published(store: Path, names: Sequence[str]) -> str:
    from viewstore.store.advice import finalise_of

    return (
        f"all of {', '.join(names)} is built, and not published yet; if no build is running: "
        f"{finalise_of(store)}"
    )


def _unpublished(store: Path, found: Mapping[str, SetProgress]) -> list[str]:
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

    return [name for name, each in found.items() if not each.missing and not is_told(name)]
