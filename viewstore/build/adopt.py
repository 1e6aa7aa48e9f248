"""Fixing the rows of a store and the plan of a view set, before the first shard of either.

`run` calls it at the start of each build: the first build fixes both, later ones must agree.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from viewstore.build.differences import plan_differences
from viewstore.errors import ConfigError
from viewstore.files import disk
from viewstore.format.chunks import unpack_chunk, unpack_params
from viewstore.format.columns import Status
from viewstore.format.paths import StorePaths, ViewSetPaths
from viewstore.format.plan import Plan, check_rows
from viewstore.format.records import parse
from viewstore.format.tar import SHARD_BYTES
from viewstore.progress import Progress
from viewstore.sources.again import (
    find_again,
    images_named,
    located,
    moved_source,
    new_images,
    other_source,
)
from viewstore.sources.record import pack_sources, read_sources, read_sources_record, recorded_at
from viewstore.sources.table import OnError, SourceTable
from viewstore.store.committed import read_commit, read_plan, view_sets


def make_folders(folders: Sequence[Path]) -> None:
    """Create the folders of a store or view set, durably."""
    names = disk.DirectorySyncs()
    for folder in folders:
        names.make_directory(folder)
        names.add(folder)
    names.sync()


def adopt_plan(paths: ViewSetPaths, plan: Plan) -> None:
    """Fix the plan of a view set, or check that it is the one already fixed.

    Raises:
        ConfigError: Another plan is fixed; it says which settings were others. Or the view set
            that it starts from is gone.
    """
    if paths.plan.is_file():
        check_same_settings(paths, plan)
    with _parent_stays(StorePaths(paths.root.parents[1]), plan):
        make_folders(paths.folders)
        # Its name is synced with those of the first blobs: before them it promises nothing.
        if not disk.put_if_absent(paths.plan, plan.pack(), scratch=paths.tmp, durable=False):
            check_same_settings(paths, plan)


@contextlib.contextmanager
def _parent_stays(paths: StorePaths, plan: Plan) -> Iterator[None]:
    """Keep `rm` and `mv` from the parent of a plan until its child is there to be seen."""
    if plan.parent is None:
        yield
        return
    name = plan.parent["view_set"]
    with disk.file_lock(paths.finalise_lock, shared=True):
        if not paths.view_set(name).plan.is_file():
            raise ConfigError(
                f"view set {name!r}, from which {plan.view_set} starts, was taken out or renamed",
                where=str(paths.view_set(name).root),
                fix="run the same command again: it builds that one first",
            )
        yield


def check_same_settings(paths: ViewSetPaths, plan: Plan) -> None:
    """Raise ConfigError unless `plan` is the one that is fixed."""
    stored = read_plan(paths)
    if stored.id != plan.id:
        raise _other_settings(paths, plan.view_set, ", ".join(plan_differences(stored, plan)))


def check_same_generator(paths: ViewSetPaths, stored: Plan, generator: str) -> None:
    """Raise ConfigError unless the plan that is fixed is of this generator."""
    begun_with = stored.generator["name"]
    if begun_with != generator:
        differs = f"generator was {begun_with}, is {generator}"
        raise _other_settings(paths, stored.view_set, differs)


def _other_settings(paths: ViewSetPaths, name: str, differs: str) -> ConfigError:
    return ConfigError(
        f"view set {name} was begun with other settings: {differs}",
        code="VS103",
        where=str(paths.plan),
        why="a view set keeps the settings it was begun with",
        fix="leave out what differs, or build into another --view-set",
    )


def fixed_sources(
    paths: StorePaths, table: SourceTable, choose_shard_rows: Callable[[int], int]
) -> tuple[int, str]:
    """Return shard_rows and sources_id, those that a store has or that a new one will have.

    Raises:
        ConfigError: A store cannot have so many rows, or shards of so many.
    """
    if paths.sources_record.is_file():
        record = read_sources_record(paths)
        return int(record["shard_rows"]), str(record["digest"])
    shard_rows = choose_shard_rows(len(table.keys))
    check_rows(len(table.keys), shard_rows)
    return shard_rows, str(parse(pack_sources(table, shard_rows)[0])["digest"])


def adopt_sources(paths: StorePaths, table: SourceTable, shard_rows: int) -> None:
    """Fix the rows of a new store; another build may have fixed them at the same moment.

    Raises:
        ConfigError: It had other rows.
    """
    make_folders(paths.folders)
    if paths.sources_record.is_file():  # `stored_rows` compared them
        disk.fsync_directory(paths.sources)  # who named them may have been killed before it did
        return
    record, files = pack_sources(table, shard_rows)
    _write_columns(paths, files)
    ours = disk.put_if_absent(paths.sources_record, record, scratch=paths.tmp)
    if not ours and paths.sources_record.read_bytes() != record:
        raise other_source("another build began it at this moment with other images or shard rows")


def _write_columns(paths: StorePaths, files: dict[str, bytes]) -> None:
    names = disk.DirectorySyncs()
    for name, data in files.items():
        path = paths.sources / name
        names.add(path)
        if not path.is_file() or path.read_bytes() != data:
            names.write(path, data, mode=0o444, scratch=paths.tmp)
    names.sync()


def stored_rows(
    paths: StorePaths,
    *,
    source: str | None,
    limit: int | None,
    shard_rows: int | None,
    on_error: OnError,
    progress: Progress,
    keep: bool = True,
) -> SourceTable:
    """Return the rows that a store has fixed, where their source lies now.

    A `source` that is given is compared with them: it may have been moved, and images of which no
    committed shard holds views may have been mended.

    Args:
        paths: The store.
        source: What the user gives as the source; None: the one that is recorded.
        limit: What the user gives as the number of rows.
        shard_rows: What the user gives as the rows of a shard.
        on_error: "skip" also leaves out images that are new.
        progress: Is told what is read and what was found.
        keep: Record where the source was found, and what was mended.

    Raises:
        ConfigError: The source has other rows, or a setting was another.
        FormatError: An image cannot be read.
    """
    stored, stored_shard_rows, _ = read_sources(paths)
    if shard_rows not in (None, stored_shard_rows):
        raise ConfigError(
            f"the store was begun with other settings: shard_rows was {stored_shard_rows}, "
            f"is {shard_rows}",
            code="VS103",
            where=str(paths.sources_record),
            why="shard k of every view set holds the same rows",
            fix="leave --shard-rows out, or build into another --out",
        )
    here = moved_source()
    if source is None and limit in (None, len(stored.keys)):
        return stored if here is None else located(stored, here)
    place = source or here or stored.spelling
    progress.note(f"comparing the source {place} with the rows of the store")
    since = recorded_at(paths)
    found = find_again(stored, place, since=since, limit=limit, on_error=on_error)
    if found.left_out:
        progress.warn(f"{new_images(found.left_out)} and left out: the rows of a store stay")
    _check_unused(paths, stored, found.changed, stored_shard_rows)
    if found.changed:
        progress.note(f"{images_named(stored, found.changed)} changed: read as they are now")
    if keep and source is not None and (found.changed or found.table.parts != stored.parts):
        write_located(paths, found.table)
    return found.table


def write_located(paths: StorePaths, table: SourceTable) -> None:
    """Record where the rows of a store lie now, and the sizes and CRCs of mended images."""
    record, files = pack_sources(table, int(read_sources_record(paths)["shard_rows"]))
    _write_columns(paths, files)
    disk.write_atomic(paths.sources_located, record, mode=0o444, scratch=paths.tmp)


def _check_unused(
    paths: StorePaths, table: SourceTable, changed: Sequence[int], shard_rows: int
) -> None:
    """Raise ConfigError if views of a changed image are committed."""
    for name in view_sets(paths) if changed else ():
        view_set = paths.view_set(name)
        plan = read_plan(view_set)
        used = []
        for shard in sorted({row // shard_rows for row in changed}):
            made = _made(view_set, plan, shard)
            rows = plan.shard_range(shard)
            used += [row for row in changed if row in rows and made[row - rows.start]]
        if used:
            raise other_source(
                f"{images_named(table, used)} changed, and {name} has views of what it was",
                fix="give the former images back, or build into another --out",
            )


def _made(paths: ViewSetPaths, plan: Plan, shard: int) -> np.ndarray:
    """Return for each row of a shard whether it is committed with views of its image."""
    rows = plan.shard_range(shard)
    commit = read_commit(paths, shard)
    if commit is None:
        return np.zeros(len(rows), bool)
    pack = disk.read_limited(paths.root / commit.entry.file("params").name, SHARD_BYTES)
    _, chunks = unpack_params(pack, [column.name for column in plan.columns if column.pack])
    status = unpack_chunk(plan.column("status"), chunks["status"], plan.shard_rows)
    return np.asarray((status[: len(rows)] != Status.UNREADABLE).any(axis=1))
