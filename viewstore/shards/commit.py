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
from viewstore.format.manifest import BlobRecord, Commit
from viewstore.format.paths import ViewSetPaths
from viewstore.store.committed import read_commit

PublishResult = Literal["committed", "lost_race"]


@dataclass(frozen=True, kw_only=True)
class Blob:
    """A finished, synced file under a temporary name, and the record of it once published."""

    record: BlobRecord
    temporary: Path


def publish(paths: ViewSetPaths, blobs: Sequence[Blob], commit: Commit) -> PublishResult:
    """Name the blobs, make the names durable, then put the commit record if absent.

    Returns:
        "lost_race" if another attempt committed the shard first; its blobs stay for gc, because
        a winner that built equal bytes shares their names.
    """
    with disk.file_lock(paths.gc_lock, shared=True):
        for blob in blobs:
            _name_blob(paths.root / blob.record.name, blob)
        disk.fsync_directory(paths.root)
        if disk.put_if_absent(paths.commit(commit.entry.shard), commit.pack(), scratch=paths.tmp):
            return "committed"
    winner = read_commit(paths, commit.entry.shard)
    return "committed" if winner and winner.attempt == commit.attempt else "lost_race"


def _name_blob(target: Path, blob: Blob) -> None:
    """Give a blob its content name; a file of that name stays if its bytes are right."""
    if (
        target.is_file()
        and target.stat().st_size == blob.record.bytes
        and disk.sha256_of(target) == blob.record.sha256
    ):
        disk.touch(target)  # an old file that nothing names yet, should the commit not succeed
        disk.unlink(blob.temporary)
    else:
        disk.rename(blob.temporary, target)
