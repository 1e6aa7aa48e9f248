"""Files of named tensors with text about them: safetensors, written so that bytes repeat."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from viewstore.errors import CheckpointError
from viewstore.files.disk import make_directory, read_limited, write_atomic

FILE_BYTES = 2 << 30
HEADER_START = 9  # eight bytes of length, then the brace of the header
_NAMES = {torch.float32: "F32", torch.float16: "F16"}


def weights_digest(about: Mapping[str, object], tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256, in hex, of named weights as float32 and of what is said `about` them."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def is_tensor_file(path: Path) -> bool:
    """Tell whether the file starts as a safetensors file does."""
    with path.open("rb") as file:
        return file.read(HEADER_START)[8:] == b"{"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Replace the file `path` by these float16 or float32 tensors and the text `about` them.

    The same tensors and text give the same bytes; the safetensors library shuffles its header.
    """
    header: dict[str, object] = {"__metadata__": dict(sorted(about.items()))}
    parts = []
    offset = 0
    for name, value in sorted(tensors.items()):
        data = value.detach().cpu().contiguous().numpy().tobytes()
        dtype, end = _NAMES[value.dtype], offset + len(data)
        header[name] = {
            "dtype": dtype,
            "shape": list(value.shape),
            "data_offsets": [offset, end],
        }
        parts.append(data)
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    make_directory(path.absolute().parent)
    write_atomic(path, b"".join([struct.pack("<Q", len(text)), text, *parts]))


def read_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the text of a file whose text says `kind` = 1.

    Raises:
        CheckpointError: whatever is wrong with the file; nothing else leaves.
    """
    try:
        data = read_limited(path, FILE_BYTES)
    except OSError as error:
        _refuse(path, kind, f"it cannot be opened: {error.strerror}")
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
        (length,) = struct.unpack_from("<Q", data)
        about: dict[str, str] = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    except Exception as error:  # a file must not be able to choose what its reader raises
        raise CheckpointError(
            _message(path, kind, f"it is corrupt or not a safetensors file ({error})"),
            where=str(path),
        ) from error
    if about.get(kind) != "1":
        _refuse(path, kind, f"its metadata says {kind} = {about.get(kind, 'nothing')}, wanted 1")
    for name, value in tensors.items():
        if value.dtype not in _NAMES:
            _refuse(path, kind, f"tensor {name} must be float16 or float32, got {value.dtype}")
    return tensors, about


def read_json(about: Mapping[str, str], name: str) -> dict[str, object]:
    """Return the JSON object that is the text `name`. Raises CheckpointError."""
    try:
        value = json.loads(about[name])
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"its metadata has no JSON named {name}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"its metadata {name} must be an object, got {value!r}")
    return value


def contiguous(tensors: Mapping[str, Tensor], *, half: bool) -> dict[str, Tensor]:
    """Return copies of float tensors to be written, rounded to float16 if `half`.

    Raises:
        CheckpointError: a value is too large for float16.
    """
    dtype = torch.float16 if half else torch.float32
    rounded = {name: value.detach().to(dtype) for name, value in tensors.items()}
    for name, value in rounded.items():
        if not bool(np.isfinite(value.cpu().numpy()).all()):
            raise CheckpointError(
                f"tensor {name} holds values that float16 cannot", fix="write it as f32"
            )
    return rounded


def _message(path: Path, kind: str, reason: str) -> str:
    return f"cannot read {path} as a {kind} file: {reason}"


def _refuse(path: Path, kind: str, reason: str) -> NoReturn:
    raise CheckpointError(_message(path, kind, reason), where=str(path), why=reason)
