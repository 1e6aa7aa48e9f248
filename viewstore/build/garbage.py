"""What killed builds left behind: files of a store that nothing names. `viewstore gc` drops it.

A builder may be about to name what gc drops: the bytes of a shard decide the name of a blob, so
one that a killed attempt left long ago is the next attempt's too. In a folder a lock keeps the two
apart, as far as the file system passes locks on to other hosts (docs/cluster.md): builders hold it
while they name blobs and commit. A bucket has no lock, and to remove an object on the condition
that it is still the same one does not help: written again with the same bytes it has the same tag.
There each side looks twice, with requests that see all that was answered before them:

    builder: puts its blobs; puts the commit; looks for its blobs, and puts again what is gone
    gc:      copies a blob aside; removes it; looks for the commit of its shard, and copies the
             blob back if it is named there; removes the copy

Only a put before the removal, of a blob that a later commit names, could be lost. If the commit is
put before gc looks, gc brings the blob back. If it is put after that, the builder looks later than
the removal, and puts it again. So it is for any number of builders and of gcs, each of which has
copies of its own. Who is killed on the way leaves one of two things:

    gc, before it brought a blob back: the next gc brings it back, from the copy
    a builder, before it looked: the commit names a blob that is gone; `finalise` refuses it

In both cases the next build makes the files of the shard again, as equal bytes have equal names.
For the moment between removal and copy, who reads the blob finds it missing. A copy is as young as
the gc that made it, and another gc drops it by its age alone. Not covered: a request to remove that
the network holds back until a later one of the same gc was answered.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from viewstore.build.adopt import restore_folders
from viewstore.build.rename import REMOVED
from viewstore.files import disk
from viewstore.files.upstream import FOLDER, Upstream
from viewstore.format.manifest import Commit
from viewstore.format.paths import StorePaths, ViewSetPaths
from viewstore.store.committed import (
    committed_shards,
    read_commit,
    read_commits,
    read_plan,
    view_sets,
)
from viewstore.store.verify import is_blob, is_orphan, named_files

DAY_SECONDS = 24 * 3600.0


def collect_garbage(
    root: Path,
    upstream: Upstream = FOLDER,
    *,
    older_seconds: float = DAY_SECONDS,
    dry_run: bool,
) -> list[Path]:
    """Remove files that no commit or quarantine entry names, and return them.

    Only those older than `older_seconds` on the store's clock: a builder may still be writing the
    younger ones. No upload in parts is left open, as there are none.

    Raises:
        FormatError: A commit is damaged; what it names is not known.
        RemoteError: The bucket did not answer, or lists a record that it does not give.
    """
    paths = StorePaths(root)
    restore_folders(paths)
    with disk.file_lock(paths.gc_lock):
        upstream.pull()
        found = {paths.view_set(name).root: paths.view_set(name) for name in view_sets(paths)}
        named = {folder: named_files(each, _all_commits(each)) for folder, each in found.items()}
        scratch = {paths.tmp, *(each.tmp for each in found.values())}
        ages = upstream.ages(paths, scratch | named.keys())
        if paths.tmp / paths.manifest.name in ages:  # a store of its own lies there
            scratch.remove(paths.tmp)
        old = {path for path, age in ages.items() if age >= older_seconds}
        removed = sorted(
            path
            for path in old - {paths.finalise_lock, paths.gc_lock}
            if _is_scratch(path, scratch)
            or (is_orphan(path.name, named.get(path.parent, ())) and not path.is_dir())
        )
        if dry_run:
            return removed
        for folder, names in named.items():
            for name in names:
                upstream.restore(folder / name)
        return [path for path in removed if _removed(path, found.get(path.parent), upstream)]


def _removed(path: Path, view_set: ViewSetPaths | None, upstream: Upstream) -> bool:
    """Remove a file, and return true; false if it is a blob that is named meanwhile."""
    if view_set is None or not is_blob(path.name):
        upstream.remove(path)
        return True
    shard = int(path.name.partition("-")[0])

    def is_named() -> bool:
        upstream.fetch(view_set.commit(shard))
        commit = read_commit(view_set, shard)
        return commit is not None and path.name in {blob.name for blob in commit.entry.files}

    return upstream.discard(path, is_named)


def _is_scratch(path: Path, scratch: Collection[Path]) -> bool:
    """Whether a file lies in a folder of scratch, or is a view set that was being taken out."""
    return path.parent in scratch and (path.name.endswith(REMOVED) or not path.is_dir())


def _all_commits(paths: ViewSetPaths) -> dict[int, Commit]:
    """Return all commits of a view set. Raises FormatError: one, or the plan, cannot be used."""
    return read_commits(paths, read_plan(paths), committed_shards(paths))
