"""Copies a network out of its file, once the names and shapes of its tensors are checked."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from viewstore.errors import CheckpointError
from viewstore.generators.checkpoints.scan import Budget, Malformed, over_limit
from viewstore.generators.checkpoints.torch_tensors import Array, FileTensor, check_dimensions
from viewstore.generators.stylegan2.shape import infer, resampling

ONLY_STYLEGAN2 = "only StyleGAN2 is supported"
W_AVG = "mapping.w_avg"
_RECORDED = ("num_fp16_res", "fp16_channels_last", "channel_base", "channel_max", "w_avg_beta")
_FILTER = re.compile(r"synthesis\.b\d+\.((conv0|conv1|skip)\.)?resample_filter")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileNetwork:
    """A generator whose tensors are still in its file.

    Attributes:
        tensors: Every tensor of the network, by canonical name; filters also by layer.
        kwargs: Constructor arguments that the file gives; defaults are absent.
        filter_gain: What the resampling filters are multiplied by.
        may_lack_average: Whether `mapping.w_avg` may be missing.
        module_src_sha256: Of the source embedded in the file, if there is one.
        notes: What the person who opens the file should know.
    """

    tensors: dict[str, FileTensor]
    kwargs: dict[str, object]
    filter_gain: float = 1.0
    may_lack_average: bool = False
    module_src_sha256: str | None = None
    notes: tuple[str, ...] = ()


def copy_out(found: FileNetwork, budget: Budget) -> tuple[dict[str, Array], dict[str, object]]:
    """Return the float32 tensors by canonical name, and all constructor arguments.

    Every tensor must be there, `mapping.w_avg` excepted if the file may lack it.

    Raises:
        Malformed: names or shapes are not those of a StyleGAN2, or a weight is not finite.
    """
    for name, tensor in found.tensors.items():
        check_dimensions(name, tensor, budget)
    tensors = {n: t for n, t in found.tensors.items() if not _FILTER.fullmatch(n)}
    one_filter = _one_filter(found, budget)
    blocks = sorted({name.split(".")[1] for name in tensors if name.startswith("synthesis.b")})
    filters = {f"synthesis.{block}.resample_filter": one_filter for block in blocks}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    shapes |= dict.fromkeys(filters, one_filter.shape)
    if found.may_lack_average and W_AVG not in shapes:
        shapes[W_AVG] = shapes.get(_last_mapping_layer(shapes), ())[:1]
    kwargs = _check(shapes, found.kwargs, budget)
    arrays = {name: _read(name, tensor, budget) for name, tensor in tensors.items()}
    return arrays | {name: value.copy() for name, value in filters.items()}, kwargs


def _check(
    shapes: dict[str, tuple[int, ...]], given: dict[str, object], budget: Budget
) -> dict[str, object]:
    """Return all constructor arguments. Raises Malformed: the shapes are not a StyleGAN2's."""
    try:
        network = infer(shapes, given)
    except CheckpointError as error:
        raise Malformed(str(error), fix=ONLY_STYLEGAN2) from error
    if network.resolution > budget.limits.resolution:
        raise over_limit("resolution", budget.limits.resolution)
    kwargs: dict[str, object] = dict(network.kwargs())
    for section in ("mapping_kwargs", "synthesis_kwargs"):
        recorded, filled = given.get(section, {}), kwargs[section]
        assert isinstance(recorded, dict)
        assert isinstance(filled, dict)
        kwargs[section] = filled | {k: v for k, v in recorded.items() if k in _RECORDED}
    return kwargs


def _last_mapping_layer(shapes: dict[str, tuple[int, ...]]) -> str:
    layers = [name for name in shapes if re.fullmatch(r"mapping\.fc\d{1,4}\.weight", name)]
    return max(layers, key=lambda name: int(name.split(".")[1][2:]), default="")


def _one_filter(found: FileNetwork, budget: Budget) -> Array:
    """Return the one resampling filter. Raises Malformed: layers that resample differ in it."""
    filters = {
        name: _read(name, tensor, budget)
        for name, tensor in found.tensors.items()
        if _FILTER.fullmatch(name)
    }
    if not filters:
        raise Malformed("the network has no resample_filter", fix=ONLY_STYLEGAN2)
    first, *others = resampling(filters)
    for name in others:
        if not np.array_equal(filters[name], filters[first]):
            raise Malformed(f"{name} differs from the other resampling filters")
    return filters[first] * np.float32(found.filter_gain)


def _read(name: str, tensor: FileTensor, budget: Budget) -> Array:
    try:
        return tensor.read(budget)
    except Malformed as error:
        raise Malformed(f"tensor {name}: {error}", fix=error.fix) from error
