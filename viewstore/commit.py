"""Publishing shards: blobs under their content names, then the one record that makes them exist.

The order of the steps is docs/format.md section 4; nothing is ever renamed over a record, so
builders that race, or wake up late, do no harm.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from viewstore import disk
from viewstore.errors import ConfigError, FormatError
from viewstore.files import LOCAL, Files
from viewstore.layout import StorePaths, ViewSetPaths
from viewstore.manifest import BlobRecord, Commit
from viewstore.plan import Plan, differing_keys
from viewstore.records import COMMIT_BYTES, SMALL_BYTES

COMMIT_FILE = re.compile(r"(\d{6})\.json")

Won = Literal["committed", "lost_race"]


@dataclass(frozen=True, kw_only=True)
class Blob:
    """A finished, synced file that waits under a temporary name."""

    record: BlobRecord
    temporary: Path


def make_folders(folders: Sequence[Path]) -> None:
    """Create the folders of a store or view set, durably."""
    names = disk.Names()
    for folder in folders:
        names.make_directory(folder)
        names.keep(folder)
    names.sync()


def adopt_plan(paths: ViewSetPaths, plan: Plan) -> None:
    """Fix the plan of a view set, or check that it is the one already fixed.

    Raises:
        ConfigError: Another plan is fixed; it names the keys that differ.
    """
    make_folders(paths.folders)
    # Its name is synced with those of the first blobs: before them it promises nothing.
    if disk.put_if_absent(paths.plan, plan.pack(), scratch=paths.tmp, durable=False):
        return
    stored = read_plan(paths)
    if stored.id != plan.id:
        keys = ", ".join(differing_keys(stored, plan))
        raise ConfigError(
            f"view set {plan.view_set} was planned with other settings: {keys}",
            code="VS103",
            where=str(paths.plan),
            why="a view set keeps the plan it was begun with",
            fix="give the settings of the first run, or another --view-set name",
        )


def read_plan(paths: ViewSetPaths, files: Files = LOCAL) -> Plan:
    """Return the plan of a view set. Raises FormatError naming the file."""
    plan = files.record(paths.plan, SMALL_BYTES, Plan.unpack)
    if plan.view_set != paths.root.name:
        where = files.where(paths.plan)
        raise FormatError(f"plan is that of view set {plan.view_set!r}", where=where)
    return plan


def read_commit(paths: ViewSetPaths, shard: int) -> Commit | None:
    """Return the commit of a shard, or None if there is none.

    Raises:
        FormatError: There is a record, but it is damaged or another shard's.
    """
    path = paths.commit(shard)
    try:
        raw = disk.read_limited(path, COMMIT_BYTES)
    except FileNotFoundError:
        return None
    try:
        commit = Commit.unpack(raw)
        if commit.shard != shard or commit.view_set != paths.root.name:
            raise FormatError(f"commit is that of shard {commit.shard} of {commit.view_set}")
    except FormatError as error:
        raise FormatError(
            f"commit of shard {shard} is damaged: {error}",
            code=error.code,
            where=str(path),
            fix=f"viewstore verify {paths.root.parents[1]} --repair",
        ) from error
    return commit


def committed_shards(paths: ViewSetPaths) -> list[int]:
    """Return the numbers of the shards that have a commit record, ascending."""
    if not paths.commits.is_dir():
        return []
    matches = (COMMIT_FILE.fullmatch(path.name) for path in paths.commits.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def read_commits(paths: ViewSetPaths) -> Mapping[int, Commit]:
    """Return all commits of a view set by shard. Raises FormatError: one is damaged."""
    commits = {shard: read_commit(paths, shard) for shard in committed_shards(paths)}
    return {shard: commit for shard, commit in commits.items() if commit is not None}


def publish(paths: ViewSetPaths, blobs: Sequence[Blob], commit: Commit) -> Won:
    """Name the blobs, make the names durable, then put the commit record if absent.

    Returns:
        "lost_race" if another attempt committed the shard first; its blobs stay for gc, because
        a winner that built equal bytes shares their names.
    """
    for blob in blobs:
        _name_blob(paths.root / blob.record.name, blob)
    disk.fsync_directory(paths.root)
    if disk.put_if_absent(paths.commit(commit.shard), commit.pack(), scratch=paths.tmp):
        return "committed"
    winner = read_commit(paths, commit.shard)
    return "committed" if winner and winner.attempt == commit.attempt else "lost_race"


def _name_blob(target: Path, blob: Blob) -> None:
    """Give a blob its content name; a file that has it is kept if its bytes are right."""
    if (
        target.is_file()
        and target.stat().st_size == blob.record.bytes
        and disk.sha256_of(target) == blob.record.sha256
    ):
        disk.touch(target)  # it may be an old orphan that gc is about to drop
        disk.unlink(blob.temporary)
    else:
        disk.rename(blob.temporary, target)


def view_sets(paths: StorePaths) -> list[str]:
    """Return the names of the view sets that have a plan."""
    if not paths.views.is_dir():
        return []
    return sorted(path.name for path in paths.views.iterdir() if (path / "plan.json").is_file())
