"""Files of named tensors with text about them: safetensors, written so that bytes repeat.

Generators, inverters and states of GAN training are float tensors with several texts
(`write_tensors`, `read_tensors`); encoders and checkpoints are tensors with one JSON object
(`write_with_config`, `read_with_config`). Reading executes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
import torch
from torch import Tensor

from viewstore.errors import CheckpointError, ConfigError, FormatError
from viewstore.files.disk import make_directory, read_limited, write_atomic
from viewstore.format.records import canonical, parse

MAX_BYTES = 8 << 30
MAX_HEADER_BYTES = 100 << 20
VERSION = "1"
PREFIX = "viewstore_"  # of the kind of a file in its metadata
LENGTH_BYTES = 8  # of the little-endian length that the JSON header follows
# The data of a file lie in this order of types, then by name, as the safetensors library writes.
DTYPES = {torch.int64: "I64", torch.float32: "F32", torch.float16: "F16", torch.uint8: "U8"}
FLOATS = (torch.float16, torch.float32)


@dataclass(frozen=True)
class ConfiguredTensors:
    """The content of a file of `write_with_config`; `digest` is the sha256 of its bytes, in hex."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    digest: str


def weights_digest(about: Mapping[str, object], tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256, in hex, of named weights as float32 and of what is said `about` them."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def is_tensor_file(path: Path) -> bool:
    """Return whether the file starts as a safetensors file does. Raises OSError."""
    with path.open("rb") as file:
        return file.read(LENGTH_BYTES + 1)[LENGTH_BYTES:] == b"{"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Replace the file `path` by tensors of DTYPES and the texts `about` them, by name.

    Equal tensors and texts give equal bytes. A crash leaves the old file or the new one.
    """
    header, data = _layout(tensors, about)
    _write(path, json.dumps(header, separators=(",", ":")).encode(), data)


def write_with_config(
    path: Path, kind: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any]
) -> None:
    """Replace the file `path` by tensors of DTYPES and a JSON object, as a file of `kind`.

    Its metadata are {"viewstore_KIND": "1", "config": JSON}. Equal tensors and values give equal
    bytes. A crash leaves the old file or the new one.
    """
    about = {f"{PREFIX}{kind}": VERSION, "config": canonical(config).decode()}
    header, data = _layout(tensors, about)
    # Sorted down to the fields of an entry: the digests of encoders are of these bytes.
    _write(path, canonical(header), data)


def read_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors, float16 or float32, and the texts of a file whose text `kind` is "1".

    Raises:
        CheckpointError: Whatever is wrong with the file; nothing else leaves.
    """
    try:
        tensors, about = _unpack(read_limited(path, MAX_BYTES))
    except OSError as error:
        _refuse(path, kind, f"it cannot be opened: {error.strerror}")
    except CheckpointError as error:
        reason = f"it is corrupt or not a safetensors file ({error.__cause__})"
        raise CheckpointError(_message(path, kind, reason), where=str(path)) from error
    except FormatError as error:
        _refuse(path, kind, str(error))
    if about.get(kind) != VERSION:
        _refuse(path, kind, f"its metadata says {kind} = {about.get(kind, 'nothing')}, wanted 1")
    for name, value in tensors.items():
        if value.dtype not in FLOATS:
            _refuse(path, kind, f"tensor {name} must be float16 or float32, got {value.dtype}")
    return tensors, about


def read_with_config(path: Path, kind: str) -> ConfiguredTensors:
    """Return the content of a file that `write_with_config` wrote as `kind`.

    Raises:
        CheckpointError: The file cannot be read, or is not one of this kind.
    """
    try:
        data = read_limited(path, MAX_BYTES)
        tensors, about = _unpack(data)
        config = _config(about, kind)
    except OSError as error:
        raise CheckpointError(f"cannot read the {kind} file: {error}", where=str(path)) from error
    except FormatError as error:
        raise CheckpointError(
            str(error), code=error.code, where=str(path), why=error.why, fix=error.fix
        ) from error
    return ConfiguredTensors(tensors, config, hashlib.sha256(data).hexdigest())


def kind_of(path: Path) -> str | None:
    """Return the kind of a file that `write_with_config` wrote; None of any other file.

    Raises:
        CheckpointError: It cannot be opened.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            header = file.read(min(length, MAX_HEADER_BYTES))
    except OSError as error:
        raise CheckpointError(f"cannot read the file: {error}", where=str(path)) from error
    try:
        about: dict[str, object] = json.loads(header)["__metadata__"]
        return next(key.removeprefix(PREFIX) for key in about if key.startswith(PREFIX))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, StopIteration):
        return None


def read_json(about: Mapping[str, str], name: str) -> dict[str, object]:
    """Return the JSON object that is the text `name`. Raises CheckpointError."""
    try:
        value = json.loads(about[name])
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"its metadata has no JSON named {name}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"its metadata {name} must be an object, got {value!r}")
    return value


def check_weights(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise ConfigError unless `found` has the names and shapes of a network, of finite floats."""
    if differing := sorted(set(expected) ^ set(found)):
        raise ConfigError(f"weights must be those of the network, they differ in {differing[0]}")
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            want, got = list(expected[name].shape), list(tensor.shape)
            raise ConfigError(f"weight {name} must have shape {want}, got {got}")
        if tensor.dtype not in FLOATS:
            raise ConfigError(f"weight {name} must be float16 or float32, got {tensor.dtype}")
        if not tensor.isfinite().all():
            raise ConfigError(f"weight {name} must be finite")


def as_stored(tensors: Mapping[str, Tensor], *, half: bool) -> dict[str, Tensor]:
    """Return float tensors as they will be stored: rounded to float16 if `half`, else float32.

    Raises:
        CheckpointError: A value is not finite, or too large for float16.
    """
    dtype = torch.float16 if half else torch.float32
    rounded = {name: value.detach().to(dtype) for name, value in tensors.items()}
    for name, value in rounded.items():
        if not bool(value.isfinite().all()):
            raise CheckpointError(
                f"tensor {name} holds values that float16 cannot", fix="write it as f32"
            )
    return rounded


def _layout(
    tensors: Mapping[str, Tensor], about: Mapping[str, str]
) -> tuple[dict[str, object], list[bytes]]:
    """Return the header of a file and the data that follow it, in their order."""
    entries: dict[str, object] = {}
    data = []
    offset = 0
    order = {dtype: number for number, dtype in enumerate(DTYPES)}
    for name, value in sorted(tensors.items(), key=lambda item: (order[item[1].dtype], item[0])):
        data.append(value.detach().cpu().contiguous().numpy().tobytes())
        end = offset + len(data[-1])
        entries[name] = {
            "dtype": DTYPES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    return {"__metadata__": dict(sorted(about.items())), **dict(sorted(entries.items()))}, data


def _write(path: Path, header: bytes, data: list[bytes]) -> None:
    header += b" " * (-len(header) % 8)
    make_directory(path.absolute().parent)
    write_atomic(path, b"".join([len(header).to_bytes(LENGTH_BYTES, "little"), header, *data]))


def _unpack(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the texts in the bytes of a file. Raises CheckpointError."""
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
        end = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
        about: dict[str, str] = json.loads(data[LENGTH_BYTES:end]).get("__metadata__") or {}
    except Exception as error:  # a file must not be able to choose what its reader raises
        raise CheckpointError(f"not a safetensors file: {error}") from error
    return tensors, about


def _config(about: Mapping[str, str], kind: str) -> dict[str, Any]:
    """Return the JSON object of a file of `kind`. Raises CheckpointError."""
    version = about.get(f"{PREFIX}{kind}")
    if version is None:
        raise CheckpointError(f"not a viewstore {kind} file: its metadata lacks viewstore_{kind}")
    if version != VERSION:
        raise CheckpointError(
            f"version of a {kind} file must be {VERSION}, got {version!r}",
            code="VS204",
            fix="use the version of viewstore that wrote it",
        )
    try:
        return parse(about.get("config", "").encode())
    except FormatError as error:
        raise CheckpointError(f"settings of the {kind} file: {error}") from error


def _message(path: Path, kind: str, reason: str) -> str:
    return f"cannot read {path} as a {kind} file: {reason}"


def _refuse(path: Path, kind: str, reason: str) -> NoReturn:
    raise CheckpointError(_message(path, kind, reason), where=str(path), why=reason)
