"""Publishing shards: blobs under their content names, then the one record that makes them exist.

The order of the steps is docs/format.md section 4; nothing is ever renamed over a record, so
builders that race, or wake up late, do no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from viewstore.errors import ConfigError, quoted
from viewstore.files import disk
from viewstore.files.upstream import FOLDER, Upstream
from viewstore.format.manifest import BlobRecord, Commit
from viewstore.format.paths import ViewSetPaths
from viewstore.format.records import SMALL_BYTES, sealed_digest
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

    Raises:
        ConfigError: The plan of the commit is no longer that of the view set.
    """
    with disk.file_lock(paths.gc_lock, shared=True):  # which `viewstore rm` takes alone
        for blob in blobs:
            upstream.name_blob(blob.temporary, paths.root / blob.record.name, blob.record)
        disk.fsync_directory(paths.root)
        check_plan_stays(paths, commit.plan_id, upstream)
        record = paths.commit(commit.entry.shard)
        if upstream.put_if_absent(record, commit.pack(), scratch=paths.tmp):
            for blob in blobs:
                upstream.keep_blob(blob.temporary, paths.root / blob.record.name, blob.record)
            return "committed"
    winner = read_commit(paths, commit.entry.shard)
    return "committed" if winner and winner.attempt == commit.attempt else "lost_race"


def check_plan_stays(paths: ViewSetPaths, plan_id: str, upstream: Upstream = FOLDER) -> None:
    """Raise ConfigError unless this is the plan of a view set, as it is published now."""
    raw = upstream.current(paths.plan, SMALL_BYTES)
    if raw is None or sealed_digest(raw) != plan_id:
        name, store = paths.root.name, paths.root.parents[1]
        raise ConfigError(
            f"the plan of view set {name!r} was removed or replaced while this was built",
            code="VS103",
            where=str(paths.plan),
            why="nothing more was committed: its shards would not be those of the plan",
            fix=f"viewstore inspect {quoted(store)} shows the view sets; build the one you want "
            "again",
        )
