"""A whole build: rows fixed, settings resolved, plan adopted, shards made, manifest written.

The command line and tests call `build` with a BuildRequest; `repair` calls `build_shards` alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viewstore.build import compose
from viewstore.build.adopt import adopt_plan, adopt_sources
from viewstore.build.compose import OnError
from viewstore.build.finalise import finalise
from viewstore.build.roles import WeightFiles, load_models, packaged_roles
from viewstore.costs.disk_space import check_free_bytes, check_size, shard_bytes
from viewstore.costs.estimate import choose_shard_rows
from viewstore.errors import ConfigError, UnavailableError
from viewstore.files import disk
from viewstore.format.manifest import Manifest
from viewstore.format.paths import StorePaths
from viewstore.format.plan import Plan
from viewstore.images.codec import Codec, codec_from_plan, make_codec
from viewstore.progress import Progress, Silent, tracked
from viewstore.shards.engine import Executor, Job, Policy, Queue, raise_failure
from viewstore.shards.local import run_local
from viewstore.shards.signals import StopRequest, stop_signals_to, stopped_on_request
from viewstore.shards.unit import Outcome, units
from viewstore.sources.open import open_source
from viewstore.sources.record import read_sources
from viewstore.sources.table import SourceTable
from viewstore.store.committed import committed_shards, no_view_set, read_plan, view_sets

if TYPE_CHECKING:
    from viewstore.generators.contract import Settings


DEFAULT_SOURCE = "digits"


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What a user wants built.

    Attributes:
        generator: Name in the table of generators.
        out: Folder of the store.
        settings: Settings of the generator that the user gave; the others are automatic.
        source: Source images; None means those of the store, or the digits for a new one.
        view_set: Name of the view set; None means the generator's.
        limit: Take the first rows of the source only.
        seed: Of every draw; None means that of the view set, 0 for a new one.
        codec: Name in the table of codecs; None means that of the view set; for a new one raw up
            to 64 px and for views of networks, else jpg.
        shard_rows: Rows per shard of a new store; None chooses.
        files: Files of networks by role; those of other roles are packaged.
        executor: Where the shards are built: a row of `shards.executors`.
        workers: That the executor uses; 0 lets it choose.
        device: Torch device of the networks.
        slice_of: (i, n): build the shards with number % n == i, and do not finalise.
        only: Build these shards only.
        on_error: "fail" stops at the first shard that fails and at an image that cannot be read;
            "skip" leaves such images out and builds the other shards.
        grace_seconds: How long running shards may go on after a stop signal.
    """

    generator: str
    out: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None
    view_set: str | None = None
    limit: int | None = None
    seed: int | None = None
    codec: str | None = None
    shard_rows: int | None = None
    files: WeightFiles = field(default_factory=dict)
    executor: Executor = run_local
    workers: int = 0
    device: str = "cpu"
    slice_of: tuple[int, int] | None = None
    only: tuple[int, ...] | None = None
    on_error: OnError = "fail"
    grace_seconds: float = 25.0

    @property
    def name(self) -> str:
        """Name of the view set."""
        return self.view_set or self.generator


@dataclass(frozen=True, kw_only=True)
class Built:
    """The result of a build.

    Attributes:
        outcomes: Of the shards that this run built.
        manifest: The newest one, or None if shards are still missing or this was a slice.
        skipped: Key and reason of each source image that was left out.
        parent: The build of the view set that the generator starts from, if that was missing.
    """

    plan: Plan
    outcomes: tuple[Outcome, ...]
    manifest: Manifest | None
    seconds: float
    skipped: tuple[tuple[str, str], ...] = ()
    parent: Built | None = None

    @property
    def samples(self) -> int:
        """Samples that this run rendered and committed."""
        committed = [o for o in self.outcomes if o.status == "committed"]
        return sum(len(self.plan.shard_range(outcome.shard)) for outcome in committed)

    @property
    def failed_rows(self) -> list[int]:
        """Rows of the samples that this run built and that have no views of their own."""
        return sorted(row for outcome in self.outcomes for row in outcome.failed_rows)

    @property
    def failures(self) -> int:
        return len(self.failed_rows)


def build(request: BuildRequest, progress: Progress | None = None) -> Built:
    """Build a view set, or go on with it; a complete build ends with a manifest.

    Raises:
        ConfigError: The settings contradict each other, the source or the store.
        StoppedError: The disk is full, or a signal asked for a stop; commits are kept.
        UnavailableError: The disk is too full to begin, or cannot be written.
        ViewStoreError: A shard failed; the others were built.
    """
    from viewstore.generators import make_settings

    progress = progress or Silent()
    paths = StorePaths(request.out)
    with disk.explained(request.out):
        check_out(request.out)
        make_settings(request.generator, request.settings)  # refused before anything is read
        table, skipped = _rows(request, paths, progress)
        plan, parent = _plan(request, paths, table, progress)
        started = time.monotonic()
        outcomes = build_shards(request, paths, plan, progress)
        whole = len(committed_shards(paths.view_set(plan.view_set))) == plan.shards
        return Built(
            plan=plan,
            outcomes=tuple(outcomes),
            manifest=finalise(request.out) if whole and request.slice_of is None else None,
            seconds=time.monotonic() - started,
            skipped=skipped,
            parent=parent,
        )


def check_out(out: Path) -> None:
    """Raise ConfigError if `out` is something else than a store or a new folder."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigError(
            f"--out must be a folder, {out} is a file", where=str(out), fix="name another --out"
        )
    known = {path.name for path in (*StorePaths(out).folders[1:], StorePaths(out).manifest)}
    if {path.name for path in out.iterdir()} - known:  # a killed build may have begun with any
        raise ConfigError(
            f"{out} is not empty and not a store",
            where=str(out),
            why="a store never shares its folder",
            fix="name a new folder with --out",
        )
    if not os.access(out, os.W_OK):
        raise UnavailableError(f"{out} cannot be written", code="VS302", where=str(out))


def build_shards(
    request: BuildRequest, paths: StorePaths, plan: Plan, progress: Progress
) -> list[Outcome]:
    """Render and commit the missing shards that the request names; return their outcomes.

    Raises:
        StoppedError: A signal asked for a stop.
        UnavailableError: The disk is too full to begin.
        ViewStoreError: A shard failed.
    """
    view_set = paths.view_set(plan.view_set)
    committed = set(committed_shards(view_set))
    if committed:  # whoever committed them may have been killed before it synced their names
        disk.fsync_directory(view_set.commits)
    missing = [shard for shard in wanted_shards(request, plan) if shard not in committed]
    if not missing:
        return []
    check_free_bytes(
        request.out,
        2 * shard_bytes(plan),
        needed_by="two shards need",
        why="every committed shard is kept",
        fix="free some space and run the same command again",
    )
    job = Job(
        make=compose.builder_factory(
            request.out,
            plan.view_set,
            request.files,
            device=request.device,
            on_error=request.on_error,
        ),
        queue=Queue(Policy(), units(plan, missing)),
        stop=StopRequest(request.grace_seconds),
        progress=progress,
        workers=request.workers,
    )
    samples = sum(len(plan.shard_range(shard)) for shard in missing)
    # Samples of a pool end together: until each worker's has turned over, no rate is one.
    pool = plan.generator["args"].get("slots", 0)
    settle = pool * min(request.workers or len(os.sched_getaffinity(0)), len(missing))
    with (
        tracked(progress, plan.view_set, samples, "samples", settle=settle),
        stop_signals_to(job.stop.request),
    ):
        outcomes = _run(job, request)
    raise_failure(outcomes)
    if job.stop.requested:
        raise stopped_on_request()
    return outcomes


def _run(job: Job, request: BuildRequest) -> list[Outcome]:
    """Run a job; an outcome after which the others would be in vain stops it."""
    outcomes = []
    with closing(request.executor(job)) as finished:
        for outcome in finished:
            outcomes.append(outcome)
            failed = outcome.status == "failed" and request.on_error == "fail"
            if failed or outcome.status == "stopped":
                job.stop.request_now()
    return outcomes


def wanted_shards(request: BuildRequest, plan: Plan) -> list[int]:
    """Return the shards that a request asks for."""
    shards = range(plan.shards)
    if request.only is not None:
        bad = [shard for shard in request.only if shard not in shards]
        if bad:
            raise ConfigError(f"--only must name shards below {plan.shards}, got {bad}")
        return sorted(set(request.only))
    if request.slice_of is None:
        return list(shards)
    index, count = request.slice_of
    return [shard for shard in shards if shard % count == index]


def _rows(
    request: BuildRequest, paths: StorePaths, progress: Progress
) -> tuple[SourceTable, tuple[tuple[str, str], ...]]:
    """Open the source, or read the rows that the store has fixed."""
    if paths.sources_record.is_file() and request.source is None and request.limit is None:
        return read_sources(paths)[0], ()
    spec = request.source or _default_source(paths)
    progress.note(f"reading the source {spec}")
    source = open_source(spec, limit=request.limit, on_error=request.on_error)
    if source.skipped:
        keys = ", ".join(key for key, _ in source.skipped[:3])
        progress.warn(f"{len(source.skipped)} images cannot be read and are left out: {keys} ...")
    for note in source.notes:
        progress.warn(f"{note} (in {spec})")
    return source.table, tuple(source.skipped)


def _whole_source(request: BuildRequest, paths: StorePaths) -> Callable[[], SourceTable] | None:
    """Return what opens the source without a limit; None if it was opened so just now."""
    if request.source is not None and request.limit is None:
        return None
    spec = request.source or _default_source(paths)
    return lambda: open_source(spec, on_error="skip").table


def _default_source(paths: StorePaths) -> str:
    """Return the source of a store as a user would give it; the digits for a new one."""
    if not paths.sources_record.is_file():
        return DEFAULT_SOURCE
    uris = [part.uri for part in read_sources(paths)[0].parts]
    return uris[0] if len(uris) == 1 else "{" + ",".join(uris) + "}"


def _plan(
    request: BuildRequest, paths: StorePaths, table: SourceTable, progress: Progress
) -> tuple[Plan, Built | None]:
    """Adopt the plan of the request; build the view set that it starts from, if that is missing."""
    view_set = paths.view_set(request.name)
    stored = read_plan(view_set) if view_set.plan.is_file() else None
    settings = _settings(request, stored)
    parent = built = None
    if settings.PARENT is not None:
        parent = compose.parent_view_set(paths, settings.PARENT)
        if parent is None:
            built = _build_parent(request, settings.PARENT, settings.parent_settings(), progress)
            parent = compose.parent_view_set(paths, settings.PARENT)
    models, weights = load_models(settings.NEEDS, request.files, progress)
    packaged = packaged_roles(settings.NEEDS, request.files)
    if "gan" in packaged and built is None and {part.uri for part in table.parts} != {"digits"}:
        progress.warn(
            "no --gan was given: the one for the digits that the package ships is taken; for other "
            "images give --gan (viewstore gan train --part generator makes one)"
        )
    context = compose.make_context(
        table=table,
        seed=_seed(request, stored),
        view_set=request.name,
        codec=_codec(request, stored, settings, table),
        models=models,
        parent=parent,
        device=request.device,
        packaged=packaged,
        whole_source=_whole_source(request, paths),
        progress=progress,
    )
    resolved = settings.resolve(context)
    row_bytes = resolved.views * resolved.height * resolved.width * 3

    def shard_rows_of(rows: int) -> int:
        return request.shard_rows or choose_shard_rows(rows, row_bytes)

    adopt_sources(paths, table, shard_rows_of)
    _, shard_rows, sources_id = read_sources(paths)
    plan = compose.make_plan(
        resolved,
        context,
        name=request.generator,
        view_set=request.name,
        table=table,
        sources_id=sources_id,
        shard_rows=shard_rows,
        weights=weights,
    )
    check_size(plan)
    adopt_plan(view_set, plan)
    return plan, built


def _settings(request: BuildRequest, stored: Plan | None) -> Settings:
    """Return the settings of the request, over those of the plan that it goes on with."""
    from viewstore.generators import make_settings

    resumed = stored is not None and stored.generator["name"] == request.generator
    before: Mapping[str, Any] = stored.generator["args"] if stored and resumed else {}
    return make_settings(request.generator, {**before, **request.settings})


def _build_parent(
    request: BuildRequest, name: str, settings: Mapping[str, Any], progress: Progress
) -> Built:
    """Build the view set `name` that a generator starts from; only `settings` are not automatic."""
    if request.slice_of is not None:
        raise ConfigError(
            f"view set {name!r} must be complete before slices of {request.name} are built",
            fix=f"viewstore build --generator {name} --out {request.out}",
        )
    progress.note(f"{request.generator} starts from the view set {name!r}: building it first")
    parent = replace(
        request,
        generator=name,
        view_set=None,
        settings=settings,
        codec=None,
        only=None,
    )
    return build(parent, progress)


def _seed(request: BuildRequest, stored: Plan | None) -> int:
    if request.seed is not None:
        return request.seed
    return 0 if stored is None else stored.seed


def _codec(
    request: BuildRequest, stored: Plan | None, settings: Settings, table: SourceTable
) -> Codec:
    if request.codec is not None:
        return make_codec(request.codec)
    if stored is not None:
        return codec_from_plan(stored.codec)
    side = settings.height or int(max(table.height.max(), table.width.max()))
    return make_codec("raw" if settings.NEEDS or side <= 64 else "jpg")


def status(root: Path, view_set: str) -> tuple[Plan, list[int]]:
    """Return the plan of a view set and its committed shards. Raises ConfigError: no such set."""
    paths = StorePaths(root).view_set(view_set)
    if not paths.plan.is_file():
        raise no_view_set(view_set, view_sets(StorePaths(root)), root)
    return read_plan(paths), committed_shards(paths)
