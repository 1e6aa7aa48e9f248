"""From commits to a manifest: the derived files, and the generation that readers open.

A complete build ends with it, and `viewstore finalise` calls it after slices. One process at a
time writes; a second call changes nothing; derived files that were deleted are written again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from viewstore.build.adopt import restore_folders
from viewstore.errors import FormatError, ViewStoreError
from viewstore.files import disk
from viewstore.files.local import LOCAL
from viewstore.files.upstream import FOLDER, Upstream
from viewstore.format.chunks import chunk_key, unpack_chunk, unpack_params, zarr_array, zarr_group
from viewstore.format.columns import Column
from viewstore.format.manifest import Commit, Index, Manifest, ViewSetEntry
from viewstore.format.paths import StorePaths, ViewSetPaths
from viewstore.format.plan import Plan
from viewstore.format.records import LARGE_BYTES
from viewstore.format.stats import pack_stats
from viewstore.format.tar import MEMBER_DTYPE, SHARD_BYTES, pack_npy
from viewstore.sources.record import read_sources
from viewstore.store.advice import unfinished
from viewstore.store.committed import (
    build_again,
    last_generation,
    read_commits,
    read_manifest,
    read_plan,
    shards_again,
    view_sets,
)
from viewstore.store.params import Params
from viewstore.store.shard_content import chunk_facts

Derived = dict[str, tuple[int, str]]


class NothingComplete(ViewStoreError):
    """No view set of a store is complete: there is nothing to publish."""


def finalise(root: Path, *, allow_partial: bool = False, upstream: Upstream = FOLDER) -> Manifest:
    """Write the derived files of every view set whose shards are all committed, and the manifest.

    A view set that is not complete keeps the entry that it has, which names what it lacks; without
    one it stays out of the manifest, unless `allow_partial`. One that is gone from disk keeps its
    entry too: only `remove_view_set` takes it out. What is complete is published before an error
    of another view set's records is raised.

    Raises:
        NothingComplete: No view set is complete.
        FormatError: A plan or a commit record cannot be used, or a blob is missing or of another
            size.
    """
    paths = StorePaths(root)
    with disk.explained(root):
        restore_folders(paths)
    while True:
        # One at a time here; the manifest is safe without it.
        with disk.explained(root), disk.file_lock(paths.finalise_lock):
            upstream.pull()
            manifest, damage = _finalise(paths, allow_partial, upstream)
            upstream.pull()  # of two that name the newest one, the late one may be the older
            if manifest is not None and manifest.generation == last_generation(paths):
                if damage is not None:
                    raise damage
                return manifest


def _finalise(
    paths: StorePaths, allow_partial: bool, upstream: Upstream
) -> tuple[Manifest | None, FormatError | None]:
    """Publish the next generation; None if another process published one meanwhile.

    Also return the error of a view set whose records cannot be used.
    """
    _, _, sources_id = read_sources(paths)
    newest = read_manifest(paths)
    published = {} if newest is None else newest.view_sets
    entries = {}
    complete, damage = True, None
    for name in view_sets(paths):
        view_set, before = paths.view_set(name), published.get(name)
        plan = read_plan(view_set)
        try:
            commits = read_commits(view_set, plan)
        except FormatError as error:
            damage = damage or error
            continue
        if len(commits) == plan.shards:
            entries[name] = derive(view_set, plan, commits, before, upstream)
        elif allow_partial:
            entries[name] = derive(view_set, plan, commits, before, upstream)
            complete = False
        elif before is not None:  # a repair took shards back, or it was published so
            entries[name] = _kept(view_set, plan, commits, before, upstream)
            complete = False
    if damage is not None and all(published.get(name) == each for name, each in entries.items()):
        raise damage  # there is nothing new to publish
    for name in set(published) - set(entries):  # gone from disk, which verify tells, or damaged
        entries[name] = published[name]
        complete = False
    if not entries:
        raise NothingComplete(
            "no view set is complete",
            code="VS202",
            where=str(paths.root),
            why=unfinished(paths)[0],
            fix=unfinished(paths)[1],
        )
    return publish(paths, newest, sources_id, entries, complete, upstream), damage


def _kept(
    paths: ViewSetPaths,
    plan: Plan,
    commits: Mapping[int, Commit],
    before: ViewSetEntry,
    upstream: Upstream,
) -> ViewSetEntry:
    """Return the entry of a view set published in part, its derived files whole again.

    If one of its shards was taken back, or nothing tells which they are, all stays for a repair.
    """
    try:
        shards = LOCAL.record(paths.index, LARGE_BYTES, Index.unpack).shards
        part = {it.shard: commits[it.shard] for it in shards if it.shard in commits}
    except FormatError:
        part = dict(commits)
    if before.plan_id != plan.id or Index.of(plan, part).root != before.root:
        return before
    return derive(paths, plan, part, before, upstream)


def derive(
    paths: ViewSetPaths,
    plan: Plan,
    commits: Mapping[int, Commit],
    published: ViewSetEntry | None,
    upstream: Upstream = FOLDER,
) -> ViewSetEntry:
    """Write index, members, params and stats of a view set; return its entry in the manifest.

    If `published`, the entry of the newest manifest, has the same root, files that are right
    already are durable too; and where none of them is missing or damaged, it is kept and no pack
    is read.

    Raises:
        FormatError: A file of a commit is missing, or has another size.
    """
    for commit in commits.values():
        for blob in commit.entry.files:
            _check_size(paths.root / blob.name, blob.bytes, upstream, commit.entry.shard)
    index = Index.of(plan, commits)
    is_new = published is None or (published.plan_id, published.root) != (plan.id, index.root)
    if published is not None and not is_new and _whole(paths, plan, published, index, upstream):
        return published
    files = (blob for commit in commits.values() for blob in commit.entry.files)
    upstream.fetch_blobs(paths.root, (blob for blob in files if blob.role != "views"))
    writer = _Writer(paths, upstream, is_new=is_new)
    if writer.is_new:  # whoever committed them may have been killed before it synced their names
        for shard in commits:
            writer.names.add(paths.commit(shard))
    members = _derive_columns(writer, plan, commits)
    writer.replace("index/members.npy", pack_npy(members))
    writer.replace("index.json", index.pack())
    absent = set(range(plan.shards)) - set(commits)
    params = Params(paths.params, plan.columns, plan.rows, plan.shard_rows, absent=absent)
    writer.replace("stats.json", pack_stats(plan, params))
    writer.names.sync()
    return ViewSetEntry(plan_id=plan.id, root=index.root, derived=writer.derived)


def _whole(
    paths: ViewSetPaths, plan: Plan, published: ViewSetEntry, index: Index, upstream: Upstream
) -> bool:
    """Whether the derived files of an entry are there: those it names by hash, chunks by size.

    A shard that was rebuilt to equal bytes may have another lineage, which the index says.
    """
    for name, (size, sha256) in published.derived.items():
        if not upstream.holds(paths.root / name, size, sha256):
            return False
    if Index.unpack(disk.read_limited(paths.index, LARGE_BYTES)) != index:
        return False
    return all(
        upstream.holds(
            paths.params / column.name / chunk_key(column, entry.shard),
            chunk_facts(entry, column.name)[0],
        )
        for entry in index.shards
        for column in plan.columns
    )


class _Writer:
    """Writes derived files where they differ; `derived` is what the manifest says of them."""

    def __init__(self, paths: ViewSetPaths, upstream: Upstream, *, is_new: bool) -> None:
        """Sync the names that are there already if they are those of a new entry."""
        self.paths, self.upstream, self.is_new = paths, upstream, is_new
        self.names = disk.DirectorySyncs()
        self.derived: Derived = {}

    def replace(self, name: str, data: bytes) -> None:
        path = self.begin(name)
        if not path.is_file() or path.read_bytes() != data:
            self.names.write(path, data, scratch=self.paths.tmp)
        self.upstream.push(path)
        self.derived[name] = (len(data), hashlib.sha256(data).hexdigest())

    def begin(self, name: str) -> Path:
        """Return the path of a file that is about to be named, its folders made."""
        path = self.paths.root / name
        self.names.make_directory(path.parent)
        if self.is_new:
            while path != self.paths.root:
                self.names.add(path)
                path = path.parent
        return self.paths.root / name


def _derive_columns(writer: _Writer, plan: Plan, commits: Mapping[int, Commit]) -> np.ndarray:
    """Unpack the columns of every shard into zarr chunks; return all members, [N, M]."""
    paths = writer.paths
    members = np.zeros((plan.rows, len(plan.members)), MEMBER_DTYPE)
    writer.replace("params.zarr/zarr.json", zarr_group())
    for column in plan.columns:
        meta = zarr_array(column, plan.rows, plan.shard_rows)
        writer.replace(f"params.zarr/{column.name}/zarr.json", meta)
    for shard, commit in commits.items():
        pack = disk.read_limited(paths.root / commit.entry.file("params").name, SHARD_BYTES)
        packed = [column.name for column in plan.columns if column.pack]
        table, chunks = unpack_params(pack, packed)
        rows = plan.shard_range(shard)
        if len(table) != len(rows) * len(plan.members):
            raise FormatError(f"member index of shard {shard} has {len(table)} members")
        members[rows.start : rows.stop] = table.reshape(len(rows), len(plan.members))
        for column in plan.columns:
            _derive_chunk(writer, plan, column, commit, chunks.get(column.name))
    for shard in range(plan.shards):
        if shard not in commits:
            _remove_chunks(paths, plan, shard)
    return members


def _derive_chunk(
    writer: _Writer, plan: Plan, column: Column, commit: Commit, chunk: memoryview | None
) -> None:
    paths = writer.paths
    target = writer.begin(f"params.zarr/{column.name}/{chunk_key(column, commit.entry.shard)}")
    if chunk is None:
        blob = paths.root / commit.entry.file(f"column:{column.name}").name
        if not (target.exists() and target.samefile(blob)):
            disk.unlink(target)
            disk.link(blob, target, scratch=paths.tmp)
            writer.names.add(target)
        return
    if not target.is_file() or target.read_bytes() != chunk:
        unpack_chunk(column, chunk, plan.shard_rows)
        writer.names.write(target, bytes(chunk), mode=0o444, scratch=paths.tmp)


def _remove_chunks(paths: ViewSetPaths, plan: Plan, shard: int) -> None:
    """A shard that was withdrawn leaves no params behind."""
    for column in plan.columns:
        disk.unlink(paths.params / column.name / chunk_key(column, shard))


def publish(
    paths: StorePaths,
    newest: Manifest | None,
    sources_id: str,
    entries: Mapping[str, ViewSetEntry],
    complete: bool,
    upstream: Upstream = FOLDER,
) -> Manifest | None:
    """Put the next generation, unless the newest says the same already.

    Returns:
        None: another process put it first, and may know of view sets that this one does not.
    """
    if newest is not None and not paths.generation(newest.generation).is_file():
        kept = paths.generation(newest.generation)
        upstream.put_if_absent(kept, newest.pack(), scratch=paths.tmp)
    last = last_generation(paths)
    manifest = Manifest(
        generation=last + 1,
        previous=disk.sha256_of(paths.generation(last)) if last else None,
        complete=complete,
        sources_id=sources_id,
        view_sets=entries,
    )
    stored = None
    if last:
        stored = LOCAL.record(paths.generation(last), LARGE_BYTES, Manifest.unpack)
    if stored is not None and _same(stored, manifest):
        manifest = stored  # nothing is new, or a crash came before manifest.json
        disk.fsync_directory(paths.generations)  # who named it may have been killed then
    elif not upstream.put_if_absent(paths.generation(last + 1), manifest.pack(), scratch=paths.tmp):
        return None
    if manifest != newest:
        disk.write_atomic(paths.manifest, manifest.pack(), scratch=paths.tmp)
        upstream.push(paths.manifest)
    return manifest


def _same(first: Manifest, second: Manifest) -> bool:
    return (first.sources_id, first.complete, first.view_sets) == (
        second.sources_id,
        second.complete,
        second.view_sets,
    )


def _check_size(path: Path, expected: int, upstream: Upstream, shard: int) -> None:
    size = upstream.size(path)
    if size != expected:
        found = "is missing" if size < 0 else f"has {size} bytes, expected {expected}"
        view_set, store = path.parent.name, path.parents[2]
        mends_it = upstream is not FOLDER  # what is gone from a bucket a builder makes again
        raise FormatError(
            f"a shard file of {view_set} {found}",
            code="VS203",
            where=str(path),
            why="its commit says otherwise",
            fix=build_again(store, view_set)
            if mends_it
            else shards_again(store, view_set, [shard]),
        )
