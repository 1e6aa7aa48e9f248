"""What killed builds left behind: files of a store that nothing names. `viewstore gc` drops it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from viewstore.build.adopt import restore_folders
from viewstore.build.rename import REMOVED
from viewstore.files import disk
from viewstore.files.upstream import FOLDER, Upstream
from viewstore.format.manifest import Commit
from viewstore.format.paths import StorePaths, ViewSetPaths
from viewstore.store.committed import committed_shards, read_commits, read_plan, view_sets
from viewstore.store.verify import is_orphan, named_files

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
    younger ones. On a disk no builder commits meanwhile: one could take an old file that nothing
    names for its own. Into a bucket it sends a blob anew, and so makes it young, before it
    commits: ages that are asked after the commits show it. No upload in parts is left open, as
    there are none.
    """
    paths = StorePaths(root)
    restore_folders(paths)
    with disk.file_lock(paths.gc_lock):
        upstream.pull()
        found = [paths.view_set(name) for name in view_sets(paths)]
        named = {each.root: named_files(each, _all_commits(each)) for each in found}
        scratch = {paths.tmp, *(each.tmp for each in found)}
        ages = upstream.ages(paths, scratch | named.keys())
        if paths.tmp / paths.manifest.name in ages:  # a store of its own lies there
            scratch.remove(paths.tmp)
        old = {path for path, age in ages.items() if age >= older_seconds}
        removed = sorted(
            path
            for path in old - {paths.finalise_lock, paths.gc_lock}
            if _is_scratch(path, scratch) or is_orphan(path.name, named.get(path.parent, ()))
        )
        for path in [] if dry_run else removed:
            upstream.remove(path)
        return removed


def _is_scratch(path: Path, scratch: Collection[Path]) -> bool:
    """Whether a file lies in a folder of scratch, or is a view set that was being taken out."""
    return path.parent in scratch and (path.name.endswith(REMOVED) or not path.is_dir())


def _all_commits(paths: ViewSetPaths) -> dict[int, Commit]:
    """Return all commits of a view set. Raises FormatError: one, or the plan, cannot be used."""
    return read_commits(paths, read_plan(paths), committed_shards(paths))
