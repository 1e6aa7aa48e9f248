"""A whole build: planned, its shards made, its manifest written.

The command line and tests call `build` with a BuildRequest; `repair` calls `build_shards` alone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import partial

from viewstore.build.compose import builder_factory
from viewstore.build.finalise import finalise
from viewstore.build.placed import placed
from viewstore.build.planning import planned
from viewstore.build.request import BuildRequest, Built, wanted_shards
from viewstore.build.roles import networks
from viewstore.cores import usable_cores
from viewstore.costs.disk_space import check_free_bytes, shard_bytes
from viewstore.costs.estimate import size
from viewstore.errors import (
    RemoteError,
    StoppedError,
    UnavailableError,
    ViewStoreError,
    counted,
)
from viewstore.files import disk
from viewstore.files.upstream import FOLDER, Upstream
from viewstore.format.paths import StorePaths, ViewSetPaths
from viewstore.format.plan import Plan
from viewstore.progress import Progress, Silent, tracked
from viewstore.shards.commit import check_plan_stays
from viewstore.shards.engine import Job, Policy, Queue, raise_failure
from viewstore.shards.signals import StopRequest, stop_signals_to, stopped_on_request
from viewstore.shards.unit import Outcome, units
from viewstore.sources.again import moved_source
from viewstore.sources.table import SourceTable
from viewstore.store.committed import committed_shards, read_commits, usable_commits

READ_AGAIN = (
    "each slice that is given --source or --limit may read the whole source again: plan once with "
    "viewstore build --plan, and leave both out of the slices"
)


def build(
    request: BuildRequest, progress: Progress | None = None, *, table: SourceTable | None = None
) -> Built:
    """Build a view set, or go on with it; a complete build ends with a manifest.

    Args:
        request: What to build.
        progress: Is told how far it is.
        table: The rows, if they were read already; None reads or compares them.

    Raises:
        ConfigError: The settings contradict each other, the source or the store.
        StoppedError: The disk is full, also for a build that goes on with a plan; or a signal asked
            for a stop. Commits are kept.
        UnavailableError: The disk is too full to begin a first time, or cannot be written.
        ViewStoreError: A shard failed; the others were built.
    """
    progress = progress or Silent()
    if request.slice_of is not None and (request.source is not None or request.limit is not None):
        progress.warn(READ_AGAIN)
    with placed(request) as request, disk.explained(request.root):
        paths = StorePaths(request.root)
        first = None if request.slice_of is not None else partial(_build_first, progress)
        goes_on = paths.view_set(request.name).plan.is_file()
        found = planned(request, progress, first, table=table)
        plan = found.plan
        started = time.monotonic()
        outcomes = build_shards(request, paths, plan, progress, goes_on=goes_on)
        request.upstream.pull()
        there, _ = usable_commits(paths.view_set(plan.view_set), plan, range(plan.shards))
        left = plan.shards - len(there)
        return Built(
            plan=plan,
            outcomes=tuple(outcomes),
            manifest=None
            if left or request.slice_of is not None
            else finalise(request.root, upstream=request.upstream),
            seconds=time.monotonic() - started,
            left=left,
            skipped=found.skipped,
            before=found.before,
        )


def _build_first(progress: Progress, request: BuildRequest, table: SourceTable) -> Built:
    return build(request, progress, table=table)


def build_shards(
    request: BuildRequest,
    paths: StorePaths,
    plan: Plan,
    progress: Progress,
    *,
    goes_on: bool = False,
) -> list[Outcome]:
    """Render and commit the missing shards that the request names; return their outcomes.

    `goes_on` says that the plan was there before: a disk without room is a stop then.

    Raises:
        ConfigError: The plan was removed or replaced meanwhile.
        FormatError: A shard that is there is damaged, or of another plan.
        StoppedError: A signal asked for a stop, or the disk is too full to go on.
        UnavailableError: The disk is too full to begin.
        ViewStoreError: A shard failed.
    """
    view_set = paths.view_set(plan.view_set)
    committed = set(committed_shards(view_set))
    wanted = wanted_shards(request, plan)
    # What is skipped must be what this build would make.
    there = read_commits(view_set, plan, [shard for shard in wanted if shard in committed])
    if committed:  # whoever committed them may have been killed before it synced their names
        disk.fsync_directory(view_set.commits)
    missing = [
        shard
        for shard in wanted
        if shard not in there or request.upstream.lacks(view_set.root, there[shard].entry.files)
    ]
    if not missing:
        return []
    job = Job(
        make=builder_factory(
            request.root,
            plan.view_set,
            request.files,
            on_error=request.on_error,
            source=None if request.source is not None else moved_source(),
            upstream=request.upstream,
        ),
        queue=Queue(Policy(), units(plan, missing)),
        stop=StopRequest(request.grace_seconds),
        progress=progress,
        workers=request.workers,
        device=request.device,
        networks=bool(networks([each.role for each in plan.weights])),
        check_room=partial(
            _check_room, request, plan, StoppedError if goes_on else UnavailableError
        ),
    )
    samples = sum(len(plan.shard_range(shard)) for shard in missing)
    # Samples of a pool end together: until each worker's has turned over, no rate is one.
    pool = plan.generator["args"].get("slots", 0)
    settle = pool * min(request.workers or usable_cores(), len(missing))
    with (
        _plan_stays(view_set, plan, request.upstream),
        tracked(progress, plan.view_set, samples, "samples", settle=settle),
        stop_signals_to(job.stop.request),
    ):
        outcomes = _run(job, request)
        raise_failure(outcomes)
    # A slice that is done all the same need not come back; what follows another build would.
    if job.stop.requested and (job.queue.todo or request.slice_of is None):
        raise stopped_on_request()
    return outcomes


def _check_room(
    request: BuildRequest,
    plan: Plan,
    error: type[ViewStoreError],
    workers: int,
    elsewhere: bool,
) -> None:
    """Raise `error` unless a shard of each worker fits on its disk, and one more.

    Those of a folder all lie on its disk. Of a store in a bucket a worker keeps the shard that it
    writes in its working copy: on this disk, unless it runs on another host.
    """
    in_bucket = request.upstream is not FOLDER
    if in_bucket and elsewhere:
        return
    most = shard_bytes(plan)
    kept = "is sent to the bucket" if in_bucket else "is kept"
    ways = [disk.FREE_SPACE]
    if workers > 1:
        ways.append("give fewer --workers")
    check_free_bytes(
        request.root,
        (workers + 1) * most,
        needed_by=f"a build by {counted(workers, 'worker')} needs",
        why=f"each worker writes a shard of up to {size(most)} before it {kept}",
        fix=f"{' or '.join(ways)}, and run the same command again",
        error=error,
    )


@contextlib.contextmanager
def _plan_stays(paths: ViewSetPaths, plan: Plan, upstream: Upstream) -> Iterator[None]:
    """Raise ConfigError if the plan is removed or replaced in the block, whatever it ends with."""
    try:
        yield
    except (OSError, ViewStoreError):
        with contextlib.suppress(RemoteError):  # a bucket that does not answer is said already
            check_plan_stays(paths, plan.id, upstream)
        raise
    check_plan_stays(paths, plan.id, upstream)


def _run(job: Job, request: BuildRequest) -> list[Outcome]:
    """Run a job; an outcome after which the others would be in vain stops it."""
    outcomes = []
    said: set[str] = set()
    with contextlib.closing(request.executor(job)) as finished:
        for outcome in finished:
            outcomes.append(outcome)
            for warning in outcome.warnings:
                if warning not in said:
                    said.add(warning)
                    job.progress.warn(warning)
            failed = outcome.status == "failed" and request.on_error == "fail"
            if failed or outcome.status == "stopped":
                job.stop.request_now()
    return outcomes
