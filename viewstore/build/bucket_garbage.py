"""What killed builds left in a bucket: objects that nothing names."""

from __future__ import annotations

from viewstore.files.enclosing import RECORDS
from viewstore.files.working_copy import WorkingCopy
from viewstore.format.paths import StorePaths
from viewstore.store.committed import read_commits, view_sets
from viewstore.store.verify import is_orphan, named_files


def collect_bucket_garbage(copy: WorkingCopy, *, older_seconds: float, dry_run: bool) -> list[str]:
    """Remove objects that no commit or quarantine entry names, and return their names.

    Only those older than `older_seconds` on the bucket's clock: a builder may be about to commit
    the younger ones. It sends a blob anew, and so makes it young, before it commits: ages that are
    asked after the commits show it. No upload in parts is left open, as there are none.
    """
    copy.pull()
    ages = copy.bucket.ages()
    paths = StorePaths(copy.root)
    named = {
        f"views/{name}": named_files(paths.view_set(name), read_commits(paths.view_set(name)))
        for name in view_sets(paths)
    }
    scratch = {f"{folder}/tmp" for folder in named}
    if not any(f"tmp/{record}" in ages for record in RECORDS):  # else a store of its own is there
        scratch.add("tmp")
    removed = []
    for name, age in sorted(ages.items()):
        folder, _, file = name.rpartition("/")
        garbage = folder in scratch or (folder in named and is_orphan(file, named[folder]))
        if garbage and age >= older_seconds:
            removed.append(name)
    for name in [] if dry_run else removed:
        copy.bucket.remove(name)
    return removed
