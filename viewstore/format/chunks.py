"""Params columns as bytes: zarr chunks with their checksum, and the pack of a shard.

Shard writers pack, readers of a store unpack.

A chunk file is the C-order array of a shard's rows, padded with fill to the shard size, and its
CRC-32C: the zarr v3 codecs (bytes, crc32c), so any zarr client reads and verifies it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from viewstore.errors import FormatError
from viewstore.format.columns import Column
from viewstore.format.tar import MEMBER_DTYPE, TarWriter, parse

CRC_BYTES = 4
ZARR_NAMES = {
    "u1": "uint8",
    "u2": "uint16",
    "u4": "uint32",
    "i4": "int32",
    "i8": "int64",
    "u8": "uint64",
    "f2": "float16",
    "f4": "float32",
}
ZARR_FILLS = {"nan": "NaN", "inf": "Infinity"}  # what JSON cannot say


def with_checksum(payload: bytes) -> bytes:
    """Return `payload` followed by its CRC-32C, little-endian."""
    return payload + int(google_crc32c.value(payload)).to_bytes(CRC_BYTES, "little")


def without_checksum(raw: bytes | memoryview, what: str) -> memoryview:
    """Return the payload before a CRC-32C. Raises FormatError: it does not match, or is cut."""
    view = memoryview(raw)
    if len(view) < CRC_BYTES:
        raise FormatError(f"{what} must end in {CRC_BYTES} bytes of CRC-32C, got {len(view)} bytes")
    payload, stored = view[:-CRC_BYTES], view[-CRC_BYTES:]
    if google_crc32c.value(bytes(payload)) != int.from_bytes(stored, "little"):
        raise FormatError(f"{what} does not match its CRC-32C")
    return payload


def pack_chunk(column: Column, values: NDArray[Any], shard_rows: int) -> bytes:
    """Return the chunk of a column. `values`: [rows, *column.shape], rows <= shard_rows."""
    if values.dtype != column.numpy_dtype or values.shape[1:] != column.shape:
        raise FormatError(
            f"column {column.name} must be {column.dtype} {column.shape} a row, "
            f"got {values.dtype} {values.shape[1:]}"
        )
    chunk = column.empty(shard_rows)
    chunk[: len(values)] = values
    return with_checksum(chunk.tobytes())


def unpack_chunk(
    column: Column, raw: bytes | memoryview, shard_rows: int, *, checked: bool = False
) -> NDArray[Any]:
    """Return the array of a chunk, [shard_rows, *column.shape]. Raises FormatError.

    `checked` says that its checksum was compared before.
    """
    if len(raw) != shard_rows * column.row_bytes + CRC_BYTES:
        raise FormatError(f"chunk of column {column.name} has {len(raw)} bytes, another length")
    what = f"chunk of column {column.name}"
    payload = memoryview(raw)[:-CRC_BYTES] if checked else without_checksum(raw, what)
    return np.frombuffer(payload, column.numpy_dtype).reshape(shard_rows, *column.shape)


@dataclass(frozen=True, kw_only=True)
class Pack:
    """The bytes of a shard's params pack, and offset, size and sha256 of each column in it."""

    data: bytes
    columns: dict[str, tuple[int, int, str]]


def pack_params(members: NDArray[Any], chunks: Mapping[str, bytes]) -> Pack:
    """Return the pack of a shard: its member index, then its column chunks by name."""
    stream = io.BytesIO()
    writer = TarWriter(stream)
    writer.add("members.chunk", with_checksum(np.ascontiguousarray(members).tobytes()))
    names = sorted(chunks)
    for name in names:
        writer.add(f"{name}.chunk", chunks[name])
    written = writer.finish()[1:]
    columns = {
        name: (int(part["offset"]), int(part["size"]), hashlib.sha256(chunks[name]).hexdigest())
        for name, part in zip(names, written, strict=True)
    }
    return Pack(data=stream.getvalue(), columns=columns)


def unpack_params(
    raw: bytes | memoryview, names: Sequence[str]
) -> tuple[NDArray[Any], dict[str, memoryview]]:
    """Return the member index [count] and the chunk bytes of a pack with columns `names`.

    Raises:
        FormatError: The pack is not the strict tar of these columns, or its index is damaged.
    """
    order = ["members.chunk", *(f"{name}.chunk" for name in sorted(names))]
    parts = parse(raw, order)
    view = memoryview(raw)
    chunks = [view[p["offset"] : int(p["offset"]) + int(p["size"])] for p in parts]
    index = without_checksum(chunks[0], "member index")
    if len(index) % MEMBER_DTYPE.itemsize:
        raise FormatError(
            f"member index must have whole entries of {MEMBER_DTYPE.itemsize} bytes, "
            f"got {len(index)} bytes"
        )
    return np.frombuffer(index, MEMBER_DTYPE), dict(zip(sorted(names), chunks[1:], strict=True))


def chunk_key(column: Column, shard: int) -> str:
    """Return the zarr key of a shard's chunk, for example "c/7/0/0"."""
    return "/".join(["c", str(shard), *("0" for _ in column.shape)])


def zarr_group() -> bytes:
    """Return the zarr.json of the group that holds the columns."""
    return json.dumps({"node_type": "group", "zarr_format": 3}, sort_keys=True).encode()


def zarr_array(column: Column, rows: int, shard_rows: int) -> bytes:
    """Return the zarr.json of a column."""
    chunk_shape = [shard_rows, *column.shape]
    meta = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [rows, *column.shape],
        "data_type": ZARR_NAMES[column.dtype],
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": ZARR_FILLS.get(str(column.fill), column.fill),
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "crc32c"},
        ],
        "attributes": {},
        "storage_transformers": [],
    }
    return json.dumps(meta, sort_keys=True).encode()
