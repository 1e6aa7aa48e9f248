"""Reads the network pickles of the TensorFlow era of StyleGAN2: its averaged generator, Gs.

Such a file is a tuple (G, D, Gs). A network is its settings, its parts by name, its variables by
name, and source code, which ordinary unpickling executes; of that only the SHA-256 is kept here.
A conditional one normalises z and labels together, which no network of ours does.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from viewstore.generators.checkpoints.ada import is_plain
from viewstore.generators.checkpoints.machine import (
    Arguments,
    DType,
    Global,
    Stateful,
    Table,
    load,
    printable,
)
from viewstore.generators.checkpoints.network import ONLY_STYLEGAN2, W_AVG, FileNetwork
from viewstore.generators.checkpoints.scan import Budget, Malformed
from viewstore.generators.checkpoints.torch_tensors import (
    MAX_RANK,
    Array,
    FileTensor,
    Storage,
    common_table,
    row_major,
)

NETWORK = "dnnlib.tflib.network.Network"
EXPECTED = "expected a network-*.pkl of NVlabs/stylegan2, a tuple of the networks G, D and Gs"
NOTE = (
    "files of this kind are read as they are described, none was at hand to compare with: look at "
    "its images first (viewstore gan sample --n 16)"
)
PARTS = ("mapping", "synthesis")
KERNEL = (1, 3, 3, 1)
_START = 64  # bytes in which a pickled tuple names the class of its first member
_LAYERS = {"Conv0_up": "conv0", "Conv1": "conv1", "Skip": "skip", "ToRGB": "torgb"}
_FIRST_LAYERS = {"Conv": "conv1", "ToRGB": "torgb"}
_FLIPPED = ("Conv0_up", "Skip")
_SIZES = {
    "latent_size": "z_dim",
    "dlatent_size": "w_dim",
    "resolution": "img_resolution",
    "num_channels": "img_channels",
}
# Settings that change the images, and the only value that they have in a network we can run.
_REQUIRED = {"nonlinearity": "lrelu", "mapping_nonlinearity": "lrelu", "normalize_latents": True}
_CHOSEN = ("architecture", "conv_clamp", "mapping_layers", "mapping_lrmul", "resample_kernel")
_USED = ("label_size", *_SIZES, *_REQUIRED, *_CHOSEN)


class _Network(Stateful):
    """One network of the file, once its state is there."""

    __slots__ = ("parts", "settings", "source", "variables")

    def __init__(self) -> None:
        self.settings: dict[Any, object] | None = None

    def take_state(self, state: object) -> None:
        match state:
            case {
                "static_kwargs": dict() as settings,
                "components": dict() as parts,
                "variables": list() as variables,
                "build_module_src": str() as source,
            } if self.settings is None:
                self.settings, self.parts = settings, parts
                self.variables, self.source = variables, source
                return
        raise Malformed("a network of it is not described by settings, parts and variables")

    def tensors(self) -> Iterator[tuple[str, FileTensor]]:
        """Yield (name, array) of its own variables."""
        for variable in self.variables:
            match variable:
                case (str() as name, _Array(tensor=FileTensor() as tensor)):
                    yield name, tensor
                case _:
                    raise Malformed("a variable of it is not a name and an array")


class _Array(Stateful):
    """A numpy array, whose bytes stay where they are in the file."""

    __slots__ = ("tensor",)

    def __init__(self) -> None:
        self.tensor: FileTensor | None = None

    def take_state(self, state: object) -> None:
        match state:
            case (int(), tuple() as shape, DType(code=code), (0 | 1) as columns, bytes() as raw):
                if len(shape) > MAX_RANK or not all(type(n) is int and n >= 0 for n in shape):
                    raise Malformed(f"an array must have at most {MAX_RANK} axes, each a length")
                storage = Storage(code, math.prod(shape), lambda: raw)
                if storage.numel * storage.itemsize != len(raw):
                    raise Malformed(f"an array of shape {shape} has {len(raw)} bytes")
                stride = row_major(shape[::-1])[::-1] if columns else row_major(shape)
                self.tensor = FileTensor(storage, 0, shape, stride)
                return
        raise Malformed("an array is not described by a shape, a type and bytes")


def is_tensorflow(data: bytes) -> bool:
    """Return whether a pickle begins with a network of the TensorFlow era."""
    return NETWORK.rpartition(".")[0].encode() in data[:_START]


def read_tensorflow(data: bytes, budget: Budget) -> FileNetwork:
    """Return the network `Gs` of a pickle of the TensorFlow era.

    Raises:
        Malformed: not such a file, a conditional network, or a rule of the format is broken.
    """
    stream = io.BytesIO(data)
    value = load(stream, _table(budget), budget)
    if stream.tell() != len(data):
        raise Malformed(f"{len(data) - stream.tell()} bytes follow the end of the pickle")
    match value:
        case (_Network(), _Network(), _Network() as network):
            pass
        case _:
            raise Malformed("the pickle does not hold three networks")
    parts = {"": network} | {name: _part(network, name) for name in PARTS}
    kwargs, kernel = _kwargs(list(parts.values()))
    tensors: dict[str, FileTensor] = {}
    for prefix, part in parts.items():
        for name, tensor in part.tensors():
            canonical, unchanged = _translate(f"{prefix}/{name}".lstrip("/"), tensor)
            if tensors.setdefault(canonical, unchanged) is not unchanged:
                raise Malformed(f"Gs has two tensors {printable(name)}")
    noisy = any(name.endswith("noise_const") for name in tensors)
    kwargs["synthesis_kwargs"] |= {"use_noise": noisy}
    source = network.source.encode("utf-8", "surrogatepass")
    return FileNetwork(
        tensors=tensors | {"synthesis.b4.resample_filter": kernel},
        kwargs=kwargs,
        module_src_sha256=hashlib.sha256(source).hexdigest(),
        notes=(NOTE,),
    )


def _table(budget: Budget) -> Table:
    def array(arguments: Arguments) -> _Array:
        match arguments:
            case (Global(name="numpy.ndarray"), (0,), b"b"):
                budget.take_tensor()
                return _Array()
        raise Malformed("an array does not begin as an empty one")

    def network() -> _Network:
        budget.take_tensor()
        return _Network()

    made = [Global(NETWORK, make=network), Global("numpy.ndarray")]
    made += [Global(name, make=dict) for name in ("dnnlib.EasyDict", "dnnlib.util.EasyDict")]
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    made += [Global(f"{module}._reconstruct", array) for module in modules]
    return {**common_table(budget), **{each.name: each for each in made}}


def _part(network: _Network, name: str) -> _Network:
    part = None if network.settings is None else network.parts.get(name)
    if not isinstance(part, _Network) or part.settings is None:
        raise Malformed(f"Gs has no part {name}, as a StyleGAN2 has", fix=ONLY_STYLEGAN2)
    return part


def _kwargs(parts: list[_Network]) -> tuple[dict[str, Any], FileTensor]:
    """Return the constructor arguments by our names, and the resampling filter."""
    given = _settings(parts)
    if given.get("label_size", 0) != 0:
        raise Malformed(
            f"it is conditional (label_size {given['label_size']}), and networks of the "
            "TensorFlow era normalise z and labels together, which ours do not",
            fix="only unconditional networks of this kind are read",
        )
    for name, wanted in _REQUIRED.items():
        if given.get(name, wanted) != wanted:
            raise Malformed(f"{name} must be {wanted}, got {given[name]!r}", fix=ONLY_STYLEGAN2)
    kwargs: dict[str, Any] = {ours: given[name] for name, ours in _SIZES.items() if name in given}
    kwargs["c_dim"] = 0
    kwargs["mapping_kwargs"] = {
        "num_layers": given.get("mapping_layers", 8),
        "lr_multiplier": given.get("mapping_lrmul", 0.01),
    }
    kwargs["synthesis_kwargs"] = {
        "architecture": given.get("architecture", "skip"),
        "conv_clamp": given.get("conv_clamp"),
    }
    return kwargs, _filter(given.get("resample_kernel", KERNEL))


def _settings(parts: list[_Network]) -> dict[str, Any]:
    """Return those settings of Gs and its parts that change images; they must agree."""
    found: dict[str, Any] = {}
    for part in parts:
        for name in _USED:
            value = (part.settings or {}).get(name)
            if value is None:
                continue
            if not is_plain(value):
                raise Malformed(f"Gs has the setting {name}, which is not a number")
            if found.setdefault(name, value) != value:
                raise Malformed(f"{name} of Gs is {found[name]!r}, that of a part is {value!r}")
    return found


def _filter(kernel: Any) -> FileTensor:  # noqa: ANN401
    """Return the filter of a kernel's taps, which are applied along both axes: their sum is 1."""
    taps = np.asarray(kernel if isinstance(kernel, list | tuple) else [], np.float64)
    if taps.ndim != 1 or not len(taps) or not taps.sum():
        raise Malformed(f"resample_kernel must be a list of numbers, got {kernel!r}")
    both = np.outer(taps, taps) / taps.sum() ** 2
    storage = Storage("f4", both.size, both.astype("<f4").tobytes)
    return FileTensor(storage, 0, both.shape, row_major(both.shape))


def _translate(name: str, tensor: FileTensor) -> tuple[str, FileTensor]:
    """Return the canonical name of a variable, and its values as ours are laid out."""
    if name == "dlatent_avg":
        return W_AVG, tensor
    if found := re.fullmatch(r"mapping/Dense(\d{1,3})/(weight|bias)", name):
        turned = tensor.permuted((1, 0)) if found[2] == "weight" else tensor
        return f"mapping.fc{int(found[1])}.{found[2]}", turned
    if name == "synthesis/4x4/Const/const":
        return "synthesis.b4.const", tensor.reshaped(tensor.shape[1:])
    if found := re.fullmatch(r"synthesis/noise(\d{1,2})", name):
        number = int(found[1]) + 1  # of the layers in their order, as if 4x4 had two
        owner = f"synthesis.b{4 << number // 2}.conv{number % 2}"
        return f"{owner}.noise_const", tensor.reshaped(tensor.shape[2:])
    if found := re.fullmatch(r"synthesis/(\d{1,4})x\1/(\w+)/(\w+)", name):
        layers = _FIRST_LAYERS if found[1] == "4" else _LAYERS
        if (layer := layers.get(found[2])) is not None:
            part, changed = _of_layer(found[3], tensor, flipped=found[2] in _FLIPPED)
            return f"synthesis.b{found[1]}.{layer}.{part}", changed
    if "StyleMod" in name:
        raise Malformed("it is a StyleGAN, the first", fix=ONLY_STYLEGAN2)
    raise Malformed(f"Gs has a variable {printable(name)}, which StyleGAN2 does not")


def _of_layer(part: str, tensor: FileTensor, *, flipped: bool) -> tuple[str, FileTensor]:
    """Return our name for a part of a layer, and its values; weights have axes H, W, I, O."""
    match part:
        case "weight":
            turned = tensor.derived(lambda values: values[::-1, ::-1]) if flipped else tensor
            return "weight", turned.permuted((3, 2, 0, 1))
        case "mod_weight":
            return "affine.weight", tensor.permuted((1, 0))
        case "mod_bias":
            return "affine.bias", tensor.derived(_plus_one)
        case _:
            return part, tensor


def _plus_one(values: Array) -> Array:
    return values + np.float32(1)
