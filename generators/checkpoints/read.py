"""Reads files of StyleGAN2 networks from elsewhere without executing anything in them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from viewstore.errors import CheckpointError
from viewstore.files.disk import read_limited
from viewstore.generators.checkpoints.ada import EXPECTED as ADA
from viewstore.generators.checkpoints.ada import read_ada_pickle
from viewstore.generators.checkpoints.network import W_AVG, FileNetwork, copy_out
from viewstore.generators.checkpoints.rosinality import EXPECTED as ROSINALITY
from viewstore.generators.checkpoints.rosinality import read_rosinality
from viewstore.generators.checkpoints.scan import Budget, Limits, Malformed, over_limit
from viewstore.generators.checkpoints.tensorflow import EXPECTED as TENSORFLOW
from viewstore.generators.checkpoints.tensorflow import is_tensorflow, read_tensorflow
from viewstore.generators.checkpoints.torch_files import LEGACY_START, ZIP_START
from viewstore.generators.checkpoints.torch_tensors import Array

Family = Literal["stylegan2-ada-pytorch", "stylegan2-tensorflow", "rosinality"]

LICENCE_NOTES: dict[Family, str] = {
    "stylegan2-ada-pytorch": (
        "networks trained or published with NVlabs/stylegan2-ada-pytorch are under the NVIDIA "
        "Source Code License: non-commercial use only, unless their author says otherwise"
    ),
    "stylegan2-tensorflow": (
        "networks trained or published with NVlabs/stylegan2 are under the NVIDIA Source Code "
        "License: non-commercial use only, unless their author says otherwise"
    ),
    "rosinality": (
        "rosinality/stylegan2-pytorch is under the MIT licence, its custom operators under "
        "NVIDIA's; the weights are under the terms of whoever trained them"
    ),
}
_NETWORKS = (
    "expected a network-snapshot-*.pkl of stylegan2-ada-pytorch, a .pt of rosinality's "
    "stylegan2-pytorch, or a file that viewstore gan wrote"
)
# What reads the files of a family, and the hint for one that is not as it should be.
_READERS: dict[Family, tuple[Callable[[bytes, Budget], FileNetwork], str]] = {
    "stylegan2-ada-pytorch": (read_ada_pickle, ADA),
    "stylegan2-tensorflow": (read_tensorflow, TENSORFLOW),
    "rosinality": (read_rosinality, ROSINALITY),
}
# What people open by mistake, by its first bytes, and what they need instead.
_STRANGERS = {
    b"version https://git-lfs": (
        "a Git LFS pointer, not the file itself",
        "fetch the file itself: git lfs pull",
    ),
    b"<": ("an HTML or XML page", "download the file itself, not the page about it"),
    b"\x1f\x8b": ("a gzip file", "unpack it first"),
    b"\x89HDF": ("an HDF5 file", _NETWORKS),
    b"\x93NUMPY": ("a .npy file", _NETWORKS),
}
# Drawn once per file and stored, because an average drawn anew would move every view.
_AVERAGE_CODES = 4096
_CODES_PER_SEED = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkTensors:
    """A generator's tensors, ready for `StyleGAN2.from_tensors`, and where they come from.

    Attributes:
        tensors: float32, by the canonical names of docs/gan.md; owned by the caller.
        kwargs: Constructor arguments, defaults included.
        source_sha256: Of the whole file.
        module_src_sha256: Of the source code embedded in the file, which never ran.
        licence_note: One line for the user.
        notes: Further lines for the user: what the file lacked.
    """

    tensors: dict[str, Array]
    kwargs: dict[str, Any]
    family: Family
    source_sha256: str
    module_src_sha256: str | None
    licence_note: str
    notes: tuple[str, ...]


def read_checkpoint(path: Path, *, limits: Limits | None = None) -> NetworkTensors:
    """Return the averaged generator of a pickle of StyleGAN2 or a rosinality checkpoint.

    The format is recognised by content. Nothing in the file is executed or imported, and memory
    stays within a small multiple of its size.

    Raises:
        CheckpointError: whatever is wrong with the file; nothing else leaves.
    """
    try:
        return _read(path, Limits() if limits is None else limits)
    except Malformed as error:
        raise _refusal(path, str(error), error.fix or _NETWORKS) from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise _refusal(path, f"it cannot be opened: {reason}", "check the path") from error
    except MemoryError as error:
        raise _refusal(path, "there is not enough memory for it", "free some memory") from error
    except Exception as error:  # a file must not be able to choose what its reader raises
        raise _refusal(path, f"it is corrupt ({type(error).__name__})", _NETWORKS) from error


def _refusal(path: Path, reason: str, fix: str) -> CheckpointError:
    message = f"cannot read {path} as a StyleGAN2 network: {reason}."
    return CheckpointError(
        f"{message} Nothing from the file was executed.", where=str(path), why=reason, fix=fix
    )


def _read(path: Path, limits: Limits) -> NetworkTensors:
    data = _bytes(path, limits)
    budget = Budget(limits, len(data))
    family = _family(data)
    read, expected = _READERS[family]
    try:
        found = read(data, budget)
        tensors, kwargs = copy_out(found, budget)
    except Malformed as error:
        raise Malformed(str(error), fix=error.fix or expected) from error
    notes = found.notes
    if W_AVG not in tensors:
        tensors[W_AVG] = _average_code(tensors, kwargs)
        notes += (f"the file has no latent_avg: the mean of {_AVERAGE_CODES} keyed codes is used",)
    return NetworkTensors(
        tensors=tensors,
        kwargs=kwargs,
        family=family,
        source_sha256=hashlib.sha256(data).hexdigest(),
        module_src_sha256=found.module_src_sha256,
        licence_note=LICENCE_NOTES[family],
        notes=notes,
    )


def _family(data: bytes) -> Family:
    """Return whose file it is by its first bytes. Raises Malformed: it is nobody's."""
    if data.startswith((ZIP_START, LEGACY_START)):
        return "rosinality"
    if data.startswith(b"\x80"):
        return "stylegan2-tensorflow" if is_tensorflow(data) else "stylegan2-ada-pytorch"
    what, fix = _stranger(data)
    raise Malformed(f"it is {what}", fix=fix)


def _bytes(path: Path, limits: Limits) -> bytes:
    if path.exists() and not path.is_file():  # a pipe or a device may never end
        raise Malformed("it is not a regular file", fix=_NETWORKS)
    size = path.stat().st_size
    if size > limits.file_bytes:
        raise over_limit("file_bytes", limits.file_bytes)
    return read_limited(path, size)  # it allocates what it is allowed to read


def _stranger(data: bytes) -> tuple[str, str]:
    """Say what a file is that is no pickle of protocol 2 or newer and no torch file, and a hint."""
    if not data:
        return "an empty file", _NETWORKS
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data):
        return "a safetensors file that viewstore did not write", _NETWORKS
    for start, found in _STRANGERS.items():
        if data.startswith(start):
            return found
    return "neither a torch file nor a pickle of protocol 2 or newer", _NETWORKS


def _average_code(tensors: dict[str, Array], kwargs: dict[str, Any]) -> Array:
    """Return the mean of keyed codes, in portions so that the memory does not grow with them."""
    from viewstore.generators.stylegan2.network import StyleGAN2

    width = (kwargs["w_dim"],)
    network = StyleGAN2.from_tensors(tensors | {W_AVG: np.zeros(width, np.float32)}, kwargs)
    total = np.zeros(width)
    for seed in range(_AVERAGE_CODES // _CODES_PER_SEED):
        codes = network.sample(_CODES_PER_SEED, seed)[:, 0]
        total += codes.double().sum(0).numpy()
    return (total / _AVERAGE_CODES).astype(np.float32)
