"""Mending a store: rebuild exactly the damaged shards from their recorded plan, drop garbage.

`viewstore verify --repair` and `viewstore gc` call it. Nothing damaged is deleted: withdrawn
commits and bad files move to quarantine/.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from viewstore.build.adopt import stored_rows
from viewstore.build.compose import OnError, check_reproducible
from viewstore.build.finalise import finalise
from viewstore.build.request import BuildRequest
from viewstore.build.roles import WeightFiles
from viewstore.build.run import build_shards
from viewstore.errors import ConfigError, FormatError
from viewstore.files import disk
from viewstore.format.columns import Status
from viewstore.format.manifest import Manifest
from viewstore.format.paths import StorePaths, ViewSetPaths
from viewstore.progress import Progress, Silent
from viewstore.sources.record import read_sources
from viewstore.store.committed import (
    committed_shards,
    read_commit,
    read_commits,
    read_plan,
    view_sets,
)
from viewstore.store.verify import Fault, orphans

REBUILT_KINDS = ("missing", "size", "hash", "tar", "member", "params", "commit")
DAY_SECONDS = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """The result of a repair: the shards it rebuilt by view set, and the manifest after it."""

    shards: dict[str, list[int]]
    manifest: Manifest


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

    `files` are those of networks by role, where the packaged ones do not do.

    Raises:
        FormatError: A fault that no rebuild mends: the sources or a plan are damaged.
    """
    _check_repairable(root, faults)
    paths = StorePaths(root)
    rebuilt: dict[str, list[int]] = {}
    with disk.explained(root):
        damaged = _damaged_shards(paths, faults)
        for name in damaged:  # all of them, before any shard is given up
            check_reproducible(paths, read_plan(paths.view_set(name)), files or {})
        for name, shards in damaged.items():
            request = BuildRequest(
                generator=read_plan(paths.view_set(name)).generator["name"],
                out=root,
                view_set=name,
                files=files or {},
                on_error=on_error,
                workers=workers,
            )
            rebuilt[name] = _rebuild(paths, request, shards, progress or Silent())
        _drop_derived(paths, faults)
        return Repaired(shards=rebuilt, manifest=finalise(root))


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
            view_set = paths.view_set(fault.view_set)  # which shards were published is lost: all
            absent = {*range(read_plan(view_set).shards)} - {*committed_shards(view_set)}
            if absent:
                found.setdefault(fault.view_set, set()).update(absent)
    names = [name for name in view_sets(paths) if name in found]
    return {name: sorted(found[name]) for name in sorted(names, key=lambda n: _depth(paths, n))}


def _depth(paths: StorePaths, name: str) -> int:
    """Return how many view sets a view set starts from, one from the other."""
    depth = 0
    plan = read_plan(paths.view_set(name))
    while plan.parent is not None and depth < len(view_sets(paths)):
        parent = paths.view_set(plan.parent["view_set"])
        if not parent.plan.is_file():
            break
        plan, depth = read_plan(parent), depth + 1
    return depth


def remedy(root: Path, fault: Fault) -> str | None:
    """Return what to do about a fault that no repair mends; None: a repair mends it."""
    if fault.kind == "record" and fault.view_set == "source":
        return "build the view sets again, into another --out"
    if fault.kind in ("plan", "gone"):
        return f"viewstore rm {root} {fault.view_set}, then build it again"
    return None


def _check_repairable(root: Path, faults: Sequence[Fault]) -> None:
    for fault in faults:
        fix = remedy(root, fault)
        if fix is not None and fault.kind != "gone":
            raise FormatError(
                f"cannot be repaired: {fault.what}",
                where=fault.path,
                why="shards are rebuilt from this record",
                fix=fix,
            )


def _drop_derived(paths: StorePaths, faults: Sequence[Fault]) -> None:
    """Remove damaged derived files, and set damaged manifests aside, for `finalise` to write."""
    for fault in faults:
        if fault.kind == "derived":
            disk.unlink(Path(fault.path))
        if fault.view_set == "manifest" and Path(fault.path).is_file():
            aside = f"{Path(fault.path).name}.{time.time_ns()}.damaged"
            disk.rename(Path(fault.path), paths.tmp / aside)


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


def collect_garbage(root: Path, *, older_seconds: float = DAY_SECONDS, dry_run: bool) -> list[Path]:
    """Remove files that no commit or quarantine entry names, and return them.

    Only those older than `older_seconds`: a builder may still be writing the younger ones. Ages
    are measured on the store's clock. No builder commits meanwhile: one could take an old file
    that nothing names for its own.
    """
    paths = StorePaths(root)
    with disk.file_lock(paths.gc_lock):
        return _collect(paths, older_seconds, dry_run)


def _collect(paths: StorePaths, older_seconds: float, dry_run: bool) -> list[Path]:
    probe = paths.tmp / "clock"
    disk.write_atomic(probe, b"")
    now = probe.stat().st_mtime
    disk.unlink(probe)
    locks = (paths.finalise_lock, paths.gc_lock)
    garbage = [path for path in paths.tmp.iterdir() if path not in locks]
    for name in view_sets(paths):
        view_set = paths.view_set(name)
        garbage += orphans(view_set, read_commits(view_set))
    old = [path for path in garbage if _age(path, now) >= older_seconds]
    for path in [] if dry_run else old:
        if path.is_dir():  # a view set that was being taken out
            disk.remove_tree(path)
        else:
            disk.unlink(path)
    return old


def _age(path: Path, now: float) -> float:
    """Return the seconds since a file was written; -1 if its builder has just removed it."""
    try:
        return now - path.stat().st_mtime
    except FileNotFoundError:
        return -1.0


def failed_shards(paths: ViewSetPaths) -> list[int]:
    """Return the shards that hold rows of status 3 or 4: a repair may now read their sources."""
    from viewstore.store.params import Params

    plan = read_plan(paths)
    committed = set(committed_shards(paths))
    absent = set(range(plan.shards)) - committed
    params = Params(paths.params, plan.columns, plan.rows, plan.shard_rows, absent=absent)
    bad = np.flatnonzero((params["status"] >= Status.FAILED).any(axis=1))
    return sorted({int(row) // plan.shard_rows for row in bad} & committed)
