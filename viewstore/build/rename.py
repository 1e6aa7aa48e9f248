"""Taking a view set out of a store, and giving one another name.

`viewstore rm` and `viewstore mv` call it. A kill at any instant leaves a store in which the view
set is there as before or as it shall be; the same command, run again, ends what was begun.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from viewstore.build.adopt import make_folders, restore_folders
from viewstore.build.finalise import derive, publish
from viewstore.build.listing import own_files
from viewstore.errors import ConfigError, FormatError, quoted
from viewstore.files import disk
from viewstore.files.local import LOCAL
from viewstore.format.manifest import Commit, Index, Manifest, ShardEntry, ViewSetEntry
from viewstore.format.paths import StorePaths, ViewSetPaths
from viewstore.format.plan import Plan, check_no_round, check_view_set_name
from viewstore.format.records import LARGE_BYTES
from viewstore.store.committed import (
    committed_shards,
    known_view_sets,
    no_view_set,
    read_commits,
    read_manifest,
    read_plan,
    view_sets,
)
from viewstore.store.rounds import numbered_rounds

REMOVED = ".removed"  # the end of the name of a view set's folder while it is being taken out


def remove_view_set(root: Path, name: str) -> Manifest | None:
    """Take a view set out of a store: a generation without it, then its files go.

    Returns:
        The newest manifest; None before the first.

    Raises:
        ConfigError: There is no such view set, or another one starts from it.
    """
    paths = StorePaths(root)
    with disk.explained(root), _alone(paths):
        if name not in known_view_sets(paths):
            raise no_view_set(name, known_view_sets(paths), root)
        _check_no_child(paths, name, verb="taken out")
        manifest = _publish_without(paths, name, {})
        _discard(paths, name)
        return manifest


def rename_view_set(root: Path, old: str, new: str) -> Manifest | None:
    """Give a view set and its rounds another name.

    Their shards stay, and are rebuilt as those of the old name.

    Returns:
        The newest manifest; None before the first.

    Raises:
        ConfigError: There is no view set `old`, it is a round of another one, there is another one
            called `new`, that is no name, shards of `old` must be repaired first, or another view
            set starts from it.
    """
    check_view_set_name(new)
    check_no_round(new, f"viewstore refresh {quoted(root)}")
    paths = StorePaths(root)
    with disk.explained(root), _alone(paths):
        plans = _rounds(paths, old)
        if not plans:
            raise no_view_set(old, view_sets(paths), root)
        if new == old:
            raise ConfigError(f"view set {old!r} has this name already", fix="name another one")
        moves = [_Move.of(paths, plan, new) for plan in plans]
        for move in moves:
            _check_no_child(paths, move.old, verb="renamed")
            _check_free(paths, move.plan, move.commits)
            _check_whole(paths, move.old, move.commits)
        for move in moves:
            _put_links(paths.view_set(move.old), paths.view_set(move.new), move.plan, move.commits)
            manifest = read_manifest(paths)
            if manifest is not None and move.old in manifest.view_sets:
                entry = derive(paths.view_set(move.new), move.plan, move.commits, None)
                _publish_without(paths, move.old, {move.new: entry})
            _discard(paths, move.old)
        return read_manifest(paths)


def _rounds(paths: StorePaths, name: str) -> list[Plan]:
    """Return the plans of a view set and its rounds, the newest first: a kill leaves the others.

    Raises:
        ConfigError: It is a round of another view set.
    """
    known = numbered_rounds(view_sets(paths), name)
    plans = [read_plan(paths.view_set(each)) for each in known.values()]
    if plans and plans[-1].view_set == name and plans[-1].base != name:
        base = plans[-1].base
        raise ConfigError(
            f"view set {name!r} is a round of {base!r}, and is named as it is",
            fix=f"rename {base}, and its rounds go with it: "
            f"viewstore mv {quoted(paths.root)} {base} NEW",
        )
    return [plan for plan in plans if plan.base == name]


@dataclass(frozen=True)
class _Move:
    """A view set that gets another name: its plan and commits under that."""

    old: str
    plan: Plan
    commits: Mapping[int, Commit]

    @property
    def new(self) -> str:
        return self.plan.view_set

    @classmethod
    def of(cls, paths: StorePaths, plan: Plan, base: str) -> _Move:
        renamed = plan.renamed(base)
        commits = {
            shard: replace(commit, view_set=renamed.view_set, plan_id=renamed.id)
            for shard, commit in read_commits(paths.view_set(plan.view_set), plan).items()
        }
        return cls(plan.view_set, renamed, commits)


@contextlib.contextmanager
def _alone(paths: StorePaths) -> Iterator[None]:
    """Keep others meanwhile from writing manifests, from committing and from starting children."""
    restore_folders(paths)
    with disk.file_lock(paths.finalise_lock), disk.file_lock(paths.gc_lock):
        yield


def _check_no_child(paths: StorePaths, name: str, *, verb: str) -> None:
    children = []
    for other in view_sets(paths):
        with contextlib.suppress(FormatError):  # a damaged plan is a fault of its own
            links = read_plan(paths.view_set(other)).links.values()
            if name in [link["view_set"] for link in links]:
                children.append(other)
    if children:
        start = "starts" if len(children) == 1 else "start"
        commands = " && ".join(f"viewstore rm {quoted(paths.root)} {child}" for child in children)
        raise ConfigError(
            f"view set {name!r} cannot be {verb}: {', '.join(map(repr, children))} {start} from it",
            why="a repair rebuilds views from those they start from, which it finds by this name",
            fix=f"leave it as it is, or give up the views that were made from it: {commands}",
        )


def _check_free(paths: StorePaths, plan: Plan, commits: Mapping[int, Commit]) -> None:
    """Raise ConfigError if the name of `plan` is taken, but by what this renaming has begun."""
    new = paths.view_set(plan.view_set)
    is_known = plan.view_set in known_view_sets(paths)
    is_gone = is_known and not new.plan.is_file()  # and may come back with its readers
    if not is_gone and _is_begun(new, plan, commits):
        return
    if is_known:
        taken, remedy = (
            "view set",
            f"take it out: viewstore rm {quoted(paths.root)} {plan.view_set}",
        )
    else:
        taken, remedy = "folder with shards but no plan", f"move {new.root} out of the store"
    raise ConfigError(
        f"there is a {taken} {plan.view_set!r} already",
        where=str(new.root),
        fix=f"name another one, or {remedy}",
    )


def _is_begun(new: ViewSetPaths, plan: Plan, commits: Mapping[int, Commit]) -> bool:
    """Whether a view set holds nothing but what a renaming puts there before it may be killed.

    The commits come one by one and then the plan: some of them without it, or all with it.
    """
    try:
        found, wanted = _entries(read_commits(new, plan)), _entries(commits)
    except FormatError:
        return False
    if new.plan.is_file():
        return read_plan(new).id == plan.id and wanted.items() <= found.items()
    return found.items() <= wanted.items()


def _entries(commits: Mapping[int, Commit]) -> dict[int, ShardEntry]:
    return {shard: commit.entry for shard, commit in commits.items()}


def _check_whole(paths: StorePaths, name: str, commits: Mapping[int, Commit]) -> None:
    """Raise ConfigError if a view set lacks files of its shards, or shards its readers expect."""
    lacking = _lacking(paths, name, commits)
    if lacking:
        raise ConfigError(
            f"view set {name!r} cannot be renamed: {lacking[0]} is missing",
            where=str(paths.view_set(name).root),
            fix=f"mend it first: viewstore verify {quoted(paths.root)} --repair --view-set {name}",
        )


def _lacking(paths: StorePaths, name: str, commits: Mapping[int, Commit]) -> list[str]:
    view_set = paths.view_set(name)
    blobs = [blob.name for commit in commits.values() for blob in commit.entry.files]
    lacking = [blob for blob in blobs if not (view_set.root / blob).is_file()]
    manifest = read_manifest(paths)
    if manifest is None or name not in manifest.view_sets:
        return lacking
    if not view_set.index.is_file():
        return [*lacking, view_set.index.name]
    published = LOCAL.record(view_set.index, LARGE_BYTES, Index.unpack).shards
    found = _entries(commits)
    return [*lacking, *(f"shard {it.shard}" for it in published if found.get(it.shard) != it)]


def _put_links(
    old: ViewSetPaths, new: ViewSetPaths, plan: Plan, commits: Mapping[int, Commit]
) -> None:
    """Give the shards of a view set their names in the new one too.

    The plan comes last: until then there is no new view set.
    """
    make_folders(new.folders)
    names = disk.DirectorySyncs()
    for commit in commits.values():
        for blob in commit.entry.files:
            disk.link(old.root / blob.name, new.root / blob.name, scratch=new.tmp)
            names.add(new.root / blob.name)
    for path in own_files(old, plan).values():
        if path.is_file():
            disk.link(path, new.root / path.name, scratch=new.tmp)
            names.add(new.root / path.name)
    names.sync()
    for shard, commit in commits.items():
        disk.put_if_absent(new.commit(shard), commit.pack(), scratch=new.tmp)
    disk.put_if_absent(new.plan, plan.pack(), scratch=new.tmp)


def _publish_without(
    paths: StorePaths, name: str, instead: Mapping[str, ViewSetEntry]
) -> Manifest | None:
    """Put a generation without the view set `name`, and with those of `instead`."""
    while True:
        manifest = read_manifest(paths)
        if manifest is None or name not in manifest.view_sets:
            return manifest
        left = {key: entry for key, entry in manifest.view_sets.items() if key != name}
        entries = {**left, **instead}
        complete = manifest.complete or all(_is_complete(paths.view_set(key)) for key in entries)
        published = publish(paths, manifest, manifest.sources_id, entries, complete)
        if published is not None:
            return published


def _is_complete(paths: ViewSetPaths) -> bool:
    return paths.plan.is_file() and len(committed_shards(paths)) == read_plan(paths).shards


def _discard(paths: StorePaths, name: str) -> None:
    """Remove the files of a view set, all at once for those who look."""
    folder = paths.view_set(name).root
    if not folder.is_dir():
        return
    aside = paths.tmp / f"{name}.{uuid.uuid4().hex}{REMOVED}"
    disk.rename(folder, aside)
    disk.fsync_directory(paths.views)
    disk.remove_tree(aside)
