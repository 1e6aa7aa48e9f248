"""The command status: how much of each view set is built, and what is missing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from viewstore.cli.command import command
from viewstore.cli.options import ONE_VIEW_SET, POSITIVE, STORE_OR_BUCKET
from viewstore.cli.terminal import Terminal
from viewstore.errors import ConfigError, FormatError, quoted, ranges

if TYPE_CHECKING:
    from viewstore.store.progress import SetProgress


@command("status", example="viewstore status views --view-set w-search")
@STORE_OR_BUCKET
@ONE_VIEW_SET
@click.option(
    "--missing",
    is_flag=True,
    help="Also print the numbers of the missing shards, as build --only takes them.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["lines", "slurm"]),
    default="lines",
    show_default=True,
    help="Print lines for people, or only the slices with missing shards, for sbatch --array.",
)
@click.option(
    "--slices",
    type=POSITIVE,
    metavar="N",
    help="With --format slurm: how many slices the array has.",
)
def status(
    terminal: Terminal,
    store: Path | str,
    view_set: str | None,
    missing: bool,
    form: str,
    slices: int | None,
) -> int:
    """Say how much of each view set is built; exit 1 if something is missing.

    STORE is a folder, or the URL of a bucket. Rates and times left are those of the last 20
    commits, by the clocks of the hosts.

    To submit again what a Slurm array left, --missing --format slurm --slices N prints the tasks
    that still have shards to build, such as 3,17-19 for sbatch --array. It prints nothing, and
    exits 0, if no shard is missing.
    """
    from viewstore.files.working_copy import store_at
    from viewstore.format.paths import StorePaths
    from viewstore.store.committed import view_sets
    from viewstore.store.progress import store_progress

    if form == "slurm":
        _check_array(store, view_set, missing, slices)
    elif slices is not None:
        raise ConfigError(
            "--slices has no effect without --format slurm", fix="add --missing --format slurm"
        )
    with store_at(store, rows=False) as (root, upstream):
        paths = StorePaths(root)
        if not view_sets(paths):
            raise _no_view_sets(root)
        found = store_progress(paths, view_set, upstream)
        unpublished = _unpublished(root, found)
        gone = [] if view_set else gone_from_disk(root)
        if slices is not None:
            _check_one(root, found, slices)
    if slices is not None:
        return _tell_array(terminal, store, found, unpublished, slices)
    lines = []
    for each in found.values():
        lines += each.lines()
        if missing and each.missing:
            lines.append(f"  missing: {ranges(each.missing)}")
        if each.unusable:
            lines.append(f"  mend it with: {_mending(store, each)}")
    facts = {name: each.to_json() for name, each in found.items()}
    lines += [gone_words(store, name) for name in gone]
    if unpublished:
        lines.append(_not_published(store, unpublished))
    answer = {"view_sets": facts, "unpublished": unpublished, "gone": gone}
    terminal.result(answer, "\n".join(lines))
    return int(bool(gone) or any(each.missing or each.unusable for each in found.values()))


def _array_command(store: Path | str, view_set: str | None, slices: int | None) -> str:
    of = "" if view_set is None else f" --view-set {view_set}"
    array = f"--missing --format slurm --slices {slices or 'N'}"
    return f"viewstore status {shlex.quote(str(store))}{of} {array}"


def _check_array(
    store: Path | str, view_set: str | None, missing: bool, slices: int | None
) -> None:
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


def _check_one(store: Path, found: Mapping[str, SetProgress], slices: int) -> None:
    """Raise ConfigError if a job array would be of several view sets."""
    if len(found) > 1:
        raise ConfigError(
            f"a job array builds one view set, and {store} has several: {', '.join(found)}",
            where=str(store),
            fix=_array_command(store, next(iter(found)), slices),
        )


def _tell_array(
    terminal: Terminal,
    store: Path | str,
    found: Mapping[str, SetProgress],
    unpublished: Sequence[str],
    slices: int,
) -> int:
    """Answer with the slices of a view set that have missing shards; return the exit code."""
    from viewstore.build.slices import slices_of

    ((name, progress),) = found.items()
    array = ranges(slices_of(progress.missing, slices))
    if not array:
        terminal.note(
            _not_published(store, [name]) if unpublished else f"no shard of {name} is missing"
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


def _mending(store: Path | str, progress: SetProgress) -> str:
    from viewstore.files.remedy import remedy_at
    from viewstore.store.committed import shards_again

    again = shards_again(store, progress.view_set, progress.unusable, progress.shards)
    return remedy_at(str(store), again)


def gone_words(store: Path | str, name: str) -> str:
    """Return what is said of a view set that is gone from disk, and what to do."""
    from viewstore.files.remedy import remedy_at

    return f"{name}: gone from disk; " + remedy_at(
        str(store), f"viewstore rm {quoted(store)} {name} forgets it"
    )


def gone_from_disk(store: Path) -> list[str]:
    """Return the view sets that the manifest names and this disk has not."""
    from viewstore.format.paths import StorePaths
    from viewstore.store.committed import view_sets

    return sorted(set(_published(store)) - set(view_sets(StorePaths(store))))


def _not_published(store: Path | str, names: Sequence[str]) -> str:
    from viewstore.store.advice import finalise_of

    return (
        f"all of {', '.join(names)} is built, and not published yet; if no build is running: "
        f"{finalise_of(store)}"
    )


def _unpublished(store: Path, found: Mapping[str, SetProgress]) -> list[str]:
    """Return the view sets that are built and not yet in the manifest as they are."""
    from viewstore.format.paths import StorePaths
    from viewstore.store.published import published_view_sets

    published = published_view_sets(StorePaths(store))

    def is_published(name: str) -> bool:
        try:
            return name in published and published[name].complete
        except FormatError:  # finalise writes its index again
            return False

    return [name for name, each in found.items() if not each.missing and not is_published(name)]
