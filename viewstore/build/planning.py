"""The plan of a view set: read where it is stored and says all, else resolved and fixed.

`plan` is what `viewstore build --plan` calls; `run` plans by the same function before it builds.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from viewstore.build import compose
from viewstore.build.adopt import (
    adopt_plan,
    adopt_sources,
    adopt_stored,
    check_plan,
    check_same_generator,
    fixed_sources,
)
from viewstore.build.first import (
    check_first,
    first_request,
    not_built_first,
    nothing_to_slice,
)
from viewstore.build.forms import codec_of, side_of, wants_proof
from viewstore.build.inputs import wanted_inputs
from viewstore.build.listing import Imports, find_listing, keep_listing, weights_of_listing
from viewstore.build.placed import placed
from viewstore.build.request import BuildRequest, Built, wanted_shards
from viewstore.build.roles import (
    check_unneeded,
    load_models,
    named,
    needed_roles,
    packaged_roles,
    weights_of,
)
from viewstore.build.rows import build_rows, shard_rows_of, whole_source
from viewstore.build.stored_plan import stored_plan
from viewstore.costs.disk_space import check_size
from viewstore.errors import ConfigError, FormatError, UnavailableError, quoted
from viewstore.files import disk
from viewstore.files.enclosing import check_place
from viewstore.format.listing import ROLE, Listing
from viewstore.format.paths import StorePaths
from viewstore.format.plan import Plan, Weights, check_no_round, check_view_set_name
from viewstore.images.codec import Codec
from viewstore.images.params import ParamsAlone
from viewstore.progress import Progress, Silent
from viewstore.shards.place import planning_device
from viewstore.sources.table import SourceTable
from viewstore.store.committed import is_store, read_plan, view_sets

if TYPE_CHECKING:
    from viewstore.generators.contract import Context, Settings

# Builds a view set that another starts from, of rows that were read already.
BuildFirst = Callable[[BuildRequest, SourceTable], Built]


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A plan that is fixed, and what came of fixing it.

    Attributes:
        skipped: Key and reason of each source image that was left out.
        before: The builds of the view sets that the generator reads and that were missing.
    """

    plan: Plan
    skipped: tuple[tuple[str, str], ...] = ()
    before: tuple[Built, ...] = ()


def plan(request: BuildRequest, progress: Progress | None = None) -> Plan:
    """Fix the rows of a store and the plan of a view set, and render nothing.

    The source is read once, and what is automatic is calibrated. Every later build of the view
    set, on any machine, reads the plan: without a source in its request it opens no image to
    begin, and loads networks in its workers alone.

    Args:
        request: What to build. Which shards, by whom and for how long says nothing here.
        progress: Is told how far it is.

    Raises:
        ConfigError: The settings contradict each other, the source or the store; or the generator
            starts from a view set that is not finished.
        FormatError: A source image cannot be read.
        UnavailableError: The folder cannot be written, or a package is missing.
    """
    with placed(request) as request, disk.explained(request.root):
        return planned(request, progress or Silent()).plan


def planned(
    request: BuildRequest,
    progress: Progress,
    build_first: BuildFirst | None = None,
    *,
    table: SourceTable | None = None,
) -> Planned:
    """Return the plan of a request, fixed.

    Args:
        request: What to build.
        progress: Is told how far it is.
        build_first: Builds what the generator starts from, if it is missing. None: that is
            refused.
        table: The rows, if they were read already; None reads or compares them.

    Raises:
        ViewStoreError: As `plan`, or whatever `build_first` raises.
    """
    from viewstore.generators import check_generator_name

    paths = StorePaths(request.root)
    check_out(request.root)
    if request.view_set is None:  # the view set is called as its generator, which there has to be
        check_generator_name(request.generator)
    check_view_set_name(request.name)
    if request.after is None and not paths.view_set(request.name).plan.is_file():
        check_no_round(request.name, f"viewstore refresh {quoted(request.out)}")
    found = stored_plan(request, paths)
    if found is not None:
        adopt_stored(paths, found)
        return Planned(plan=found)
    _check_settings(request)  # refused before anything is read
    sliced = request.slice_of is not None and not paths.view_set(request.name).plan.is_file()
    if sliced and not is_store(paths):
        _check_plan_can_be_made(request, paths)
    if build_first is None:
        stored = _stored(request, paths)
        inputs = _inputs(request, stored or request.after)
        check_first(request, paths, _settings(request, stored), inputs)
    if sliced:
        _check_plan_can_be_made(request, paths)
        progress.warn(
            f"there is no plan of {request.name} in {request.out}: this slice makes it, with the "
            "settings given here; if it should be there, check --view-set and --out"
        )
    skipped: tuple[tuple[str, str], ...] = ()
    if table is None:
        table, skipped = build_rows(request, paths, progress)
    found, before = _resolved(request, paths, table, progress, build_first)
    return Planned(plan=found, skipped=skipped, before=before)


def _check_plan_can_be_made(request: BuildRequest, paths: StorePaths) -> None:
    """Raise ConfigError if a slice without a plan has no source either, and is of no round."""
    if request.source is None and request.after is None:
        raise nothing_to_slice(request, paths)


def _stored(request: BuildRequest, paths: StorePaths) -> Plan | None:
    """Return the plan that a view set has. Raises ConfigError: it is of another generator."""
    view_set = paths.view_set(request.name)
    if not view_set.plan.is_file():
        return None
    stored = read_plan(view_set)
    check_same_generator(view_set, stored, request.generator)
    return stored


def _inputs(request: BuildRequest, before: Plan | None) -> dict[str, str]:
    """Return the names of the inputs that are fixed, by role, which may be rounds."""
    links = {} if before is None else before.links
    return {**{role: each["view_set"] for role, each in links.items()}, **request.inputs}


def _check_settings(request: BuildRequest) -> None:
    """Raise ConfigError if settings cannot be, or a network is given that this build is without."""
    from viewstore.generators import make_settings

    settings = make_settings(request.generator, request.settings)
    check_unneeded(request.generator, needed_roles(settings), request.files)
    if request.codec == ParamsAlone.name:
        compose.recipe_for(request.generator, settings)


def check_out(out: Path) -> None:
    """Raise ConfigError if `out` is something else than a store or a new folder."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigError(
            f"--out must be a folder, {out} is a file", where=str(out), fix="name another --out"
        )
    check_place(out)
    if not os.access(out, os.W_OK):
        raise UnavailableError(
            f"{out} cannot be written",
            code="VS302",
            where=str(out),
            why="this user may not write there, or it is mounted for reading alone",
            fix=f"{disk.RIGHTS}; or name another --out",
        )


def _resolved(
    request: BuildRequest,
    paths: StorePaths,
    table: SourceTable,
    progress: Progress,
    build_first: BuildFirst | None,
) -> tuple[Plan, tuple[Built, ...]]:
    """Adopt the plan of the request; build the view sets that it is made from, if missing."""
    view_set = paths.view_set(request.name)
    stored = _stored(request, paths)
    before = stored or request.after
    settings = _settings(request, stored)
    built: list[Built] = []

    def first(name: str, own: Mapping[str, Any]) -> None:
        if build_first is None:  # it was there a moment ago
            raise not_built_first(request, paths, name, own)
        progress.note(f"{request.generator} starts from the view set {name!r}: building it first")
        built.append(build_first(first_request(request, name, own), table))

    inputs = wanted_inputs(
        request.name,
        paths,
        settings,
        table,
        first,
        planned=_inputs(request, before),
        upstream=request.upstream,
    )
    listing = None
    if ROLE in settings.NEEDS:
        listing = find_listing(cast(Imports, settings), view_set, stored, table, progress)
    models, weights = _files(settings, request, listing, progress)
    packaged = packaged_roles(settings.NEEDS, request.files)
    if not built and {part.uri for part in table.parts} != {"digits"}:
        _warn_of_packaged(packaged, progress)
    codec = codec_of(request, before, settings, side_of(table, inputs.get("parent"), listing))
    _check_proof(request, settings, codec)
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
    plan = _plan_of(request, paths, table, settings, context, weights)
    if request.view_set is None and stored is None:
        _check_not_renamed(paths, plan)
    wanted_shards(request, plan)  # refused before anything is written
    check_plan(view_set, plan)
    adopt_sources(paths, table, plan.shard_rows, request.upstream)  # the first that is written
    if listing is not None:
        keep_listing(view_set, listing, request.upstream)
    return adopt_plan(view_set, plan, request.upstream), tuple(built)


def _plan_of(
    request: BuildRequest,
    paths: StorePaths,
    table: SourceTable,
    settings: Settings,
    context: Context,
    weights: list[Weights],
) -> Plan:
    """Return what the settings come to in this context, with the rows of the store; write nothing.

    Raises:
        ConfigError: The views are too many or too large, or the rows are not those of the store.
    """
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
    return plan


def _files(
    settings: Settings, request: BuildRequest, listing: Listing | None, progress: Progress
) -> tuple[dict[str, Any], list[Weights]]:
    """Return what is in the files that a generator needs, by role, and what a plan says of them."""
    needs = named(settings.NEEDS)
    weights = weights_of(needs, request.files)
    models = load_models(needs, request.files, weights, progress)
    if listing is not None:
        models[ROLE] = listing
        weights.append(weights_of_listing(listing))
    return models, weights


def _check_proof(request: BuildRequest, settings: Settings, codec: Codec) -> None:
    """Raise ConfigError if `proof` is given, and the views are not stored as params."""
    if request.proof is None or (codec.name, settings.KIND) == (ParamsAlone.name, "pixels"):
        return
    stored_as = f"the views are stored as {codec.name}"
    columns = f"{request.generator} makes columns"
    raise ConfigError(
        f"proof goes with --codec params, {stored_as if settings.KIND == 'pixels' else columns}",
        code="VS101",
        fix="leave proof out, or give --codec params",
    )


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


def _seed(request: BuildRequest, before: Plan | None) -> int:
    if request.seed is not None:
        return request.seed
    return 0 if before is None else before.seed


def _round(request: BuildRequest, stored: Plan | None) -> int:
    if stored is not None:
        return stored.round
    return 1 if request.after is None else request.after.round + 1
