"""Mending a store: rebuild exactly the damaged shards from their recorded plan.

`viewstore verify --repair` calls it. Nothing damaged is deleted: withdrawn
commits and bad files move to quarantine/.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from viewstore.build.adopt import restore_folders, set_aside, stored_rows
from viewstore.build.compose import OnError
from viewstore.build.finalise import NothingComplete, finalise
from viewstore.build.inputs import depth_of, parents_of
from viewstore.build.listing import list_again
from viewstore.build.reproducible import check_reproducible
from viewstore.build.request import BuildRequest
from viewstore.build.roles import WeightFiles
from viewstore.build.run import build_shards
from viewstore.errors import ConfigError, FormatError, ViewStoreError, counted, quoted
from viewstore.files import disk
from viewstore.format.columns import Status
from viewstore.format.manifest import Index, Manifest
from viewstore.format.paths import StorePaths, ViewSetPaths
from viewstore.format.plan import SOURCE, Plan
from viewstore.format.records import LARGE_BYTES
from viewstore.progress import Progress, Silent
from viewstore.sources.record import read_sources
from viewstore.store.committed import (
    committed_shards,
    last_generation,
    read_commit,
    read_manifest,
    read_plan,
    usable_commits,
    view_sets,
)
from viewstore.store.faults import Fault
from viewstore.store.lineage import stale_shards
from viewstore.store.published import linked, published_view_sets

REBUILT_KINDS = ("missing", "size", "hash", "tar", "member", "params", "commit", "stale")


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """The result of a repair.

    Attributes:
        shards: Those that it rebuilt, by view set.
        manifest: What is published then; None where no view set is complete, and a build goes on.
    """

    shards: dict[str, list[int]]
    manifest: Manifest | None


def repair(
    root: Path,
    faults: Sequence[Fault],
    *,
    files: WeightFiles | None = None,
    on_error: OnError = "fail",
    workers: int = 0,
    progress: Progress | None = None,
) -> Repaired:
    """Rebuild the shards that `faults` name, derive the rest again, write a new generation.

    Parents come first, and then what became stale by that. `files` are those of networks by role,
    where the packaged ones do not do: a view set that lacks one stays stale, with a warning.

    Raises:
        FormatError: A fault that no rebuild mends: the sources or a plan are damaged.
    """
    paths = StorePaths(root)
    rebuilt: dict[str, list[int]] = {}
    with disk.explained(root):
        restore_folders(paths)
        _set_records_aside(paths, faults)
        _check_repairable(faults)
        _list_again(paths, faults, progress or Silent())
        damaged = _damaged_shards(paths, faults)
        left = _left_stale(paths, damaged, faults, files or {}, progress or Silent())
        for name in [each for each in _parents_first(paths) if each not in left]:
            shards = damaged.get(name, [])
            if any(parent in rebuilt for parent in parents_of(paths, name)):
                finalise(root)  # children are made from what readers see
                shards = _with_stale(paths, name, shards, files or {}, progress or Silent())
            if not shards:
                continue
            request = BuildRequest(
                generator=read_plan(paths.view_set(name)).generator["name"],
                out=root,
                view_set=name,
                files=files or {},
                on_error=on_error,
                workers=workers,
            )
            rebuilt[name] = _rebuild(paths, request, shards, progress or Silent())
        _drop_derived(faults)
        try:
            manifest = finalise(root)
        except NothingComplete:
            manifest = None
        return Repaired(shards=rebuilt, manifest=manifest)


def _parents_first(paths: StorePaths) -> list[str]:
    """Return the names of all view sets, each after those that it is made from."""
    return sorted(view_sets(paths), key=lambda name: depth_of(paths, name))


def _with_stale(
    paths: StorePaths, name: str, shards: list[int], files: WeightFiles, progress: Progress
) -> list[int]:
    """Return the shards to rebuild of a view set, with those that a repair has made stale."""
    published = published_view_sets(paths)
    plan = read_plan(paths.view_set(name))
    inputs = linked(plan, published)
    if inputs is None or name not in published:
        return shards
    stale = [k for k in stale_shards(published[name], inputs) if k not in shards]
    if not stale:
        return shards
    try:
        check_reproducible(paths, plan, files)
    except ViewStoreError as error:
        _warn_of_stale(paths, plan, len(stale), error, progress)
        return shards
    return sorted({*shards, *stale})


def take_mended_images(root: Path, progress: Progress) -> None:
    """Compare the source of a store with its rows, and take the images that were mended.

    Those that are still damaged, and a source that is not there, are left to the repair itself.
    """
    paths = StorePaths(root)
    with disk.explained(root), contextlib.suppress(ConfigError, FormatError):
        stored_rows(
            paths,
            source=read_sources(paths)[0].spelling,
            limit=None,
            shard_rows=None,
            on_error="skip",
            progress=progress,
        )


def _damaged_shards(paths: StorePaths, faults: Sequence[Fault]) -> dict[str, list[int]]:
    """Return the shards to rebuild by view set; parents come before what starts from them."""
    found: dict[str, set[int]] = {}
    for fault in faults:
        if fault.kind in REBUILT_KINDS and fault.shard is not None:
            found.setdefault(fault.view_set, set()).add(fault.shard)
        if fault.kind == "derived" and Path(fault.path).name == "index.json":
            absent = _perhaps_published(paths, fault.view_set)
            if absent:
                found.setdefault(fault.view_set, set()).update(absent)
    names = [name for name in view_sets(paths) if name in found]
    return {name: sorted(found[name]) for name in sorted(names, key=lambda n: depth_of(paths, n))}


def _perhaps_published(paths: StorePaths, name: str) -> set[int]:
    """Return the shards that a view set lacks, and that readers may expect as its index is lost."""
    view_set = paths.view_set(name)
    plan = read_plan(view_set)
    commits, _ = usable_commits(view_set, plan)
    manifest = read_manifest(paths)
    if manifest is None or manifest.view_sets[name].root == Index.of(plan, commits).root:
        return set()
    return {*range(plan.shards)} - {*commits}


def _list_again(paths: StorePaths, faults: Sequence[Fault], progress: Progress) -> None:
    """Make the listings of imports again that are gone or damaged, from the files as they are.

    Raises:
        ConfigError, FormatError: Files are gone, or are others than they were.
    """
    table = read_sources(paths)[0] if any(fault.kind == "listing" for fault in faults) else None
    for fault in faults:
        if fault.kind == "listing" and table is not None:
            view_set = paths.view_set(fault.view_set)
            list_again(view_set, read_plan(view_set), table, progress)


def _left_stale(
    paths: StorePaths,
    damaged: dict[str, list[int]],
    faults: Sequence[Fault],
    files: WeightFiles,
    progress: Progress,
) -> list[str]:
    """Return the names of view sets that are stale only, and cannot be made again now.

    All are looked at before any shard is given up.

    Raises:
        ViewStoreError: One that is damaged cannot be made again.
    """
    left = []
    for name, shards in damaged.items():
        kinds = {fault.kind for fault in faults if fault.view_set == name and fault.shard in shards}
        plan = read_plan(paths.view_set(name))
        try:
            check_reproducible(paths, plan, files)
        except ViewStoreError as error:
            if kinds != {"stale"}:
                raise
            _warn_of_stale(paths, plan, len(shards), error, progress)
            left.append(name)
    return left


def _warn_of_stale(
    paths: StorePaths, plan: Plan, shards: int, error: ViewStoreError, progress: Progress
) -> None:
    """Say that shards of a view set stay stale, and what mends them."""
    weights = "".join(f" --{each.role} {each.name}" for each in plan.weights)
    progress.warn(
        f"{counted(shards, 'shard')} of {plan.view_set} must be made again too, and cannot be now: "
        f"{error}; then: viewstore verify {quoted(paths.root)} --repair --view-set "
        f"{plan.view_set}{weights}"
    )


def _check_repairable(faults: Sequence[Fault]) -> None:
    for fault in faults:
        rows_are_lost = fault.kind == "record" and fault.view_set == "source"
        if fault.kind in ("plan", "source") or rows_are_lost:
            raise FormatError(
                f"cannot be repaired: {fault.what}",
                where=fault.path,
                why="shards are rebuilt from this record",
                fix=fault.fix,
            )


def _set_records_aside(paths: StorePaths, faults: Sequence[Fault]) -> None:
    """Take damaged records out of the way that can be made again, or that a store can be without.

    A manifest is put back from its newest generation: it names partial view sets, which no
    `finalise` would.
    """
    for fault in faults:
        path = Path(fault.path)
        if (fault.view_set == "manifest" or fault.kind == "located") and path.is_file():
            set_aside(paths, path)
    last = last_generation(paths)
    if last and not paths.manifest.is_file():
        raw = disk.read_limited(paths.generation(last), LARGE_BYTES)
        disk.write_atomic(paths.manifest, raw, scratch=paths.tmp)


def _drop_derived(faults: Sequence[Fault]) -> None:
    """Remove damaged derived files, for `finalise` to write."""
    for fault in faults:
        if fault.kind == "derived":
            disk.unlink(Path(fault.path))


def _rebuild(
    paths: StorePaths, request: BuildRequest, shards: list[int], progress: Progress
) -> list[int]:
    """Withdraw shards and build them again; return those, without any that the plan lacks."""
    plan = read_plan(paths.view_set(request.name))
    for shard in shards:
        withdraw(paths.view_set(request.name), shard)
    planned = [shard for shard in shards if shard < plan.shards]
    build_shards(replace(request, only=tuple(planned)), paths, plan, progress)
    return planned


def withdraw(paths: ViewSetPaths, shard: int) -> None:
    """Take back the commit of a shard; the record and its bad files go to quarantine."""
    path = paths.commit(shard)
    if not path.exists():
        return
    try:
        commit = read_commit(paths, shard)
    except FormatError:
        commit = None
    attempt = commit.attempt if commit is not None else f"damaged-{time.time_ns()}"
    disk.make_directory(paths.quarantine)
    disk.link(path, paths.quarantine / f"{shard:06d}-{attempt}.json", scratch=paths.tmp)
    disk.fsync_directory(paths.quarantine)
    disk.unlink(path)
    disk.fsync_directory(paths.commits)
    for blob in commit.entry.files if commit is not None else ():
        file = paths.root / blob.name
        if file.is_file() and (
            file.stat().st_size != blob.bytes or disk.sha256_of(file) != blob.sha256
        ):
            disk.rename(file, paths.quarantine / f"{blob.name}.{attempt}")
    disk.fsync_directory(paths.root)


def failed_shards(paths: ViewSetPaths) -> list[int]:
    """Return the shards that hold rows of status 3 or 4: a repair may now read their sources.

    What describes views that could not be made is stale as soon as they are: none of it is named.
    """
    from viewstore.store.params import Params

    plan = read_plan(paths)
    if plan.kind == "columns" and plan.parent is not None and plan.parent["view_set"] != SOURCE:
        return []
    committed = set(committed_shards(paths))
    absent = set(range(plan.shards)) - committed
    params = Params(paths.params, plan.columns, plan.rows, plan.shard_rows, absent=absent)
    bad = np.flatnonzero((params["status"] >= Status.FAILED).any(axis=1))
    return sorted({int(row) // plan.shard_rows for row in bad} & committed)
