"""A whole build: rows fixed, settings resolved, plan adopted, shards made, manifest written.

The command line and tests call `build` with a BuildRequest; `repair` calls `build_shards` alone.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from viewstore.build import compose
from viewstore.build.adopt import (
    adopt_plan,
    adopt_sources,
    check_plan,
    check_same_generator,
    fixed_sources,
)
from viewstore.build.finalise import finalise
from viewstore.build.forms import codec_of, side_of, wants_proof
from viewstore.build.inputs import wanted_inputs
from viewstore.build.listing import Imports, find_listing, keep_listing, weights_of_listing
from viewstore.build.request import BuildRequest, Built, wanted_shards
from viewstore.build.roles import (
    check_unneeded,
    files_needed,
    load_models,
    named,
    networks,
    packaged_roles,
)
from viewstore.build.rows import build_rows, shard_rows_of, whole_source
from viewstore.costs.disk_space import check_free_bytes, check_size, shard_bytes
from viewstore.errors import ConfigError, FormatError, UnavailableError, ViewStoreError
from viewstore.files import disk
from viewstore.format.listing import ROLE
from viewstore.format.paths import StorePaths
from viewstore.format.plan import Plan, check_no_round, check_view_set_name
from viewstore.images.params import ParamsAlone
from viewstore.progress import Progress, Silent, tracked
from viewstore.shards.engine import Job, Policy, Queue, raise_failure
from viewstore.shards.place import planning_device
from viewstore.shards.signals import StopRequest, stop_signals_to, stopped_on_request
from viewstore.shards.unit import Outcome, units
from viewstore.sources.again import moved_source
from viewstore.sources.table import SourceTable
from viewstore.store.committed import committed_shards, read_plan, view_sets

if TYPE_CHECKING:
    from viewstore.generators.contract import Settings


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
        StoppedError: The disk is full, or a signal asked for a stop; commits are kept.
        UnavailableError: The disk is too full to begin, or cannot be written.
        ViewStoreError: A shard failed; the others were built.
    """
    progress = progress or Silent()
    paths = StorePaths(request.out)
    skipped: tuple[tuple[str, str], ...] = ()
    with disk.explained(request.out):
        check_out(request.out)
        check_view_set_name(request.name)
        if request.after is None and not paths.view_set(request.name).plan.is_file():
            check_no_round(request.name, f"viewstore refresh {request.out}")
        _check_settings(request)  # refused before anything is read
        if table is None:
            table, skipped = build_rows(request, paths, progress)
        plan, before = _plan(request, paths, table, progress)
        started = time.monotonic()
        outcomes = build_shards(request, paths, plan, progress)
        left = plan.shards - len(committed_shards(paths.view_set(plan.view_set)))
        return Built(
            plan=plan,
            outcomes=tuple(outcomes),
            manifest=None if left or request.slice_of is not None else finalise(request.out),
            seconds=time.monotonic() - started,
            left=left,
            skipped=skipped,
            before=before,
        )


def _check_settings(request: BuildRequest) -> None:
    """Raise ConfigError if settings cannot be, or a network is given that this build is without."""
    from viewstore.generators import make_settings

    settings = make_settings(request.generator, request.settings)
    check_unneeded(request.generator, needed_roles(settings), request.files)
    if request.codec == ParamsAlone.name:
        compose.recipe_for(request.generator, settings)


def needed_roles(settings: Settings) -> set[str]:
    """Return the roles of networks of a generator, and of what is built first for it."""
    from viewstore.generators import make_settings

    needs = set(settings.NEEDS)
    for wanted in settings.inputs().values():
        if wanted.settings is not None:
            needs |= needed_roles(make_settings(wanted.view_set, wanted.settings))
    return needs


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
            on_error=request.on_error,
            source=None if request.source is not None else moved_source(),
        ),
        queue=Queue(Policy(), units(plan, missing)),
        stop=StopRequest(request.grace_seconds),
        progress=progress,
        workers=request.workers,
        device=request.device,
        networks=bool(networks([each.role for each in plan.weights])),
    )
    samples = sum(len(plan.shard_range(shard)) for shard in missing)
    # Samples of a pool end together: until each worker's has turned over, no rate is one.
    pool = plan.generator["args"].get("slots", 0)
    settle = pool * min(request.workers or len(os.sched_getaffinity(0)), len(missing))
    with (
        _taken_out_is_said(paths, plan),
        tracked(progress, plan.view_set, samples, "samples", settle=settle),
        stop_signals_to(job.stop.request),
    ):
        outcomes = _run(job, request)
        raise_failure(outcomes)
    if job.stop.requested:
        raise stopped_on_request()
    return outcomes


@contextlib.contextmanager
def _taken_out_is_said(paths: StorePaths, plan: Plan) -> Iterator[None]:
    """Raise ConfigError if somebody takes the view set out in the block, whatever it ends with."""
    view_set = paths.view_set(plan.view_set)
    found = None
    try:
        yield
    except (OSError, ViewStoreError) as error:
        if view_set.plan.is_file():
            raise
        found = error
    if not view_set.plan.is_file():
        raise ConfigError(
            f"view set {plan.view_set!r} was taken out or renamed while it was built",
            where=str(view_set.root),
            why="the shard at hand was dropped; what was committed before went with the view set",
            fix=f"viewstore inspect {paths.root} shows the view sets; build the one you want again",
        ) from found


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


def _plan(
    request: BuildRequest, paths: StorePaths, table: SourceTable, progress: Progress
) -> tuple[Plan, tuple[Built, ...]]:
    """Adopt the plan of the request; build the view sets that it is made from, if missing."""
    view_set = paths.view_set(request.name)
    stored = read_plan(view_set) if view_set.plan.is_file() else None
    if stored is not None:
        check_same_generator(view_set, stored, request.generator)
    before = stored or request.after
    settings = _settings(request, stored)
    built: list[Built] = []

    def build_first(name: str, own: Mapping[str, Any]) -> None:
        built.append(_build_first(request, name, own, table, progress))

    planned = {} if before is None else {k: each["view_set"] for k, each in before.links.items()}
    inputs = wanted_inputs(
        request.name, paths, settings, table, build_first, planned={**planned, **request.inputs}
    )
    models, weights = load_models(named(settings.NEEDS), request.files, progress)
    listing = None
    if ROLE in settings.NEEDS:
        imports = cast(Imports, settings)
        listing = models[ROLE] = find_listing(imports, view_set, stored, table, progress)
        weights.append(weights_of_listing(listing))
    packaged = packaged_roles(settings.NEEDS, request.files)
    if not built and {part.uri for part in table.parts} != {"digits"}:
        _warn_of_packaged(packaged, progress)
    codec = codec_of(request, before, settings, side_of(table, inputs.get("parent"), listing))
    if request.proof is not None and (codec.name, settings.KIND) != (ParamsAlone.name, "pixels"):
        raise ConfigError(
            f"proof goes with --codec params, the views are stored as {codec.name}"
            if settings.KIND == "pixels"
            else f"proof goes with --codec params, {request.generator} makes columns",
            code="VS101",
            fix="leave proof out, or give --codec params",
        )
    context = compose.make_context(
        table=table,
        seed=_seed(request, before),
        view_set=request.name if before is None else before.first_name,
        round=_round(request, stored),
        codec=codec,
        models=models,
        inputs=inputs,
        wants_pixels=codec.name != ParamsAlone.name or wants_proof(request, before),
        device=planning_device(request.device),
        packaged=packaged,
        whole_source=whole_source(request, paths),
        progress=progress,
    )
    resolved = settings.resolve(context)
    choose = shard_rows_of(
        request, paths, views=resolved.views, height=resolved.height, width=resolved.width
    )
    shard_rows, sources_id = fixed_sources(paths, table, choose)
    plan = compose.make_plan(
        settings,
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
    if request.view_set is None and stored is None:
        _check_not_renamed(paths, plan)
    wanted_shards(request, plan)  # refused before anything is written
    check_plan(view_set, plan)
    adopt_sources(paths, table, shard_rows)  # the first that is written
    if listing is not None:
        keep_listing(view_set, listing)
    return adopt_plan(view_set, plan), tuple(built)


PACKAGED_ADVICE = {  # where to have a network from, by the role that a user would name first
    "gan": "viewstore gan train --part generator makes one",
    "encoder": "viewstore train writes one",
}


def _warn_of_packaged(packaged: Collection[str], progress: Progress) -> None:
    """Say that a network for the digits is taken for other images."""
    for role, advice in PACKAGED_ADVICE.items():
        if role in packaged:
            progress.warn(
                f"no --{role} was given: the one for the digits that the package ships is taken; "
                f"for other images give --{role} ({advice})"
            )
            return


def _check_not_renamed(paths: StorePaths, plan: Plan) -> None:
    """Raise ConfigError if a view set that was renamed has the very views of a new plan."""
    for name in view_sets(paths):
        with contextlib.suppress(FormatError):  # a damaged plan is a fault of its own
            other = read_plan(paths.view_set(name))
            if other.made_as == plan.view_set and other.renamed(plan.view_set).id == plan.id:
                raise ConfigError(
                    f"the views of {plan.view_set} are there already: it was renamed to {name!r}",
                    code="VS103",
                    where=str(paths.view_set(name).root),
                    fix=f"--view-set {name} goes on with them, --view-set {plan.view_set} makes "
                    "them once more",
                )


def _settings(request: BuildRequest, stored: Plan | None) -> Settings:
    """Return the settings of the request, over those of the plan that it goes on with.

    Of the round before, only those that its networks did not decide.
    """
    from viewstore.generators import make_settings

    before: Mapping[str, Any] = {}
    if stored is not None and stored.generator["name"] == request.generator:
        before = stored.generator["args"]
    elif request.after is not None:
        before = make_settings(request.generator, request.after.generator["args"]).refreshed()
    return make_settings(request.generator, {**before, **request.settings})


def _build_first(
    request: BuildRequest,
    name: str,
    settings: Mapping[str, Any],
    table: SourceTable,
    progress: Progress,
) -> Built:
    """Build the view set `name` that a generator reads; only `settings` are not automatic."""
    if request.slice_of is not None:
        raise ConfigError(
            f"view set {name!r} must be complete before slices of {request.name} are built",
            fix=f"viewstore build --generator {name} --out {request.out}",
        )
    from viewstore.generators import make_settings

    progress.note(f"{request.generator} starts from the view set {name!r}: building it first")
    needs = needed_roles(make_settings(name, settings))
    first = replace(
        request,
        generator=name,
        view_set=name,
        settings=settings,
        codec=None,
        proof=None,
        files=files_needed(needs, request.files),
        after=None,
        inputs={},
        only=None,
    )
    return build(first, progress, table=table)


def _seed(request: BuildRequest, before: Plan | None) -> int:
    if request.seed is not None:
        return request.seed
    return 0 if before is None else before.seed


def _round(request: BuildRequest, stored: Plan | None) -> int:
    if stored is not None:
        return stored.round
    return 1 if request.after is None else request.after.round + 1
