"""A whole build: rows fixed, settings resolved, plan adopted, shards made, manifest written."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from viewstore.build import compose
from viewstore.build.adopt import adopt_plan, adopt_sources
from viewstore.build.compose import OnError, WeightFiles
from viewstore.build.finalise import finalise
from viewstore.costs.disk_space import check_room, check_size
from viewstore.errors import ConfigError, UnavailableError
from viewstore.files import disk
from viewstore.format.manifest import Manifest
from viewstore.format.paths import StorePaths
from viewstore.format.plan import Plan, choose_shard_rows
from viewstore.images.codec import Codec, codec_from_plan, make_codec
from viewstore.shards.engine import Policy, Progressed, Queue, StopRequest, check_outcomes, executor
from viewstore.shards.signals import heard_by
from viewstore.shards.unit import Outcome, units
from viewstore.sources.open import open_source
from viewstore.sources.record import read_sources
from viewstore.sources.table import SourceTable
from viewstore.store.committed import committed_shards, read_plan

if TYPE_CHECKING:
    from viewstore.generators.contract import Settings


DEFAULT_SOURCE = "digits"


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What a user asks `build` for.

    Attributes:
        generator: Name in the table of generators.
        settings: Settings of the generator that the user gave; the others are automatic.
        out: The store.
        source: Source images; None means those of the store, or the digits for a new one.
        view_set: Name of the view set; None means the generator's.
        limit: Take the first rows of the source only.
        codec: "raw", "jpg", "png" or "webp"; None means raw up to 64 px, else jpg.
        shard_rows: Rows per shard of a new store; None chooses.
        slice_of: (i, n): build the shards with number % n == i, and do not finalise.
        only: Build these shards only.
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
    files: WeightFiles = field(default_factory=WeightFiles)
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
    """What a build came to."""

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
    def failures(self) -> int:
        return sum(outcome.failures for outcome in self.outcomes)


class Listener(Protocol):
    """Told how a build goes."""

    def warn(self, message: str) -> None:
        """Take a warning."""

    def note(self, message: str) -> None:
        """Take a line about what is going on."""

    def begin(self, plan: Plan, total: int) -> Progressed:
        """Take the plan and the samples to render; return what counts rendered samples."""

    def end(self) -> None:
        """The rendering begun last has ended."""


class Silent:
    """A listener that says nothing."""

    def warn(self, message: str) -> None:
        """Say nothing."""

    def note(self, message: str) -> None:
        """Say nothing."""

    def begin(self, plan: Plan, total: int) -> Progressed:
        """Count nothing."""
        return lambda count: None

    def end(self) -> None:
        """Say nothing."""


def build(request: BuildRequest, listener: Listener | None = None) -> Built:
    """Build a view set, or go on with it; a complete build ends with a manifest.

    Raises:
        ConfigError: The settings contradict each other, the source or the store.
        StoppedError: The disk is full, or a signal asked for a stop; commits are kept.
        UnavailableError: The disk is too full to begin, or cannot be written.
        ViewStoreError: A shard failed; the others were built.
    """
    with disk.explained(request.out):
        return _build(request, listener or Silent())


def _build(request: BuildRequest, listener: Listener) -> Built:
    from viewstore.generators import make_settings

    paths = StorePaths(request.out)
    check_out(request.out)
    make_settings(request.generator, request.settings)  # refused before anything is read
    table, skipped = _rows(request, paths, listener)
    plan, parent = _plan(request, paths, table, listener)
    started = time.monotonic()
    outcomes = build_shards(request, paths, plan, listener)
    check_outcomes(outcomes)
    whole = len(committed_shards(paths.view_set(plan.view_set))) == plan.shards
    manifest = finalise(request.out) if whole and request.slice_of is None else None
    return Built(
        plan=plan,
        outcomes=tuple(outcomes),
        manifest=manifest,
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
    ours = {path.name for path in (*StorePaths(out).folders[1:], StorePaths(out).manifest)}
    if {path.name for path in out.iterdir()} - ours:  # a killed build may have begun with any
        raise ConfigError(
            f"{out} is not empty and not a store",
            where=str(out),
            why="a store never shares its folder",
            fix="name a new folder with --out",
        )
    if not os.access(out, os.W_OK):
        raise UnavailableError(f"{out} cannot be written", code="VS302", where=str(out))


def build_shards(
    request: BuildRequest, paths: StorePaths, plan: Plan, listener: Listener
) -> list[Outcome]:
    """Render and commit the missing shards that the request names."""
    view_set = paths.view_set(plan.view_set)
    there = set(committed_shards(view_set))
    if there:  # whoever committed them may have been killed before it synced their names
        disk.fsync_directory(view_set.commits)
    wanted = [shard for shard in wanted_shards(request, plan) if shard not in there]
    if not wanted:
        return []
    check_room(request.out, plan)
    todo = units(plan, wanted)
    workers = min(request.workers or len(os.sched_getaffinity(0)), len(todo))
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    make = compose.builder_factory(
        request.out,
        plan.view_set,
        request.files,
        device=request.device,
        on_error=request.on_error,
        threads=1 if plan.weights else threads,
    )
    stop = StopRequest(request.grace_seconds)
    outcomes: list[Outcome] = []

    def report(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if outcome.status == "stopped" or (
            outcome.status == "failed" and request.on_error == "fail"
        ):
            stop.request_now()

    progressed = listener.begin(plan, sum(unit.num_samples for unit in todo))
    try:
        with heard_by(stop.request):
            policy = Policy(grace_seconds=request.grace_seconds)
            executor(make, stop, workers).run(Queue(policy, todo), report, progressed)
    finally:
        listener.end()
    stop.check(outcomes)
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
    request: BuildRequest, paths: StorePaths, listener: Listener
) -> tuple[SourceTable, tuple[tuple[str, str], ...]]:
    """Open the source, or read the rows that the store has fixed."""
    if paths.sources_record.is_file() and request.source is None and request.limit is None:
        return read_sources(paths)[0], ()
    spec = request.source or _source_before(paths)
    listener.note(f"reading the source {spec}")
    source = open_source(spec, limit=request.limit, on_error=request.on_error)
    if source.skipped:
        keys = ", ".join(key for key, _ in source.skipped[:3])
        listener.warn(f"{len(source.skipped)} images cannot be read and are left out: {keys} ...")
    return source.table, tuple(source.skipped)


def _source_before(paths: StorePaths) -> str:
    """Return the source of a store, as it would be given; the digits for a new one."""
    if not paths.sources_record.is_file():
        return DEFAULT_SOURCE
    uris = [part.uri for part in read_sources(paths)[0].parts]
    return uris[0] if len(uris) == 1 else "{" + ",".join(uris) + "}"


def _plan(
    request: BuildRequest, paths: StorePaths, table: SourceTable, listener: Listener
) -> tuple[Plan, Built | None]:
    """Adopt the plan of the request, its parent view set built before."""
    from viewstore.generators import make_settings

    view_set_paths = paths.view_set(request.name)
    stored = read_plan(view_set_paths) if view_set_paths.plan.is_file() else None
    resumed = stored is not None and stored.generator["name"] == request.generator
    before: Mapping[str, Any] = stored.generator["args"] if stored and resumed else {}
    settings = make_settings(request.generator, {**before, **request.settings})
    parent_built = None
    if settings.PARENT is not None and compose.parent_view_set(paths, settings.PARENT) is None:
        wanted = settings.parent_settings()
        parent_built = _build_parent(request, settings.PARENT, wanted, listener)
    models, weights = compose.load_models(settings.NEEDS, request.files, listener.note)
    parent = None if settings.PARENT is None else compose.parent_view_set(paths, settings.PARENT)
    context = compose.make_context(
        table=table,
        seed=_seed(request, stored),
        codec=_codec(request, stored, settings, table),
        models=models,
        parent=parent,
        device=request.device,
        warn=listener.warn,
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
    adopt_plan(view_set_paths, plan)
    return plan, parent_built


def _build_parent(
    request: BuildRequest, name: str, settings: Mapping[str, Any], listener: Listener
) -> Built:
    """Build the view set `name` that a generator starts from; only `settings` are not automatic."""
    if request.slice_of is not None:
        raise ConfigError(
            f"view set {name!r} must be complete before slices of {request.name} are built",
            fix=f"viewstore build --generator {name} --out {request.out}",
        )
    listener.note(f"{request.generator} starts from the view set {name!r}: building it first")
    parent = replace(
        request,
        generator=name,
        view_set=None,
        settings=settings,
        codec=None,
        only=None,
    )
    return build(parent, listener)


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
        raise ConfigError(
            f"there is no view set {view_set!r} at {root}", code="VS102", where=str(root)
        )
    return read_plan(paths), committed_shards(paths)
