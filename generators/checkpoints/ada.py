"""Reads the network pickles of stylegan2-ada-pytorch: tensors by module, and settings.

Every module of such a file carries its own source code, which ordinary unpickling executes. Here a
module is a record of its name and state; of the source, only the SHA-256 is kept.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from viewstore.generators.checkpoints.machine import Arguments, Global, Table, load, printable
from viewstore.generators.checkpoints.network import ONLY_STYLEGAN2, FileNetwork
from viewstore.generators.checkpoints.scan import Budget, Malformed, over_limit
from viewstore.generators.checkpoints.torch_files import read_storage
from viewstore.generators.checkpoints.torch_tensors import FileTensor, Storage, common_table

EXPECTED = "expected a network-snapshot-*.pkl of stylegan2-ada-pytorch"
_CONSTRUCTOR = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")
_SECTIONS = ("mapping_kwargs", "synthesis_kwargs")


@dataclass(frozen=True, slots=True, eq=False)
class Module:
    """One network module of the file: what it is called and what it holds."""

    class_name: str
    source: str
    state: dict[str, object]

    def members(self, kind: str) -> Iterator[tuple[str, object]]:
        """Yield (name, value) of `_parameters`, `_buffers` or `_modules`, without the empty."""
        members = self.state.get(kind, {})
        if not isinstance(members, dict):
            raise Malformed(f"{kind} of a {printable(self.class_name)} is not a dict")
        for name, value in members.items():
            if not isinstance(name, str) or not 0 < len(name) <= 100 or "." in name:
                raise Malformed(f"{kind} of a {printable(self.class_name)} has an unusable name")
            if value is not None:
                yield name, value


def read_ada_pickle(data: bytes, budget: Budget) -> FileNetwork:
    """Return the network `G_ema` of a pickle of stylegan2-ada-pytorch.

    Raises:
        Malformed: not such a file, another family, or a rule of the format is broken.
    """
    stream = io.BytesIO(data)
    value = load(stream, _table(budget), budget)
    if stream.tell() != len(data):
        raise Malformed(f"{len(data) - stream.tell()} bytes follow the end of the pickle")
    network = _g_ema(value)
    _check_family(network)
    tensors: dict[str, FileTensor] = {}
    for name, tensor in _tensors(network, budget):
        if tensors.setdefault(name, tensor) is not tensor:
            raise Malformed(f"G_ema has two tensors {printable(name)}")
    source = network.source.encode("utf-8", "surrogatepass")
    return FileNetwork(
        tensors=tensors,
        kwargs=_kwargs(network),
        module_src_sha256=hashlib.sha256(source).hexdigest(),
    )


def _table(budget: Budget) -> Table:
    def storage(arguments: Arguments) -> Storage:
        match arguments:
            case (bytes() as blob,):
                return read_storage(blob, budget)
        raise Malformed("a storage is not made of bytes")

    table = dict(common_table(budget))
    for name in ("dnnlib.EasyDict", "dnnlib.util.EasyDict"):
        table[name] = Global(name, make=dict)
    reconstruct = "torch_utils.persistence._reconstruct_persistent_obj"
    table[reconstruct] = Global(reconstruct, _module)
    table["torch.storage._load_from_bytes"] = Global("torch.storage._load_from_bytes", storage)
    return table


def _module(arguments: Arguments) -> Module:
    match arguments:
        case (
            {
                "type": "class",
                "version": int() as version,
                "module_src": str() as source,
                "class_name": str() as name,
                "state": dict() as state,
            },
        ):
            if version != 6:
                raise Malformed(f"persistence version must be 6, got {version}")
            return Module(name, source, state)
    raise Malformed("a persistent object does not describe a class and its state")


def _g_ema(value: object) -> Module:
    if not isinstance(value, dict):
        raise Malformed(f"the pickle holds a {type(value).__name__}, not a dict", fix=EXPECTED)
    if "G_ema" not in value:
        names = ", ".join(printable(str(name)) for name in list(value)[:8]) or "nothing"
        raise Malformed(f"the pickle holds {names}, but no G_ema", fix=EXPECTED)
    network = value["G_ema"]
    if not isinstance(network, Module):
        raise Malformed(f"G_ema is a {type(network).__name__}, not a network", fix=EXPECTED)
    return network


def _check_family(network: Module) -> None:
    parts = {name: part for name, part in network.members("_modules") if isinstance(part, Module)}
    if not {"mapping", "synthesis"} <= parts.keys():
        found = ", ".join(printable(name) for name in list(parts)[:8]) or "none"
        raise Malformed(
            f"G_ema has the parts {found}, not mapping and synthesis; it may be an R3GAN",
            fix=ONLY_STYLEGAN2,
        )
    layers = [name for name, _ in parts["synthesis"].members("_modules")]
    settings = network.state.get("_init_kwargs")
    alias_free = isinstance(settings, dict) and "magnitude_ema_beta" in settings
    if alias_free or any(name[0] == "L" and name[1:2].isdigit() for name in layers):
        raise Malformed("it is a StyleGAN3 or a StyleGAN-XL", fix=ONLY_STYLEGAN2)


def _tensors(network: Module, budget: Budget) -> Iterator[tuple[str, FileTensor]]:
    """Yield the tensors by dotted name; a module that holds itself ends at the depth limit."""
    pending = [("", network, 1)]
    while pending:
        prefix, module, depth = pending.pop()
        if depth > budget.limits.module_depth:
            raise over_limit("module_depth", budget.limits.module_depth)
        for kind in ("_parameters", "_buffers"):
            for name, tensor in module.members(kind):
                if not isinstance(tensor, FileTensor):
                    raise Malformed(f"{printable(prefix + name)} is not a tensor")
                yield prefix + name, tensor
        for name, part in module.members("_modules"):
            if not isinstance(part, Module):
                raise Malformed(f"{printable(prefix + name)} is not a module")
            # A module listed in many places costs as much as that many modules.
            budget.take_tensor()
            pending.append((f"{prefix}{name}.", part, depth + 1))


def _kwargs(network: Module) -> dict[str, object]:
    positional = network.state.get("_init_args", ())
    named = network.state.get("_init_kwargs", {})
    if not isinstance(positional, tuple) or not isinstance(named, dict):
        raise Malformed("the constructor arguments of G_ema are not a tuple and a dict")
    if len(positional) > len(_CONSTRUCTOR):
        raise Malformed("G_ema has more positional arguments than the StyleGAN2 constructor")
    given = dict(zip(_CONSTRUCTOR, positional, strict=False)) | named
    sections = {name: given.pop(name) for name in _SECTIONS if name in given}
    kwargs = _settings(given)
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise Malformed(f"{name} of G_ema is not a dict")
        kwargs[name] = _settings(section)
    return kwargs


def _settings(given: Mapping[Any, object]) -> dict[str, object]:
    """Return settings that are safe to print: short names, numbers, short lists of numbers."""
    settings: dict[str, object] = {}
    for name, value in given.items():
        if not isinstance(name, str) or not 0 < len(name) <= 100 or not is_plain(value):
            raise Malformed(f"G_ema has the setting {printable(str(name))}, which is not a number")
        settings[name] = list(value) if isinstance(value, tuple) else value
    return settings


def is_plain(value: object) -> bool:
    """Return whether a setting is safe to print: None, a number, short text, a short list."""
    if isinstance(value, str):
        return len(value) <= 100
    if isinstance(value, list | tuple):
        return len(value) <= 64 and all(_is_number(item) for item in value)
    return value is None or _is_number(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
