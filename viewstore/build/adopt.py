"""Fixing the rows of a store and the plan of a view set, before the first shard of either.

`run` calls it at the start of each build: the first build fixes both, later ones must agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from viewstore.errors import ConfigError
from viewstore.files import disk
from viewstore.format.paths import StorePaths, ViewSetPaths
from viewstore.format.plan import Plan, check_rows, differing_keys
from viewstore.format.records import parse
from viewstore.sources.record import FORM, pack_sources, read_sources_record
from viewstore.sources.table import SourceTable
from viewstore.store.committed import read_plan


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
        ConfigError: Another plan is fixed; it names the keys that differ.
    """
    make_folders(paths.folders)
    # Its name is synced with those of the first blobs: before them it promises nothing.
    if disk.put_if_absent(paths.plan, plan.pack(), scratch=paths.tmp, durable=False):
        return
    stored = read_plan(paths)
    if stored.id != plan.id:
        keys = ", ".join(differing_keys(stored, plan))
        raise ConfigError(
            f"view set {plan.view_set} was planned with other settings: {keys}",
            code="VS103",
            where=str(paths.plan),
            why="a view set keeps the plan it was begun with",
            fix="give the settings of the first run, or another --view-set name",
        )


def adopt_sources(
    paths: StorePaths, table: SourceTable, choose_shard_rows: Callable[[int], int]
) -> None:
    """Fix the rows of a store, or check that they are the ones already fixed.

    Raises:
        ConfigError: The store was begun with another source.
    """
    if paths.sources_record.is_file():
        shard_rows = int(read_sources_record(paths)["shard_rows"])
    else:
        shard_rows = choose_shard_rows(len(table.keys))
    check_rows(len(table.keys), shard_rows)
    make_folders(paths.folders)
    record, files = pack_sources(table, shard_rows)
    names = disk.DirectorySyncs()
    for name, data in files.items():
        path = paths.sources / name
        names.add(path)
        if not path.is_file() or path.read_bytes() != data:
            names.write(path, data, mode=0o444, scratch=paths.tmp)
    names.sync()
    if disk.put_if_absent(paths.sources_record, record, scratch=paths.tmp):
        return
    stored = read_sources_record(paths)
    wanted = parse(record)
    keys = [key for key in FORM if stored[key] != wanted[key]]
    if keys:
        raise ConfigError(
            f"the store was begun with another source: {', '.join(keys)} differ",
            code="VS103",
            where=str(paths.sources_record),
            why="all view sets of a store have the same rows",
            fix="give the source of the first build, or another --out",
        )
