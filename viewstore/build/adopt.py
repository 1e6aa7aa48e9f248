"""Fixing the rows of a store and the plan of a view set, before the first shard of either.

`run` calls it at the start of each build: the first build fixes both, later ones must agree.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from viewstore.build.differences import plan_differences
from viewstore.errors import ConfigError, FormatError, counted, quoted
from viewstore.files import disk
from viewstore.files.enclosing import check_alone
from viewstore.files.upstream import FOLDER, Upstream
from viewstore.format.chunks import unpack_chunk, unpack_params
from viewstore.format.columns import Status
from viewstore.format.paths import StorePaths, ViewSetPaths
from viewstore.format.plan import Plan, check_rows
from viewstore.format.records import canonical, parse
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
from viewstore.sources.braces import short
from viewstore.sources.record import (
    pack_sources,
    read_first_sources,
    read_sources,
    read_sources_record,
    recorded_at,
)
from viewstore.sources.table import OnError, SourceTable
from viewstore.store.committed import (
    committed_shards,
    read_commit,
    read_manifest,
    read_plan,
    view_sets,
)

LOST_ROWS = (
    "give --source, --limit and --shard-rows as in the first build, or build into another --out"
)


def make_folders(folders: Sequence[Path]) -> None:
    """Create the folders of a store or view set, durably."""
    names = disk.DirectorySyncs()
    for folder in folders:
        names.make_directory(folder)
        names.add(folder)
    names.sync()


def restore_folders(paths: StorePaths) -> None:
    """Create the folders of a store again that a copy may have lost, because they were empty."""
    view_set_folders = (paths.view_set(name).folders for name in view_sets(paths))
    folders = [*paths.folders, *itertools.chain.from_iterable(view_set_folders)]
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        make_folders(missing)


def adopt_plan(paths: ViewSetPaths, plan: Plan, upstream: Upstream = FOLDER) -> Plan:
    """Fix the plan of a view set, or check that it is the one already fixed; return it.

    One that an earlier version fixed has an id of its own, by which its shards are named.

    Raises:
        ConfigError: Another plan is fixed; it says which settings were others. Or a view set
            that it is made from is gone.
    """
    check_plan(paths, plan)
    with _inputs_stay(StorePaths(paths.root.parents[1]), plan):
        make_folders(paths.folders)
        # Its name is synced with those of the first blobs: before them it promises nothing.
        if not upstream.put_if_absent(paths.plan, plan.pack(), scratch=paths.tmp, durable=False):
            check_same_settings(paths, plan)
    return read_plan(paths)


@contextlib.contextmanager
def _inputs_stay(paths: StorePaths, plan: Plan) -> Iterator[None]:
    """Keep `rm` and `mv` from what a plan is made from until it is there to be seen."""
    if not plan.links:
        yield
        return
    with disk.file_lock(paths.finalise_lock, shared=True):
        for name in (link["view_set"] for link in plan.links.values()):
            if not paths.view_set(name).plan.is_file():
                raise ConfigError(
                    f"view set {name!r}, from which {plan.view_set} starts, was taken out or "
                    "renamed",
                    where=str(paths.view_set(name).root),
                    fix="run the same command again: it builds that one first",
                )
        yield


def check_plan(paths: ViewSetPaths, plan: Plan) -> None:
    """Raise ConfigError unless `plan` can be the plan of a view set: nothing fixed another one.

    Where the record is lost, the shards that were made of it tell which it was.
    """
    if paths.plan.is_file():
        return check_same_settings(paths, plan)
    for shard in committed_shards(paths):
        with contextlib.suppress(FormatError):  # a damaged commit is a fault of its own
            commit = read_commit(paths, shard)
            if commit is not None and commit.plan_id != plan.id:
                raise ConfigError(
                    f"view set {plan.view_set} has shards that were made with other settings",
                    code="VS103",
                    where=str(paths.commit(shard)),
                    why="its plan is lost, and its shards name another one than these settings",
                    fix="give the settings of its first build, or build into another --view-set",
                )
    return None


def check_same_settings(paths: ViewSetPaths, plan: Plan) -> None:
    """Raise ConfigError unless `plan` is the one that is fixed; of another torch builders warn."""
    stored = _with_later_settings(read_plan(paths))
    if "torch" in stored.libraries:
        torch = {"torch": stored.libraries["torch"]}
        plan = replace(plan, libraries={**plan.libraries, **torch})
    if canonical(stored.to_json()) != canonical(plan.to_json()):
        raise _other_settings(paths, plan.view_set, ", ".join(plan_differences(stored, plan)))


def _with_later_settings(plan: Plan) -> Plan:
    """Return a plan with the settings that its generator got since, as they were before."""
    from viewstore.generators import settings_class

    later = settings_class(plan.generator["name"]).LATER
    args = {**later, **plan.generator["args"]}
    return replace(plan, generator={**plan.generator, "args": args})


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
        ConfigError: A store cannot have so many rows, or shards of so many; or a view set was
            made of other rows.
    """
    if rows_are_fixed(paths):
        record = read_sources_record(paths)
        shard_rows, sources_id = int(record["shard_rows"]), str(record["digest"])
    else:
        shard_rows = choose_shard_rows(len(table.keys))
        check_rows(len(table.keys), shard_rows)
        sources_id = str(parse(pack_sources(table, shard_rows)[0])["digest"])
        check_same_rows(paths, sources_id)
        _check_published_rows(paths, sources_id)
        return shard_rows, sources_id
    check_same_rows(paths, sources_id)
    return shard_rows, sources_id


def rows_are_fixed(paths: StorePaths) -> bool:
    """Whether a store has rows that can be read: what is lost or damaged of them is made again.

    Raises:
        FormatError: Another version of viewstore wrote them.
    """
    if not paths.sources_record.is_file():
        return False
    try:
        read_first_sources(paths)
    except FormatError as error:
        if error.code == "VS204":
            raise
        return False
    return True


def check_same_rows(paths: StorePaths, sources_id: str) -> None:
    """Raise ConfigError if a view set of a store was made of other rows than `sources_id` names."""
    for name in view_sets(paths):
        plan = read_plan(paths.view_set(name))
        if plan.sources_id == sources_id:
            continue
        if rows_are_fixed(paths):
            fix = f"take that view set out: viewstore rm {quoted(paths.root)} {name}"
        else:
            fix = LOST_ROWS
        raise other_source(
            f"view set {name} was made of {counted(plan.rows, 'other row')} in shards of "
            f"{plan.shard_rows}, or of images that lay elsewhere",
            fix=fix,
        )


def _check_published_rows(paths: StorePaths, sources_id: str) -> None:
    """Raise ConfigError if the manifest has view sets of other rows than `sources_id` names."""
    with contextlib.suppress(FormatError):  # a damaged manifest is a fault of its own
        manifest = read_manifest(paths)
        if manifest is not None and manifest.view_sets and manifest.sources_id != sources_id:
            raise other_source(
                "its manifest names other images, or images that lay elsewhere", fix=LOST_ROWS
            )


def planned_shard_rows(paths: StorePaths) -> int | None:
    """Return the rows of a shard, as the view sets of a store know it; None if it has none."""
    plans = (read_plan(paths.view_set(name)) for name in view_sets(paths))
    return next((plan.shard_rows for plan in plans), None)


def adopt_stored(paths: StorePaths, plan: Plan) -> None:
    """Make ready for more shards of a plan that is fixed: folders that a copy lost are made."""
    make_folders((*paths.folders, *paths.view_set(plan.view_set).folders))
    disk.fsync_directory(paths.sources)  # who named its files may have been killed before it did


def adopt_sources(
    paths: StorePaths, table: SourceTable, shard_rows: int, upstream: Upstream = FOLDER
) -> None:
    """Fix the rows of a new store, or record those again that it lost.

    Another build may have fixed them at the same moment.

    Raises:
        ConfigError: It had other rows, or a view set was made of others.
    """
    make_folders(paths.folders)
    if rows_are_fixed(paths):  # `stored_rows` compared them
        disk.fsync_directory(paths.sources)  # who named them may have been killed before it did
        return
    record, files = pack_sources(table, shard_rows)
    check_same_rows(paths, str(parse(record)["digest"]))
    _write_columns(paths, files)
    for name in files:
        upstream.push(paths.sources / name)
    if paths.sources_record.is_file() and not rows_are_fixed(paths):
        set_aside(paths, paths.sources_record)
    ours = upstream.put_if_absent(paths.sources_record, record, scratch=paths.tmp)
    if not ours and paths.sources_record.read_bytes() != record:
        raise other_source("another build began it at this moment with other images or shard rows")
    if not view_sets(paths):  # another store may have begun above or below at this moment
        check_alone(upstream.place(paths.root))


def set_aside(paths: StorePaths, path: Path) -> None:
    """Take a damaged file out of the way of a new one; it is kept until the next `viewstore gc`."""
    disk.rename(path, paths.tmp / f"{path.name}.{time.time_ns()}.damaged")


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
    place = source if source is not None else here or stored.spelling
    progress.note(f"comparing the source {short(place)} with the rows of the store")
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
    commit = read_commit(paths, shard, plan)
    if commit is None:
        return np.zeros(len(rows), bool)
    pack = disk.read_limited(paths.root / commit.entry.file("params").name, SHARD_BYTES)
    _, chunks = unpack_params(pack, [column.name for column in plan.columns if column.pack])
    status = unpack_chunk(plan.column("status"), chunks["status"], plan.shard_rows)
    return np.asarray((status[: len(rows)] != Status.UNREADABLE).any(axis=1))
