"""From settings to live objects: the one place that knows generators, networks and stores."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.resources
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import CheckpointError, ConfigError, UnavailableError
from viewstore.format.paths import StorePaths
from viewstore.format.plan import Plan, Weights
from viewstore.images.codec import Codec, codec_from_plan, codec_to_plan
from viewstore.shards.builder import BuilderFactory, ShardBuilder
from viewstore.shards.unit import Watch
from viewstore.shards.writer import json_bytes
from viewstore.sources.reader import SourceReader
from viewstore.sources.record import read_sources
from viewstore.sources.table import SourceTable
from viewstore.store.committed import read_manifest, read_plan
from viewstore.store.view_set import ViewSet

if TYPE_CHECKING:
    from viewstore.generators.contract import Context, Resolved


OnError = Literal["fail", "skip"]
PACKAGED = {
    "gan": "digits-gan.safetensors",
    "encoder": "digits-encoder.safetensors",
    "inverter": "digits-inverter.safetensors",
}
LIBRARIES = ("numpy", "opencv-python-headless", "pillow", "simplejpeg")


class StoreRows:
    """The samples of a store, as a builder wants them."""

    def __init__(self, table: SourceTable) -> None:
        self.table = table
        self.reader = SourceReader(table)

    def image(self, row: int) -> NDArray[np.uint8]:
        return self.reader.image(row)

    def key(self, row: int) -> str:
        return self.table.keys[row]

    def label(self, row: int) -> int:
        return int(self.table.label[row])


@dataclass(frozen=True, kw_only=True)
class WeightFiles:
    """Files of weights by role; None means the ones that the package ships for `digits`."""

    gan: Path | None = None
    encoder: Path | None = None
    inverter: Path | None = None

    def path(self, role: str) -> Path | None:
        """Return the file of a role; a user's GAN has no packaged inverter."""
        given: Path | None = getattr(self, role)
        if given is not None:
            return given
        if role == "inverter" and self.gan is not None:
            return None
        return packaged_weights(role)


def packaged_weights(role: str) -> Path:
    """Return the path of the digits weights that the package ships for a role."""
    return Path(str(importlib.resources.files("viewstore"))) / "weights" / PACKAGED[role]


Note = Callable[[str], None]


def say_nothing(line: str) -> None:
    """Take a line for the user, and drop it."""


def load_model(role: str, path: Path, note: Note = say_nothing) -> Any:  # noqa: ANN401
    """Load the frozen network of a role; `note` is told its licence and what its reader saw.

    Raises:
        CheckpointError: The file is not one.
    """
    if not path.is_file():
        raise ConfigError(
            f"there is no {role} file at {path}", where=f"--{role} {path}", fix=f"check --{role}"
        )
    try:
        if role == "gan":
            from viewstore.generators.gan.file import read_generator

            opened = read_generator(path)
            for line in filter(None, (*opened.notes, opened.origin.licence_note)):
                note(f"{path.name}: {line}")
            return opened.network
        if role == "inverter":
            from viewstore.generators.gan.inverter import load_inverter

            return load_inverter(path)
        from viewstore.train.encoder_file import load_encoder

        return load_encoder(path)
    except ImportError as error:
        raise UnavailableError(f"{role} needs a package that is missing: {error}") from error


def load_models(
    needs: tuple[str, ...], files: WeightFiles, note: Note = say_nothing
) -> tuple[dict[str, Any], list[Weights]]:
    """Load the networks a generator needs, and say which files they are."""
    models = {}
    weights = []
    for role in needs:
        path = files.path(role)
        if path is None:
            continue
        models[role] = load_model(role, path, note)
        data = path.read_bytes()
        weights.append(
            Weights(
                role=role,
                name=path.name,
                bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
            )
        )
    return models, weights


def make_context(
    *,
    table: SourceTable,
    seed: int,
    codec: Codec,
    models: Mapping[str, Any],
    parent: ViewSet | None,
    device: str,
    warn: Callable[[str], None] = lambda message: None,
) -> Context:
    """Return what a generator of this store is given."""
    from viewstore.generators.contract import Context

    return Context(
        seed=seed,
        num_samples=len(table.keys),
        source_height=_shared(table.height),
        source_width=_shared(table.width),
        source_image=SourceReader(table).image,
        codec=codec,
        device=device,
        models=models,
        parent=parent,
        warn=warn,
    )


def _shared(sizes: NDArray[Any]) -> int | None:
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
    """Return the plan of resolved settings."""
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
        json_bytes=json_bytes(view_set, len(table.keys), rows),
        parent=None if parent is None else {"view_set": parent.name, "plan_id": parent.plan.id},
        generator={"name": name, "version": kind.VERSION, "args": _args(settings)},
        weights=tuple(weights),
        resample={"filter": getattr(settings, "filter", "area"), "library": "opencv"},
        seed=context.seed,
        round=1,
        columns=tuple(sorted(settings.columns(), key=lambda column: column.name)),
        ops=(),
        libraries={library: importlib.metadata.version(library) for library in libraries},
    )


def _args(settings: Resolved) -> dict[str, Any]:
    return asdict(settings)  # type: ignore[call-overload,no-any-return]


def parent_view_set(paths: StorePaths, name: str) -> ViewSet | None:
    """Return the finished view set `name` of a store, or None."""
    manifest = read_manifest(paths)
    if manifest is None or name not in manifest.view_sets:
        return None
    return ViewSet(paths.view_set(name), manifest.view_sets[name])


def builder_factory(
    root: Path, view_set: str, files: WeightFiles, *, device: str, on_error: OnError, threads: int
) -> BuilderFactory:
    """Return what a worker calls to get its builder; picklable."""
    return partial(
        _make_builder, root, view_set, files, device=device, on_error=on_error, threads=threads
    )


def _make_builder(
    root: Path,
    view_set: str,
    files: WeightFiles,
    watch: Watch,
    *,
    device: str,
    on_error: OnError,
    threads: int,
) -> ShardBuilder:
    import cv2

    from viewstore.generators import make_settings

    cv2.setNumThreads(threads)
    paths = StorePaths(root)
    table, _, _ = read_sources(paths)
    plan = read_plan(paths.view_set(view_set))
    settings = make_settings(plan.generator["name"], plan.generator["args"])
    if settings.NEEDS:
        import torch

        torch.set_num_threads(threads)
    models, weights = load_models(settings.NEEDS, files)
    check_weights(plan, weights)
    parent = None if plan.parent is None else parent_view_set(paths, plan.parent["view_set"])
    context = make_context(
        table=table,
        seed=plan.seed,
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
        watch=watch,
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
