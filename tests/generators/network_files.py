"""Small StyleGAN2 files, written by the stock pickle module and torch.save, and read by ours."""

import argparse
import contextlib
import io
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from viewstore.generators.checkpoints.read import NetworkTensors, read_checkpoint

EMBEDDED_SOURCE = "raise RuntimeError('the source embedded in the file was executed')\n"
FILTER = np.outer([1, 3, 3, 1], [1, 3, 3, 1]).astype(np.float32) / 64
KWARGS: dict[str, Any] = {
    "z_dim": 8,
    "c_dim": 0,
    "w_dim": 8,
    "img_resolution": 8,
    "img_channels": 3,
    "mapping_kwargs": {"num_layers": 2},
    "synthesis_kwargs": {"conv_clamp": 256, "num_fp16_res": 1},
}
Tensors = dict[str, np.ndarray]


class TensorFlowNetwork:
    """Pickles as a network of the TensorFlow era; `state` may be changed until then."""

    def __init__(self, **state: object) -> None:
        self.state: dict[str, Any] = {
            "version": 4,
            "name": "network",
            "static_kwargs": {},
            "components": {},
            "build_module_src": EMBEDDED_SOURCE,
            "build_func_name": "build",
            "variables": [],
        } | state

    def __getstate__(self) -> dict[str, Any]:
        return self.state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Do what ordinary loading does to such a file: run the source that it embeds."""
        exec(state["build_module_src"], {})


class EasyDict(dict[str, Any]):
    """Stands for dnnlib's, in name and in how it is pickled."""


def _reconstruct_persistent_obj(meta: Mapping[str, Any]) -> None:
    """Do what ordinary loading does to such a file: run the source that it embeds."""
    exec(meta["module_src"], {})


EasyDict.__module__ = "dnnlib.util"
TensorFlowNetwork.__module__ = "dnnlib.tflib.network"
TensorFlowNetwork.__qualname__ = TensorFlowNetwork.__name__ = "Network"
_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
_FOREIGN: dict[str, dict[str, object]] = {
    "dnnlib": {},
    "dnnlib.util": {"EasyDict": EasyDict},
    "dnnlib.tflib": {},
    "dnnlib.tflib.network": {"Network": TensorFlowNetwork},
    "torch_utils": {},
    "torch_utils.persistence": {"_reconstruct_persistent_obj": _reconstruct_persistent_obj},
}


class Call:
    """Pickles as the call of `function`, which must be importable by its name."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.reduced


class Module(Call):
    """Pickles as a persistent module; `state` may be changed until then."""

    def __init__(self, class_name: str = "Layer", **changes: object) -> None:
        self.state: dict[str, Any] = {
            "training": False,
            "_parameters": {},
            "_buffers": OrderedDict(),
            "_non_persistent_buffers_set": set(),
            "_forward_hooks": OrderedDict(),
            "_modules": {},
            "weight_gain": np.float64(0.25),
        }
        meta = {"type": "class", "version": 6, "module_src": EMBEDDED_SOURCE}
        meta |= {"class_name": class_name, "state": self.state} | changes
        super().__init__(_reconstruct_persistent_obj, meta)


@contextlib.contextmanager
def foreign_modules() -> Iterator[None]:
    """Let pickle write the names of modules that are not installed here."""
    for name, members in _FOREIGN.items():
        module = types.ModuleType(name)
        module.__dict__.update(members)
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in _FOREIGN:
            del sys.modules[name]


def dump(value: object, protocol: int = 4) -> bytes:
    with foreign_modules():
        return pickle.dumps(value, protocol)


def network(
    *,
    architecture: str = "skip",
    channels: tuple[int, ...] = (6, 4),
    image_channels: int = 3,
    c_dim: int = 0,
    use_noise: bool = True,
    taps: np.ndarray = FILTER,
) -> Tensors:
    """Return random tensors by canonical name, each with axes of its own lengths."""
    rng = np.random.default_rng(5)
    shapes: dict[str, tuple[int, ...]] = {"mapping.w_avg": (8,)}
    if c_dim:
        shapes |= {"mapping.embed.weight": (8, c_dim), "mapping.embed.bias": (8,)}
    for i in range(2):
        inputs = 16 if c_dim and i == 0 else 8
        shapes |= {f"mapping.fc{i}.weight": (8, inputs), f"mapping.fc{i}.bias": (8,)}
    shapes["synthesis.b4.const"] = (channels[0], 4, 4)
    for block, outputs in enumerate(channels):
        size, inputs = 4 << block, channels[max(block - 1, 0)]
        layers = {"conv1": (outputs, outputs, 3, 3)}
        if block:
            layers["conv0"] = (outputs, inputs, 3, 3)
        if architecture == "skip" or block == len(channels) - 1:
            layers["torgb"] = (image_channels, outputs, 1, 1)
        for layer, weight in layers.items():
            name = f"synthesis.b{size}.{layer}"
            shapes |= {f"{name}.weight": weight, f"{name}.bias": weight[:1]}
            shapes |= {f"{name}.affine.weight": (weight[1], 8), f"{name}.affine.bias": weight[1:2]}
            if use_noise and layer != "torgb":
                shapes |= {f"{name}.noise_const": (size, size), f"{name}.noise_strength": ()}
        if architecture == "resnet" and block:
            shapes[f"synthesis.b{size}.skip.weight"] = (outputs, inputs, 1, 1)
    tensors = {n: np.asarray(rng.normal(size=s), np.float32) for n, s in shapes.items()}
    blocks = [4 << block for block in range(len(channels))]
    return tensors | {f"synthesis.b{size}.resample_filter": taps for size in blocks}


def modules(
    tensors: Mapping[str, np.ndarray | torch.Tensor | Call], kwargs: Mapping[str, Any] = KWARGS
) -> Module:
    """Return the tree of modules that holds `tensors` under their dotted names."""
    root = Module("Generator")
    root.state |= {"_init_args": (), "_init_kwargs": EasyDict(kwargs)}
    for name, value in tensors.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            module = module.state["_modules"].setdefault(part, Module(part))
        if isinstance(value, Call):
            module.state["_buffers"][last] = value
            continue
        tensor = torch.as_tensor(value)
        if last in ("resample_filter", "noise_const", "w_avg"):
            module.state["_buffers"][last] = tensor
        else:
            module.state["_parameters"][last] = torch.nn.Parameter(tensor, requires_grad=False)
    return root


def snapshot(generator: object) -> dict[str, object]:
    """Return what a network-snapshot-*.pkl holds."""
    return {
        "training_set_kwargs": EasyDict(class_name="training.dataset.X", labels={1, 2}),
        "G_ema": generator,
        "augment_pipe": None,
    }


def ada_file(protocol: int = 4) -> bytes:
    return dump(snapshot(modules(network())), protocol)


def tensorflow_networks(
    tensors: Tensors, **settings: object
) -> tuple[TensorFlowNetwork, TensorFlowNetwork, TensorFlowNetwork]:
    """Return G, D and Gs, the tensors under the names and in the layout of that era."""
    variables: dict[str, list[tuple[str, np.ndarray]]] = {"": [], "mapping": [], "synthesis": []}
    for name, value in tensors.items():
        if not name.endswith("resample_filter"):
            path, array = _tensorflow_variable(name, value)
            variables[path.partition("/")[0] if "/" in path else ""].append(
                (path.partition("/")[2] or path, array)
            )
    given = {"resolution": 8, "num_channels": 3, "label_size": 0, "mapping_layers": 2} | settings
    parts = {
        name: TensorFlowNetwork(static_kwargs=EasyDict(given), variables=variables[name])
        for name in ("mapping", "synthesis")
    }
    others = (TensorFlowNetwork(), TensorFlowNetwork())
    return *others, TensorFlowNetwork(
        static_kwargs=given, components=parts, variables=variables[""]
    )


def _tensorflow_variable(name: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    section, owner, *rest = name.split(".")
    if name == "mapping.w_avg":
        return "dlatent_avg", value
    if section == "mapping":
        array = value.T if rest == ["weight"] else value
        return f"mapping/Dense{owner[2:]}/{rest[0]}", array
    size = int(owner[1:])
    if rest == ["const"]:
        return "synthesis/4x4/Const/const", value[None]
    layer, what = rest[0], ".".join(rest[1:])
    if what == "noise_const":
        number = 0 if size == 4 else 2 * (size.bit_length() - 1) - 5 + (layer == "conv1")
        return f"synthesis/noise{number}", value[None, None]
    first = {"conv1": "Conv", "torgb": "ToRGB"}
    later = {"conv0": "Conv0_up", "conv1": "Conv1", "torgb": "ToRGB", "skip": "Skip"}
    path = f"synthesis/{size}x{size}/{(first if size == 4 else later)[layer]}"
    if what == "weight":
        array = value.transpose(2, 3, 1, 0)
        return f"{path}/weight", array[::-1, ::-1] if layer in ("conv0", "skip") else array
    if what == "affine.weight":
        return f"{path}/mod_weight", value.T
    if what == "affine.bias":
        return f"{path}/mod_bias", value - np.float32(1)
    return f"{path}/{what}", value


def tensorflow_file(protocol: int = 4) -> bytes:
    return dump(tensorflow_networks(network()), protocol)


def rosinality_state(tensors: Tensors) -> "OrderedDict[str, torch.Tensor]":
    """Return the tensors under rosinality's names, the axes for the batch and the gain added."""
    state: OrderedDict[str, torch.Tensor] = OrderedDict()
    for name, value in tensors.items():
        section, owner, *rest = name.split(".")
        part = ".".join(rest)
        tensor = torch.as_tensor(value)
        if section == "mapping":
            if owner != "w_avg":
                state[f"style.{int(owner[2:]) + 1}.{part}"] = tensor
            continue
        block = int(owner[1:]).bit_length() - 3
        if part == "const":
            state["input.input"] = tensor[None]
        elif part == "resample_filter" and block:
            state[f"to_rgbs.{block - 1}.upsample.kernel"] = tensor * 4
            state[f"convs.{2 * block - 2}.conv.blur.kernel"] = tensor * 4
        elif part != "resample_filter":
            state |= _rosinality_layer(block, part, tensor)
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    return state


def _rosinality_layer(block: int, part: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    layer, _, what = part.partition(".")
    number = 2 * block - 2 + (layer == "conv1")
    owner = f"convs.{number}" if block else "conv1"
    if layer == "torgb":
        owner = f"to_rgbs.{block - 1}" if block else "to_rgb1"
    if what == "noise_const":
        return {f"noises.noise_{number + 1}": tensor[None, None]}
    if what == "bias":
        if layer == "torgb":
            return {f"{owner}.bias": tensor[None, :, None, None]}
        return {f"{owner}.activate.bias": tensor}
    if what == "noise_strength":
        return {f"{owner}.noise.weight": tensor[None]}
    if what == "weight":
        return {f"{owner}.conv.weight": tensor[None]}
    return {f"{owner}.conv.modulation.{what.removeprefix('affine.')}": tensor}


def rosinality_checkpoint(tensors: Tensors) -> dict[str, object]:
    return {
        "g_ema": rosinality_state(tensors),
        "latent_avg": torch.as_tensor(tensors["mapping.w_avg"]),
        "args": argparse.Namespace(size=8, latent=8),
        "ada_aug_p": 0.0,
    }


def torch_file(value: object, *, legacy: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def read(folder: Path, data: bytes) -> NetworkTensors:
    """Write `data` to a file and read it as a checkpoint."""
    path = folder / "network"
    path.write_bytes(data)
    return read_checkpoint(path)
