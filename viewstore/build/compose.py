"""From settings to live objects: what a generator is given, the plan of a view set, a builder.

`run` calls it to plan; each worker calls the factory of `builder_factory` for its builder.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from viewstore.build.roles import WeightFiles, load_models, weights_of
from viewstore.errors import CheckpointError, ConfigError, UnavailableError
from viewstore.format.paths import StorePaths
from viewstore.format.plan import Plan, Weights
from viewstore.images.codec import Codec, codec_from_plan, codec_to_plan
from viewstore.progress import Progress, Silent
from viewstore.shards.builder import BuilderFactory, CheckStop, ShardBuilder
from viewstore.shards.writer import json_bytes
from viewstore.sources.again import located
from viewstore.sources.reader import SourceReader
from viewstore.sources.record import read_sources
from viewstore.sources.table import SourceTable
from viewstore.store.committed import read_manifest, read_plan
from viewstore.store.view_set import ViewSet

if TYPE_CHECKING:
    from viewstore.generators.contract import Context, Resolved


OnError = Literal["fail", "skip"]
LIBRARIES = ("numpy", "opencv-python-headless", "pillow", "simplejpeg")


class StoreRows:
    """The samples of a store by row: what a builder reads (`shards.unit.Rows`)."""

    def __init__(self, table: SourceTable) -> None:
        self.table = table
        self.reader = SourceReader(table)

    def image(self, row: int) -> NDArray[np.uint8]:
        return self.reader.image(row)

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
    parent: ViewSet | None,
    device: str,
    round: int = 1,
    packaged: frozenset[str] = frozenset(),
    whole_source: Callable[[], SourceTable] | None = None,
    progress: Progress | None = None,
) -> Context:
    """Return what a generator of this store is given.

    `models` are networks by role, those of `packaged` roles the package's own; `parent` is the
    finished view set that the generator starts from, if it has one; `whole_source` opens the
    source without the limit of the store, where it may have one; `progress` takes notes and
    warnings for the user.
    """
    from viewstore.generators.contract import Context, SourceImages

    def whole() -> SourceImages:
        opened = table if whole_source is None else whole_source()
        return len(opened.keys), SourceReader(opened).image

    progress = progress or Silent()
    return Context(
        seed=seed,
        view_set=view_set,
        round=round,
        num_samples=len(table.keys),
        source_height=_common(table.height),
        source_width=_common(table.width),
        source_image=SourceReader(table).image,
        codec=codec,
        device=device,
        models=models,
        parent=parent,
        packaged=packaged,
        whole_source=whole,
        warn=progress.warn,
        note=progress.note,
    )


def _common(sizes: NDArray[Any]) -> int | None:
    """Return the size that all images have, or None."""
    return int(sizes[0]) if len(sizes) and (sizes == sizes[0]).all() else None


def make_plan(
    settings: Resolved,
    context: Context,
    *,
    name: str,
    view_set: str,
    table: SourceTable,
    sources_id: str,
    shard_rows: int,
    weights: list[Weights],
) -> Plan:
    """Return the plan of resolved settings: all that decides the bytes of a view set.

    `context.view_set` is the name under which `view_set` was begun.
    """
    from viewstore.generators import settings_class

    views, height, width = settings.views, settings.height, settings.width
    kind = settings_class(name)
    rows = StoreRows(table)
    parent = context.parent
    libraries = [*LIBRARIES, *(["torch"] if kind.NEEDS else [])]
    return Plan(
        view_set=view_set,
        sources_id=sources_id,
        rows=len(table.keys),
        shard_rows=shard_rows,
        views=views,
        roles=settings.roles(),
        height=height,
        width=width,
        channels=3,
        codec=codec_to_plan(context.codec, width),
        members=context.codec.members(views),
        json_bytes=json_bytes(context.view_set, len(table.keys), rows),
        parent=None if parent is None else {"view_set": parent.name, "plan_id": parent.plan.id},
        generator={"name": name, "version": kind.VERSION, "args": _args(settings)},
        weights=tuple(weights),
        resample={"filter": getattr(settings, "filter", "area"), "library": "opencv"},
        seed=context.seed,
        round=1,
        columns=tuple(sorted(settings.columns(), key=lambda column: column.name)),
        ops=(),
        libraries={library: importlib.metadata.version(library) for library in libraries},
        made_as=None if context.view_set == view_set else context.view_set,
    )


def _args(settings: Resolved) -> dict[str, Any]:
    return asdict(settings)  # type: ignore[call-overload,no-any-return]


def parent_view_set(paths: StorePaths, name: str) -> ViewSet | None:
    """Return the finished view set `name` of a store, or None."""
    manifest = read_manifest(paths)
    if manifest is None or name not in manifest.view_sets:
        return None
    if not paths.view_set(name).plan.is_file():  # gone from disk
        return None
    return ViewSet(paths.view_set(name), manifest.view_sets[name])


def builder_factory(
    root: Path,
    view_set: str,
    files: WeightFiles,
    *,
    device: str,
    on_error: OnError,
    source: str | None = None,
) -> BuilderFactory:
    """Return what a worker calls to get the builder of a view set whose plan is adopted.

    `source`: Where the images lie on this machine; None: where the store says.
    """
    return partial(_make_builder, root, view_set, files, device, on_error, source)


def _make_builder(
    root: Path,
    view_set: str,
    files: WeightFiles,
    device: str,
    on_error: OnError,
    source: str | None,
    progress: Progress,
    check_stop: CheckStop,
    *,
    threads: int,
) -> ShardBuilder:
    import cv2

    from viewstore.generators import make_settings

    paths = StorePaths(root)
    table, _, _ = read_sources(paths)
    if source is not None:
        table = located(table, source)
    plan = read_plan(paths.view_set(view_set))
    if plan.weights:  # sums of several threads differ in their last bits
        threads = 1
    cv2.setNumThreads(threads)
    settings = make_settings(plan.generator["name"], plan.generator["args"])
    if settings.NEEDS:
        import torch

        torch.set_num_threads(threads)
    models, weights = load_models(settings.NEEDS, files)
    check_weights(plan, weights)
    check_parent(paths, plan)
    check_versions(plan)
    parent = None if plan.parent is None else parent_view_set(paths, plan.parent["view_set"])
    context = make_context(
        table=table,
        seed=plan.seed,
        view_set=plan.first_name,
        round=plan.round,
        codec=codec_from_plan(plan.codec),
        models=models,
        parent=parent,
        device=device,
    )
    return ShardBuilder(
        paths=paths.view_set(view_set),
        plan=plan,
        rows=StoreRows(table),
        generator=settings.resolve(context).make(context),
        on_error=on_error,
        progress=progress,
        check_stop=check_stop,
    )


def check_reproducible(paths: StorePaths, plan: Plan, files: WeightFiles) -> None:
    """Check that shards built now would be those that were planned, before any is given up.

    Raises:
        CheckpointError: The files of weights are others.
        ConfigError: The view set that it starts from is another, or is gone.
        UnavailableError: The libraries that decide its bytes have other versions here.
    """
    from viewstore.generators import settings_class

    check_weights(plan, weights_of(settings_class(plan.generator["name"]).NEEDS, files))
    check_parent(paths, plan)
    check_versions(plan)


def check_parent(paths: StorePaths, plan: Plan) -> None:
    """Raise ConfigError unless the parent of a view set is the one that it was planned with."""
    if plan.parent is None:
        return
    name = plan.parent["view_set"]
    parent = paths.view_set(name)
    found = read_plan(parent).id if parent.plan.is_file() else None
    if found != plan.parent["plan_id"]:
        raise ConfigError(
            f"view set {plan.view_set} was made from another {name!r} than the store has now"
            if found
            else f"view set {plan.view_set} was made from {name!r}, which the store has no longer",
            code="VS103",
            where=str(parent.plan),
            why="its views would be others than those that are stored",
            fix=f"build {name!r} with its former settings, or build into another --view-set",
        )


def check_versions(plan: Plan) -> None:
    """Raise UnavailableError unless generator, encoder and libraries are those of the plan."""
    from viewstore.generators import settings_class

    changed: dict[str, tuple[object, object]] = {}
    generator, version = plan.generator["name"], plan.generator["version"]
    if version != settings_class(generator).VERSION:
        changed[f"generator {generator}"] = (version, settings_class(generator).VERSION)
    before, encoder = plan.codec["encoder"], codec_from_plan(plan.codec).encoder
    if encoder != before:
        changed["encoder"] = (before, encoder)
    for library, version in plan.libraries.items():
        try:
            found = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found = "not installed"
        if found != version:
            changed[library] = (version, found)
    if changed:
        said = ", ".join(f"{name} was {was}, is {now}" for name, (was, now) in changed.items())
        raise UnavailableError(
            f"view set {plan.view_set} was made with other versions: {said}",
            why="other versions may make other bytes of the same views",
            fix="install those versions, or build into another --view-set",
        )


def check_weights(plan: Plan, found: list[Weights]) -> None:
    """Raise CheckpointError unless these weights are the ones the view set was planned with."""
    planned = {weights.role: weights for weights in plan.weights}
    for weights in found:
        if weights.role not in planned or planned[weights.role].sha256 != weights.sha256:
            raise CheckpointError(
                f"the {weights.role} is not the one that {plan.view_set} was planned with",
                where=weights.name,
                why="its sha256 differs from the plan's",
                fix=f"give the file of the first build with --{weights.role}",
            )
    missing = set(planned) - {weights.role for weights in found}
    if missing:
        raise CheckpointError(
            f"{plan.view_set} was planned with weights for {', '.join(sorted(missing))}",
            fix="give their files as in the first build",
        )
