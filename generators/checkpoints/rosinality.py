"""Reads the checkpoints of rosinality/stylegan2-pytorch: tensors by canonical names.

The names differ, and tensors carry axes of length 1 for the batch; resampling kernels hold the
gain of 4 that our resampling applies itself.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from viewstore.generators.checkpoints.machine import Global, Table, printable
from viewstore.generators.checkpoints.network import W_AVG, FileNetwork
from viewstore.generators.checkpoints.scan import Budget, Malformed
from viewstore.generators.checkpoints.torch_files import ZIP_START, read_legacy, read_zip
from viewstore.generators.checkpoints.torch_tensors import (
    FileTensor,
    Storage,
    common_table,
    storage_table,
)

EXPECTED = "expected a checkpoint of rosinality's stylegan2-pytorch, with g_ema"
KERNEL_GAIN = 4.0
NOISE_SEED = 1000  # of the first layer's noise, where the file has none
PARALLEL = "module."  # what DataParallel puts before every name
DTYPES = ("float16", "float32", "float64", "bfloat16", "int32", "int64", "bool", "uint8")
PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path", "PurePath")
_LAYER = {
    "conv.weight": ("weight", 1),
    "conv.modulation.weight": ("affine.weight", 0),
    "conv.modulation.bias": ("affine.bias", 0),
    "noise.weight": ("noise_strength", 1),
    "activate.bias": ("bias", 0),
    "conv.blur.kernel": ("resample_filter", 0),
}
_TORGB = {
    "conv.weight": ("torgb.weight", 1),
    "conv.modulation.weight": ("torgb.affine.weight", 0),
    "conv.modulation.bias": ("torgb.affine.bias", 0),
    "bias": ("torgb.bias", 1),
    "upsample.kernel": ("resample_filter", 0),
}


def read_rosinality(data: bytes, budget: Budget) -> FileNetwork:
    """Return the generator of a zip or legacy file: `g_ema`, else `g`, else the file's own dict.

    Its `mapping.w_avg` is missing if the file has no `latent_avg`. The noise of a network that was
    saved without is drawn, always the same.

    Raises:
        Malformed: not such a file, or a rule of the format is broken.
    """
    read = read_zip if data.startswith(ZIP_START) else read_legacy
    value = read(data, _table(budget), budget)
    if not isinstance(value, dict):
        raise Malformed(f"the file holds a {type(value).__name__}, not a dict", fix=EXPECTED)
    state, *notes = _state(value)
    tensors = {}
    for name, tensor in state.items():
        if not isinstance(tensor, FileTensor):
            raise Malformed(f"{printable(name)} is not a tensor", fix=EXPECTED)
        canonical, unchanged = _translate(name, tensor)
        tensors[canonical] = unchanged
    if not any(name.endswith("noise_const") for name in tensors):
        tensors |= _keyed_noises(tensors)
        notes.append("the file has no noises.*: keyed noise is used, always the same")
    _check_noises(tensors)
    if isinstance(average := value.get("latent_avg"), FileTensor):
        tensors[W_AVG] = average.reshaped(average.shape[-1:])
    layers = sum(bool(re.fullmatch(r"style\.\d+\.weight", name)) for name in state)
    return FileNetwork(
        tensors=tensors,
        kwargs={"mapping_kwargs": {"num_layers": layers}},
        filter_gain=1 / KERNEL_GAIN,
        may_lack_average=True,
        notes=tuple(notes),
    )


def _state(value: dict[object, object]) -> tuple[Any, ...]:
    """Return the generator's tensors by rosinality's names, and notes on where they were."""
    notes = []
    state = value.get("g_ema", value.get("g"))
    if state is None and any(str(name).endswith("input.input") for name in value):
        state = value
        notes.append("the file is a plain state_dict: it is used as the averaged generator")
    elif "g_ema" not in value:
        notes.append("the file has no g_ema: its g is used, without averaging")
    if not isinstance(state, dict):
        raise Malformed("the file holds neither g_ema nor g as a dict", fix=EXPECTED)
    named = {str(name): tensor for name, tensor in state.items()}
    if named and all(name.startswith(PARALLEL) for name in named if name != "latent_avg"):
        named = {name.removeprefix(PARALLEL): tensor for name, tensor in named.items()}
    named.pop("latent_avg", None)
    return named, *notes


def _table(budget: Budget) -> Table:
    """Return what a file may mention: its tensors, and harmless values among its settings."""
    inert = [
        "torch.device",
        *(f"{room}.{name}" for room in ("pathlib", "pathlib._local") for name in PATHS),
    ]
    made = [Global("argparse.Namespace", make=dict)]
    made += [Global(name, call=lambda arguments: None) for name in inert]
    made += [Global(f"torch.{name}") for name in DTYPES]
    return {**common_table(budget), **storage_table(), **{each.name: each for each in made}}


def _keyed_noises(tensors: dict[str, FileTensor]) -> dict[str, FileTensor]:
    """Return noise for each layer that scales one, drawn by the layer's place alone."""
    names = sorted(
        (int(found[1]), found[2] == "1", name)
        for name in tensors
        if (found := re.fullmatch(r"synthesis\.b(\d{1,4})\.conv(\d)\.noise_strength", name))
    )
    noises = {}
    for number, (side, _, name) in enumerate(names):
        storage = Storage("f4", side * side, partial(_drawn, side, number))
        noise = FileTensor(storage, 0, (side, side), (side, 1))
        noises[name.removesuffix("strength") + "const"] = noise
    return noises


def _drawn(side: int, number: int) -> bytes:
    from viewstore.generators.stylegan2.codes import keyed_normal

    return keyed_normal(side, side, NOISE_SEED + number).numpy().astype("<f4").tobytes()


def _translate(name: str, tensor: FileTensor) -> tuple[str, FileTensor]:
    """Return the canonical name and the tensor without the axes that only a batch needs."""
    match re.fullmatch(r"([a-z_]+1?)(?:\.(\d{1,2}))?\.(.+)", name):
        case re.Match() as found:
            owner, number, part = found.groups()
            index = int(number or 0)
        case _:
            raise _unknown(name)
    match owner, number:
        case ("style", str()) if index and part in ("weight", "bias"):
            return f"mapping.fc{index - 1}.{part}", tensor
        case ("input", None) if part == "input":
            return "synthesis.b4.const", tensor.reshaped(tensor.shape[1:])
        case ("noises", None) if match := re.fullmatch(r"noise_(\d{1,2})", part):
            return f"{_layer(int(match[1]) - 1)}.noise_const", tensor.reshaped(tensor.shape[2:])
        case ("conv1", None) | ("convs", str()) if part in _LAYER:
            target, dropped = _LAYER[part]
            layer = _layer(index if number else -1)
            return f"{layer}.{target}", tensor.reshaped(tensor.shape[dropped:])
        case ("to_rgb1", None) | ("to_rgbs", str()) if part in _TORGB:
            target, dropped = _TORGB[part]
            shape = tensor.shape[1:2] if part == "bias" else tensor.shape[dropped:]
            return f"{_block(index + 1 if number else 0)}.{target}", tensor.reshaped(shape)
    raise _unknown(name)


def _layer(number: int) -> str:
    """Return the layer of `convs.{number}`; -1 is the one before them all."""
    return f"{_block(number // 2 + 1)}.conv{number % 2}"


def _block(number: int) -> str:
    return f"synthesis.b{4 << number}"


def _unknown(name: str) -> Malformed:
    return Malformed(
        f"g_ema has a tensor {printable(name)}, which StyleGAN2 does not", fix=EXPECTED
    )


def _check_noises(tensors: dict[str, FileTensor]) -> None:
    for name in tensors:
        noise = name.removesuffix("noise_strength") + "noise_const"
        if name.endswith("noise_strength") and noise not in tensors:
            raise Malformed(
                f"noises.* is missing for {name.rpartition('.')[0]}",
                fix="save the whole state_dict of g_ema: without its noise the images differ",
            )
