"""Taking a view set out of a store, and giving one another name.

`viewstore rm` and `viewstore mv` call it. A kill at any instant leaves a store in which the view
set is there as before or as it shall be; the same command, run again, ends what was begun.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from viewstore.build.adopt import make_folders, restore_folders
from viewstore.build.finalise import derive, publish
from viewstore.errors import ConfigError, FormatError
from viewstore.files import disk
from viewstore.format.manifest import Commit, Manifest, ViewSetEntry
from viewstore.format.paths import StorePaths, ViewSetPaths
from viewstore.format.plan import Plan, check_view_set_name
from viewstore.store.committed import (
    committed_shards,
    known_view_sets,
    no_view_set,
    read_commits,
    read_manifest,
    read_plan,
    view_sets,
)


def remove_view_set(root: Path, name: str) -> Manifest | None:
    """Take a view set out of a store: a generation without it, then its files go.

    Returns:
        The newest manifest; None before the first.

    Raises:
        ConfigError: There is no such view set, or another one starts from it.
    """
    paths = StorePaths(root)
    with disk.explained(root):
        restore_folders(paths)
    with disk.explained(root), disk.file_lock(paths.finalise_lock):
        if name not in known_view_sets(paths):
            raise no_view_set(name, known_view_sets(paths), root)
        _check_no_child(paths, name, verb="taken out")
        manifest = _publish_without(paths, name, {})
        _discard(paths, name)
        return manifest


def rename_view_set(root: Path, old: str, new: str) -> Manifest | None:
    """Give a view set another name; its shards stay, and are rebuilt as those of the old name.

    Returns:
        The newest manifest; None before the first.

    Raises:
        ConfigError: There is no view set `old`, there is another one called `new`, that is no
            name, shards of `old` must be repaired first, or another view set starts from it.
    """
    check_view_set_name(new)
    paths = StorePaths(root)
    with disk.explained(root):
        restore_folders(paths)
    with disk.explained(root), disk.file_lock(paths.finalise_lock):
        if old not in view_sets(paths):
            raise no_view_set(old, view_sets(paths), root)
        _check_no_child(paths, old, verb="renamed")
        plan = read_plan(paths.view_set(old)).renamed(new)
        if new in known_view_sets(paths) and not _is_of(paths.view_set(new), plan):
            raise ConfigError(
                f"there is a view set {new!r} already",
                where=str(paths.view_set(new).root),
                fix=f"name another one, or take it out: viewstore rm {root} {new}",
            )
        commits = _put_links(paths.view_set(old), paths.view_set(new), plan)
        manifest = read_manifest(paths)
        if manifest is not None and old in manifest.view_sets:
            entry = derive(paths.view_set(new), plan, commits, None)
            if entry.root != manifest.view_sets[old].root:
                raise ConfigError(
                    f"view set {old!r} lacks shards that its readers expect",
                    fix=f"viewstore verify {root} --repair --view-set {old}",
                )
            manifest = _publish_without(paths, old, {new: entry})
        _discard(paths, old)
        return manifest


def _check_no_child(paths: StorePaths, name: str, *, verb: str) -> None:
    for other in view_sets(paths):
        with contextlib.suppress(FormatError):  # a damaged plan is a fault of its own
            parent = read_plan(paths.view_set(other)).parent
            if parent is not None and parent["view_set"] == name:
                raise ConfigError(
                    f"view set {name!r} cannot be {verb}: {other!r} starts from it",
                    why="a repair rebuilds its views from those it starts from",
                    fix=f"take that one out first: viewstore rm {paths.root} {other}",
                )


def _is_of(paths: ViewSetPaths, plan: Plan) -> bool:
    return paths.plan.is_file() and read_plan(paths).id == plan.id


def _put_links(old: ViewSetPaths, new: ViewSetPaths, plan: Plan) -> Mapping[int, Commit]:
    """Give the shards of a view set their names in the new one too; return its commits.

    The plan comes last: until then there is no new view set.
    """
    make_folders(new.folders)
    commits = {
        shard: replace(commit, view_set=plan.view_set, plan_id=plan.id)
        for shard, commit in read_commits(old).items()
    }
    names = disk.DirectorySyncs()
    for commit in commits.values():
        for blob in commit.entry.files:
            disk.link(old.root / blob.name, new.root / blob.name, scratch=new.tmp)
            names.add(new.root / blob.name)
    names.sync()
    for shard, commit in commits.items():
        disk.put_if_absent(new.commit(shard), commit.pack(), scratch=new.tmp)
    disk.put_if_absent(new.plan, plan.pack(), scratch=new.tmp)
    return commits


def _publish_without(
    paths: StorePaths, name: str, instead: Mapping[str, ViewSetEntry]
) -> Manifest | None:
    """Put a generation without the view set `name`, and with those of `instead`."""
    manifest = read_manifest(paths)
    if manifest is None or name not in manifest.view_sets:
        return manifest
    left = {key: entry for key, entry in manifest.view_sets.items() if key != name}
    complete = manifest.complete or all(_is_complete(paths.view_set(key)) for key in left)
    return publish(paths, manifest, manifest.sources_id, {**left, **instead}, complete)


def _is_complete(paths: ViewSetPaths) -> bool:
    return paths.plan.is_file() and len(committed_shards(paths)) == read_plan(paths).shards


def _discard(paths: StorePaths, name: str) -> None:
    """Remove the files of a view set, all at once for those who look."""
    folder = paths.view_set(name).root
    if not folder.is_dir():
        return
    aside = paths.tmp / f"{name}.{uuid.uuid4().hex}.removed"
    with disk.file_lock(paths.gc_lock):  # no builder is in the middle of a commit
        disk.rename(folder, aside)
    disk.fsync_directory(paths.views)
    disk.remove_tree(aside)
