"""How far the build of each view set is: from plans, commit records, and the status of each view.

It needs no store that opens: it reads what builders on any machine published, from any machine
that sees the folder or the bucket. `viewstore status` and the page Overview show these numbers.
"""

from __future__ import annotations

import contextlib
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

from viewstore.errors import FormatError, RemoteError, counted, ranges
from viewstore.files.blob_cache import is_missing
from viewstore.files.local import Files
from viewstore.files.upstream import FOLDER, Upstream
from viewstore.format.chunks import unpack_chunk
from viewstore.format.columns import Status
from viewstore.format.manifest import Commit, check_shard
from viewstore.format.paths import StorePaths, ViewSetPaths
from viewstore.format.plan import Plan
from viewstore.store.committed import (
    committed_shards,
    no_view_set,
    read_plan,
    usable_commits,
    view_sets,
)
from viewstore.store.shard import Shard
from viewstore.store.stored_columns import read_chunk

LAST = 20  # commits over which the rate is taken
SLOW = 3  # times the median: a slow shard, a silent host
LEAST_SILENCE = timedelta(minutes=1)  # clocks of hosts agree to about that
LEAST_WAIT = 20  # seconds without a commit in which no builder is missed
NUMBERED = ("missing", "unusable", "slow", "unreadable")  # what names shards
AT_ONCE = 16  # columns read; a bucket takes some 30 ms for each
FAILED: Mapping[int, str] = {Status.FAILED: "failed", Status.UNREADABLE: "source unreadable"}


@dataclass(frozen=True, kw_only=True)
class Host:
    """What one machine has done of a view set.

    Attributes:
        name: As it calls itself.
        units: Shards that it committed.
        median_seconds: Of work on one of them.
        last_commit: When it committed last by its own clock, to the minute: ISO 8601, in UTC.
        silent_seconds: How long ago that is, where shards are missing and it is longer than
            SLOW x the median; else None.
    """

    name: str
    units: int
    median_seconds: float
    last_commit: str | None
    silent_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class SetProgress:
    """How far the build of a view set is.

    Attributes:
        view_set: Its name.
        shards: Shards in all.
        missing: Those that are not committed, ascending.
        unusable: Numbers of commit records that are damaged, or of another plan: their shards are
            missing.
        slow: Committed ones that took more than SLOW x the median.
        views: Views in all; of a columns set, those that it describes.
        views_done: Views of committed shards.
        views_per_second: Over the last 20 commits; None while that is not known.
        seconds_left: At that rate; 0 where nothing is missing, None while it is not known, and
            where no commit came for so long that nobody seems to build.
        last_commit_seconds: Whole seconds since the last commit was written, by the times of the
            files; None before the first.
        silent: Whether shards are missing, and that is over 20 s and over SLOW x the median of all
            commits.
        worker_hours: Work on all committed shards, summed over workers.
        samples: Samples of committed shards.
        off_goal: Samples of which a view missed its goal and none failed.
        failed: Samples by what became of their worst view: "failed", "source unreadable".
        unreadable: Shards of which the status cannot be read: those two leave them out.
        hosts: Machines, by name.
    """

    view_set: str
    shards: int
    missing: tuple[int, ...]
    unusable: tuple[int, ...]
    slow: tuple[int, ...]
    views: int
    views_done: int
    views_per_second: float | None
    seconds_left: float | None
    last_commit_seconds: int | None
    silent: bool
    worker_hours: float
    samples: int
    off_goal: int
    failed: Mapping[str, int]
    unreadable: tuple[int, ...]
    hosts: tuple[Host, ...]

    @property
    def committed(self) -> int:
        """Shards that are there."""
        return self.shards - len(self.missing)

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        found = {name: value for name, value in vars(self).items() if name != "view_set"}
        found |= {name: list(found[name]) for name in NUMBERED}
        hosts = [dict(vars(host)) for host in self.hosts]
        return {**found, "committed": self.committed, "failed": dict(self.failed), "hosts": hosts}

    def lines(self) -> list[str]:
        """Return it as text: shards and rate, what failed, hosts, and what is wrong with them."""
        rate = "" if self.views_per_second is None else f", {self.views_per_second:.3g} views/s"
        left = f", {duration(self.seconds_left)} left" if self.seconds_left else ""
        lines = [
            f"{self.view_set}: {self.committed} of {counted(self.shards, 'shard')}"
            f"{rate if self.missing else ''}{left}, {self.worker_hours:.2f} worker-hours"
        ]
        if self.missing and self.last_commit_seconds is not None:
            ago = duration(self.last_commit_seconds)
            lines.append(f"  {no_commit_for(ago)}" if self.silent else f"  last commit {ago} ago")
        if self.unusable:
            records = counted(len(self.unusable), "commit record")
            lines.append(
                f"  {records} cannot be used, damaged or of another plan: {ranges(self.unusable)}"
            )
        wrong = {**self.failed, "off goal": self.off_goal}
        said = [f"{count} {what}" for what, count in wrong.items() if count]
        if said:
            lines.append(f"  of {counted(self.samples, 'sample')} {', '.join(said)}")
        if self.slow:
            slow = counted(len(self.slow), "shard")
            lines.append(f"  {slow} took over {SLOW} x the median: {ranges(self.slow)}")
        if self.unreadable:
            what = counted(len(self.unreadable), "shard")
            lines.append(f"  the status of {what} cannot be read: {ranges(self.unreadable)}")
        for host in self.hosts:
            lines.append(
                f"  {host.name}: {counted(host.units, 'shard')}, median "
                f"{host.median_seconds:.3g} s, last commit {minute(host.last_commit)}"
            )
            if host.silent_seconds is not None:
                lines.append(
                    f"  no commit of {host.name} for {duration(host.silent_seconds)}, which is "
                    f"more than {SLOW} x its median"
                )
        return lines


def set_progress(
    root: StorePaths, name: str, upstream: Upstream = FOLDER, *, now: datetime | None = None
) -> SetProgress:
    """Return how far view set `name` is at `now`, by default at this moment.

    Of a bucket, whose records are below `root`, no more is fetched than the column `status`.

    Raises:
        ConfigError: There is no such view set; the nearest is named.
        FormatError: A plan is damaged.
        RemoteError: The bucket did not answer.
    """
    paths = root.view_set(name)
    if not paths.plan.exists():
        raise no_view_set(name, view_sets(root), root.root)
    plan = read_plan(paths)
    found, unusable = usable_commits(paths, plan)
    commits = {shard: found[shard] for shard in range(plan.shards) if shard in found}
    missing = tuple(sorted(set(range(plan.shards)) - set(commits)))
    rate = _rate(plan, list(commits.values()))
    rows_left = sum(len(plan.shard_range(shard)) for shard in missing)
    done = plan.rows - rows_left
    median = statistics.median([each.seconds for each in commits.values()] or [0])
    now = now or datetime.now(UTC)
    waited = _since_last_commit(paths, now)
    silent = bool(missing) and waited is not None and waited > max(LEAST_WAIT, SLOW * median)
    left = None if silent or rate is None else rows_left * plan.views / rate
    published, files = upstream.reading(root)
    worst, unreadable = _worst(files, published.view_set(name).root, plan, commits)
    return SetProgress(
        view_set=name,
        shards=plan.shards,
        missing=missing,
        unusable=tuple(unusable),
        slow=tuple(shard for shard, each in commits.items() if each.seconds > SLOW * median),
        views=plan.rows * plan.views,
        views_done=done * plan.views,
        views_per_second=rate,
        seconds_left=left if missing else 0.0,
        last_commit_seconds=waited,
        silent=silent,
        worker_hours=sum(each.seconds for each in commits.values()) / 3600,
        samples=done,
        off_goal=worst[Status.GOAL_NOT_MET],
        failed={words: worst[status] for status, words in FAILED.items()},
        unreadable=unreadable,
        hosts=_hosts(commits.values(), now, working=bool(missing)),
    )


def store_progress(
    root: StorePaths,
    name: str | None = None,
    upstream: Upstream = FOLDER,
    *,
    now: datetime | None = None,
) -> dict[str, SetProgress]:
    """Return how far view set `name` is, or each one that has a plan. Raises as `set_progress`."""
    names = view_sets(root) if name is None else [name]
    return {each: set_progress(root, each, upstream, now=now) for each in names}


def minute(when: str | None) -> str:
    """Return a time of a host's clock for people: "2026-11-29 17:38 UTC"."""
    return "not known" if when is None else when.replace("T", " ").replace("+00:00", " UTC")


def no_commit_for(time: str) -> str:
    """Return what is said of a build that has shards left and shows no sign of life."""
    return f"no commit for {time}: is a builder running?"


def duration(seconds: float) -> str:
    """Return a time in words: "40 s", "12 min", "3 h 20 min", "2 d 5 h"."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    if hours < 36:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{hours // 24} d {hours % 24} h"


def _since_last_commit(paths: ViewSetPaths, now: datetime) -> int | None:
    """Return for how many whole seconds no commit record was written; None: there is none."""
    times = []
    for shard in committed_shards(paths):
        with contextlib.suppress(FileNotFoundError):  # a repair has just withdrawn it
            times.append(paths.commit(shard).stat().st_mtime)
    return max(0, int(now.timestamp() - max(times))) if times else None


def _rate(plan: Plan, commits: Sequence[Commit]) -> float | None:
    """Return the views per second between the first and the last of the newest commits."""
    timed = [(created(each), len(plan.shard_range(each.entry.shard))) for each in commits]
    last = sorted((when, rows) for when, rows in timed if when is not None)[-LAST:]
    seconds = (last[-1][0] - last[0][0]).total_seconds() if last else 0
    if not seconds:  # the first one only says when the time began
        return None
    return sum(rows for _, rows in last[1:]) * plan.views / seconds


def _hosts(commits: Iterable[Commit], now: datetime, *, working: bool) -> tuple[Host, ...]:
    found = []
    ordered = sorted(commits, key=lambda each: each.host)
    for name, group in groupby(ordered, lambda each: each.host):
        mine = list(group)
        median = statistics.median(each.seconds for each in mine)
        last = max(filter(None, map(created, mine)), default=None)
        since = timedelta() if last is None else now - last
        silent = working and since > max(timedelta(seconds=SLOW * median), LEAST_SILENCE)
        found.append(
            Host(
                name=name,
                units=len(mine),
                median_seconds=median,
                last_commit=None if last is None else last.isoformat(timespec="minutes"),
                silent_seconds=since.total_seconds() // 60 * 60 if silent else None,
            )
        )
    return tuple(found)


def created(commit: Commit) -> datetime | None:
    """Return when a shard was committed; None: the record does not say it in ISO 8601."""
    try:
        found = datetime.fromisoformat(commit.created)
        return found.replace(tzinfo=found.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):  # the latter in the first and the last hours of all years
        return None


def _worst(
    files: Files, root: Path, plan: Plan, commits: Mapping[int, Commit]
) -> tuple[Counter[int], tuple[int, ...]]:
    """Return how many samples have which worst status, and the shards that do not say it.

    `root` is that of the view set, as `files` names it.
    """

    def worst(commit: Commit) -> list[int] | None:
        try:
            return _statuses(files, root, plan, commit)
        except (FormatError, OSError):
            return None
        except RemoteError as error:
            if is_missing(error):
                return None
            raise

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="viewstore-status") as threads:
        found = dict(zip(commits, threads.map(worst, commits.values()), strict=True))
    counts = Counter(status for each in found.values() for status in each or ())
    return counts, tuple(shard for shard, each in found.items() if each is None)


def _statuses(files: Files, root: Path, plan: Plan, commit: Commit) -> list[int]:
    """Return the worst status of each sample of a shard, out of the pack that carries it.

    Raises:
        FormatError: It is damaged, or not there.
        RemoteError: The bucket did not give it.
    """
    entry, column = commit.entry, plan.column("status")
    check_shard(entry, plan)
    shard = Shard(entry, plan.shard_range(entry.shard), root, files)
    raw = read_chunk(files, root, shard, column, alone=True)
    values = unpack_chunk(column, raw, plan.shard_rows)[: entry.rows]
    worst: list[int] = values.reshape(len(values), -1).max(axis=1).tolist()
    return worst
