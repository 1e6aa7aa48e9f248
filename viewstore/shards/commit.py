"""Publishing shards: blobs under their content names, then the one record that makes them exist.

The order of the steps is docs/format.md section 4; nothing is ever renamed over a record, so
builders that race, or wake up late, do no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from viewstore.files import disk
from viewstore.files.upstream import FOLDER, Upstream
from viewstore.format.manifest import BlobRecord, Commit
from viewstore.format.paths import ViewSetPaths
from viewstore.store.committed import read_commit

PublishResult = Literal["committed", "lost_race"]


@dataclass(frozen=True, kw_only=True)
class Blob:
    """A finished, synced file under a temporary name, and the record of it once published."""

    record: BlobRecord
    temporary: Path


def publish(
    paths: ViewSetPaths, blobs: Sequence[Blob], commit: Commit, upstream: Upstream = FOLDER
) -> PublishResult:
    """Name the blobs, make the names durable, then put the commit record if absent.

    In a bucket garbage collection may take a blob whose name an older attempt left, while no record
    names it yet. So the blobs are looked for once more when the record is there.

    Returns:
        "lost_race" if another attempt committed the shard first; its blobs stay for gc, because
        a winner that built equal bytes shares their names.
    """
    with disk.file_lock(paths.gc_lock, shared=True):
        for blob in blobs:
            upstream.name_blob(blob.temporary, paths.root / blob.record.name, blob.record)
        disk.fsync_directory(paths.root)
        record = paths.commit(commit.entry.shard)
        if upstream.put_if_absent(record, commit.pack(), scratch=paths.tmp):
            for blob in blobs:
                upstream.keep_blob(blob.temporary, paths.root / blob.record.name, blob.record)
            return "committed"
    winner = read_commit(paths, commit.entry.shard)
    return "committed" if winner and winner.attempt == commit.attempt else "lost_race"
