"""From settings to live objects: what a generator is given, the plan of a view set, a builder.

`run` calls it to plan; each worker calls the factory of `builder_factory` for its builder.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from viewstore.build.here import check_source, warnings_here
from viewstore.build.inputs import planned_inputs
from viewstore.build.known_latents import known_latents
from viewstore.build.listing import own_files
from viewstore.build.reproducible import check_generator, check_versions, check_weights
from viewstore.build.roles import WeightFiles, load_models, networks
from viewstore.errors import ConfigError, FormatError
from viewstore.files.upstream import FOLDER, Upstream
from viewstore.format.columns import Column
from viewstore.format.paths import StorePaths
from viewstore.format.plan import SOURCE, Kind, Plan, Weights, round_name
from viewstore.images.codec import CODECS, Codec, codec_from_plan, codec_to_plan
from viewstore.progress import Progress, Silent
from viewstore.shards.builder import BuilderFactory, ShardBuilder, Watch
from viewstore.shards.place import Place
from viewstore.shards.writer import json_bytes
from viewstore.sources.again import located
from viewstore.sources.reader import SourceReader
from viewstore.sources.record import read_sources
from viewstore.sources.table import SourceTable
from viewstore.store.column_content import PIXEL_CRC, has_proof
from viewstore.store.committed import read_plan
from viewstore.store.view_set import ViewSet

if TYPE_CHECKING:
    from viewstore.generators.contract import Context, Generator, Resolved, Settings


OnError = Literal["fail", "skip"]
LIBRARIES = ("numpy", "opencv-python-headless", "pillow", "simplejpeg")


class StoreRows:
    """The samples of a store by row: what a builder reads (`shards.unit.Rows`)."""

    def __init__(self, table: SourceTable) -> None:
        self.table = table
        self.reader = SourceReader(table)

    def image(self, row: int) -> NDArray[np.uint8]:
        return self.reader.image(row)

    def size(self, row: int) -> tuple[int, int]:
        return int(self.table.height[row]), int(self.table.width[row])

    def key(self, row: int) -> str:
        return self.table.keys[row]

    def label(self, row: int) -> int:
        return int(self.table.label[row])


def make_context(
    *,
    table: SourceTable,
    seed: int,
    view_set: str,
    codec: Codec,
    models: Mapping[str, Any],
    inputs: Mapping[str, ViewSet],
    device: str,
    wants_pixels: bool = True,
    round: int = 1,
    packaged: frozenset[str] = frozenset(),
    whole_source: Callable[[], SourceTable] | None = None,
    progress: Progress | None = None,
) -> Context:
    """Return what a generator of this store is given.

    `models` are networks by role, those of `packaged` roles the package's own; `inputs` are the
    finished view sets that the generator reads, by role; `whole_source` opens the source without
    the limit of the store, where it may have one; `progress` takes notes and warnings for the
    user.
    """
    from viewstore.generators.contract import PARENT, Context, SourceImages

    def whole() -> SourceImages:
        opened = table if whole_source is None else whole_source()
        return len(opened.keys), SourceReader(opened).image

    progress = progress or Silent()
    return Context(
        seed=seed,
        view_set=view_set,
        round=round,
        num_samples=len(table.keys),
        images_digest=table.images_digest,
        source_height=_common(table.height),
        source_width=_common(table.width),
        source_image=SourceReader(table).image,
        codec=codec,
        device=device,
        models=models,
        parent=inputs.get(PARENT),
        inputs={role: each for role, each in inputs.items() if role != PARENT},
        wants_pixels=wants_pixels,
        packaged=packaged,
        known_latents=functools.cache(partial(known_latents, table)),
        whole_source=whole,
        warn=progress.warn,
        note=progress.note,
    )


def _common(sizes: NDArray[Any]) -> int | None:
    """Return the size that all images have, or None."""
    return int(sizes[0]) if len(sizes) and (sizes == sizes[0]).all() else None


def make_plan(
    settings: Settings,
    resolved: Resolved,
    context: Context,
    *,
    name: str,
    view_set: str,
    table: SourceTable,
    sources_id: str,
    shard_rows: int,
    weights: list[Weights],
) -> Plan:
    """Return the plan of settings and what they resolve to: all that decides the bytes of a set.

    `context.view_set` is the name under which `view_set` was begun, without its round.
    """
    from viewstore.generators import GENERATORS, make_settings

    views, height, width = resolved.views, resolved.height, resolved.width
    begun_as = round_name(context.view_set, context.round)
    rows, codec = StoreRows(table), context.codec
    libraries = {
        library: importlib.metadata.version(library)
        for library in (*LIBRARIES, *(["torch"] if networks(settings.NEEDS) else []))
    }
    plugins = (GENERATORS.plugin(name), CODECS.plugin(codec.name))
    libraries |= {plugin.package: plugin.version for plugin in plugins if plugin is not None}
    members = codec.members(views)
    stored: Kind = "columns" if settings.KIND == "columns" else "pixels" if members else "recipe"
    columns = list(resolved.columns())
    if stored == "recipe" and context.wants_pixels:
        columns.append(Column(name=PIXEL_CRC, dtype="u4", shape=(views,)))
    parent = None if context.parent is None else _link(context.parent)
    if stored == "columns" and parent is None:
        parent = {"view_set": SOURCE, "plan_id": sources_id}
    plan = Plan(
        view_set=view_set,
        sources_id=sources_id,
        rows=len(table.keys),
        shard_rows=shard_rows,
        views=views,
        roles=resolved.roles(),
        height=height,
        width=width,
        channels=0 if stored == "columns" else 3,
        kind=stored,
        codec=codec_to_plan(codec, width),
        members=members,
        json_bytes=json_bytes(context.view_set, len(table.keys), rows) if members else 0,
        recipe=recipe_for(name, settings, libraries) if stored == "recipe" else None,
        parent=parent,
        inputs={role: _link(each) for role, each in context.inputs.items()},
        reach=make_settings(name, _args(resolved)).reach(),  # what depends on a network is known
        generator={"name": name, "version": settings.VERSION, "args": _args(resolved)},
        weights=tuple(weights),
        resample={"filter": getattr(resolved, "filter", "area"), "library": "opencv"},
        seed=context.seed,
        round=context.round,
        columns=tuple(sorted(columns, key=lambda column: column.name)),
        libraries=libraries,
        made_as=None if view_set == begun_as else context.view_set,
    )
    try:
        Plan.unpack(plan.pack())
    except FormatError as error:  # before it is written: afterwards the store would be damaged
        raise ConfigError(
            f"a plan cannot hold these settings: {error}", fix="give values within their limits"
        ) from error
    return plan


def _link(view_set: ViewSet) -> dict[str, str]:
    return {"view_set": view_set.name, "plan_id": view_set.plan.id}


def recipe_for(
    generator: str, settings: Settings, libraries: Mapping[str, str] = {}
) -> dict[str, Any]:
    """Return what a plan says of the recipe of views whose params alone are stored.

    Raises:
        ConfigError: The generator has none.
    """
    spec = settings.recipe()
    if spec is None:
        raise ConfigError(
            f"generator {generator} has no recipe: its views cannot be stored as params",
            code="VS103",
            fix="store them with --codec raw, or leave --codec out",
        )
    return {**asdict(spec), "version": spec.version, "libraries": dict(libraries)}


def _args(settings: Resolved) -> dict[str, Any]:
    return asdict(settings)  # type: ignore[call-overload,no-any-return]


def builder_factory(
    root: Path,
    view_set: str,
    files: WeightFiles,
    *,
    on_error: OnError,
    source: str | None = None,
    upstream: Upstream = FOLDER,
) -> BuilderFactory:
    """Return what a worker calls to get the builder of a view set whose plan is adopted.

    `source`: Where the images lie on this machine; None: where the store says. `upstream`: Where
    the shards are published.
    """
    return partial(_make_builder, root, view_set, files, on_error, source, upstream)


def _make_builder(
    root: Path,
    view_set: str,
    files: WeightFiles,
    on_error: OnError,
    source: str | None,
    upstream: Upstream,
    watch: Watch,
    place: Place,
) -> ShardBuilder:
    """Check this machine against the plan, load what the generator needs, and make it."""
    from viewstore.generators import make_settings

    root, upstream = upstream.here(root)
    paths = StorePaths(root)
    rows = StoreRows(_rows_here(paths, source))
    plan = read_plan(paths.view_set(view_set))
    check_generator(plan)
    check_versions(plan)
    settings = make_settings(plan.generator["name"], plan.generator["args"])
    reads_source = settings.reads_source() and (plan.kind == "columns" or _makes_pixels(plan))
    if reads_source:
        check_source(rows.reader, on_error)
    files = {**files, **own_files(paths.view_set(view_set), plan)}
    weights = check_weights(plan, settings.NEEDS, files)
    _take_threads(place, settings)
    models = load_models(settings.NEEDS, files, weights)
    inputs = planned_inputs(paths, plan, rows.reader, upstream)
    return ShardBuilder(
        paths=paths.view_set(view_set),
        plan=plan,
        rows=rows,
        generator=_planned_generator(plan, settings, rows.table, models, inputs, place),
        inputs=inputs,
        reads_source=reads_source,
        on_error=on_error,
        watch=watch,
        upstream=upstream,
        warnings=warnings_here(plan),
    )


def _rows_here(paths: StorePaths, source: str | None) -> SourceTable:
    table, _, _ = read_sources(paths)
    return table if source is None else located(table, source)


def _makes_pixels(plan: Plan) -> bool:
    """Whether views are rendered, if only for the CRC of their pixels."""
    return plan.kind == "pixels" or has_proof(plan)


def _take_threads(place: Place, settings: Settings) -> None:
    """Let the libraries that render use as many threads as a builder has at this place."""
    import cv2

    cv2.setNumThreads(place.threads)
    if networks(settings.NEEDS):
        import torch

        torch.set_num_threads(place.threads)


def _planned_generator(
    plan: Plan,
    settings: Settings,
    table: SourceTable,
    models: Mapping[str, Any],
    inputs: Mapping[str, ViewSet],
    place: Place,
) -> Generator:
    context = make_context(
        table=table,
        seed=plan.seed,
        view_set=plan.first_name,
        round=plan.round,
        codec=codec_from_plan(plan.codec),
        models=models,
        inputs=inputs,
        wants_pixels=_makes_pixels(plan),
        device=place.device,
    )
    return settings.resolve(context).make(context)
