"""Files of tensors with a JSON record: safetensors in, safetensors out, nothing executed.

A file of kind K has the metadata {"viewstore_K": "1", "config": JSON object}.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from viewstore.errors import CheckpointError, FormatError
from viewstore.files.disk import read_limited
from viewstore.format.records import canonical, parse

VERSION = "1"
MAX_BYTES = 8 << 30


@dataclass(frozen=True)
class TensorFile:
    """What a file held; `digest` is the sha256 of its bytes, in hex."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    digest: str


def pack_tensors(kind: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> bytes:
    """Return the bytes of a file; equal tensors and settings give equal bytes."""
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {f"viewstore_{kind}": VERSION, "config": canonical(config).decode()}
    # The library writes metadata in an order of its own, another in each process.
    return _ordered_header(safetensors.torch.save(stored, metadata))


def unpack_tensors(raw: bytes, kind: str) -> TensorFile:
    """Return what is in the bytes of a file. Raises CheckpointError: not one of this kind."""
    try:
        tensors = safetensors.torch.load(raw)
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    except (safetensors.SafetensorError, ValueError) as error:
        raise CheckpointError(f"not a safetensors file: {error}") from error
    metadata = header.get("__metadata__", {})
    version = metadata.get(f"viewstore_{kind}")
    if version is None:
        raise CheckpointError(f"not a viewstore {kind} file: its metadata lacks viewstore_{kind}")
    if version != VERSION:
        raise CheckpointError(
            f"version of a {kind} file must be {VERSION}, got {version!r}",
            code="VS204",
            fix="use the version of viewstore that wrote it",
        )
    try:
        config = parse(metadata.get("config", "").encode())
    except FormatError as error:
        raise CheckpointError(f"settings of the {kind} file: {error}") from error
    return TensorFile(tensors, config, hashlib.sha256(raw).hexdigest())


def read_tensors(path: Path, kind: str) -> TensorFile:
    """Return what is in the file at `path`. Raises CheckpointError naming it."""
    try:
        return unpack_tensors(read_limited(path, MAX_BYTES), kind)
    except OSError as error:
        raise CheckpointError(f"cannot read the {kind} file: {error}", where=str(path)) from error
    except FormatError as error:
        raise CheckpointError(
            str(error), code=error.code, where=str(path), why=error.why, fix=error.fix
        ) from error


def _ordered_header(raw: bytes) -> bytes:
    end = 8 + int.from_bytes(raw[:8], "little")
    header = canonical(json.loads(raw[8:end]))
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + raw[end:]
