"""FFCV `.beton` version 2: header, field descriptors, records. Bytes in, values out.

No file is opened here. Prose twin: docs/ffcv.md. Source of the facts: libffcv/ffcv 1.0.2,
`ffcv/types.py` and `ffcv/fields/`; the code is ours.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from viewstore.errors import ConfigError, FormatError

VERSION = 2
MAX_FIELDS = 64
NAME_BYTES = 16
MAX_SIDE = 65_535
MIN_PAGE_BYTES = 2 << 20
DEFAULT_PAGE_BYTES = 8 << 20
END_PAGE_BYTES = 4 << 30  # page sizes are below it: the header has 32 bits
INDEX_BYTES = 4 << 30  # of the records, and of the allocation table, that a reader takes

_HEADER = struct.Struct("<HHIQQ")  # version, fields, page size, samples, table offset
_DESCRIPTOR = struct.Struct("<B16s1024s")  # type, name, arguments
_ARRAY = struct.Struct("<32QQ")  # shape, its end marked by 0; length of the dtype's JSON
HEADER_BYTES = _HEADER.size
DESCRIPTOR_BYTES = _DESCRIPTOR.size

RGB_DTYPE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
BYTES_DTYPE = np.dtype([("ptr", "<u8"), ("size", "<u8")])
TABLE_DTYPE = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
JPG, RAW = 0, 1  # modes of a picture

_NAME = re.compile(r"[!-~]{1,16}")
_PLAIN_DTYPE = re.compile(r"[<|]([iu][1248]|f[248]|b1)")
UNFINISHED_FIX = "write it again: what wrote it was stopped before the end"


class Kind(IntEnum):
    """What a field holds: `type_id` of its descriptor."""

    FLOAT = 0
    INT = 1
    RGB = 2
    BYTES = 3
    NDARRAY = 4
    JSON = 5
    TENSOR = 6


_RECORD_DTYPES = {
    Kind.FLOAT: np.dtype("<f8"),
    Kind.INT: np.dtype("<i8"),
    Kind.RGB: RGB_DTYPE,
    Kind.BYTES: BYTES_DTYPE,
    Kind.NDARRAY: np.dtype("<u8"),
    Kind.JSON: BYTES_DTYPE,
    Kind.TENSOR: np.dtype("<u8"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The first 24 bytes."""

    fields: int
    page_bytes: int
    num_samples: int
    table_offset: int


@dataclass(frozen=True, slots=True)
class Field:
    """One field of every sample.

    Attributes:
        name: At most 16 printable ASCII characters: ffcv would cut a longer one without a word.
        kind: What it holds.
        dtype, shape: Of NDARRAY and TENSOR; `dtype` as numpy writes it, for example "<f4".
    """

    name: str
    kind: Kind
    dtype: str = ""
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"beton field name must be 1 to {NAME_BYTES} ASCII characters, got {self.name!r}"
            )
        if self.kind not in (Kind.NDARRAY, Kind.TENSOR):
            return
        if not _PLAIN_DTYPE.fullmatch(self.dtype):
            raise ConfigError(f"beton field {self.name} must have a plain dtype, got {self.dtype}")
        if not 1 <= len(self.shape) <= 32 or min(self.shape) < 1:
            raise ConfigError(
                f"beton field {self.name} must have 1 to 32 axes of length 1 or more, "
                f"got {self.shape}"
            )

    @property
    def array_bytes(self) -> int:
        """Size of the array of one sample."""
        size = np.dtype(self.dtype).itemsize
        for extent in self.shape:
            size *= extent
        return size


def record_dtype(fields: Sequence[Field]) -> np.dtype[Any]:
    """Return the record of one sample: `f0`, `f1`, ... in the order of the fields, aligned."""
    return np.dtype([("", _RECORD_DTYPES[field.kind]) for field in fields], align=True)


def first_page(fields: int, records_bytes: int, page_bytes: int) -> int:
    """Return the offset of the first data page."""
    end = HEADER_BYTES + fields * DESCRIPTOR_BYTES + records_bytes
    return -(-end // page_bytes) * page_bytes


def check_page_bytes(page_bytes: int) -> None:
    """Raise FormatError if ffcv could not use pages of this size."""
    is_power = page_bytes & (page_bytes - 1) == 0
    if not is_power or not MIN_PAGE_BYTES <= page_bytes < END_PAGE_BYTES:
        raise FormatError(
            f"beton page size must be a power of two in [2 MiB, 4 GiB), got {page_bytes}"
        )


def pack_header(header: Header) -> bytes:
    """Return the 24 header bytes."""
    return _HEADER.pack(
        VERSION, header.fields, header.page_bytes, header.num_samples, header.table_offset
    )


def unpack_header(raw: bytes) -> Header:
    """Parse a header. Raises FormatError: cut short, another version, never finished."""
    if len(raw) < HEADER_BYTES:
        raise FormatError(f"beton header must be {HEADER_BYTES} bytes, got {len(raw)}")
    version, fields, page_bytes, num_samples, table_offset = _HEADER.unpack_from(raw)
    if not any(raw[:HEADER_BYTES]):  # our own header comes last
        raise FormatError("beton file was never finished", fix=UNFINISHED_FIX)
    if version != VERSION:
        raise FormatError(f"beton version must be {VERSION}, got {version}")
    if not 1 <= fields <= MAX_FIELDS:
        raise FormatError(f"beton must have 1 to {MAX_FIELDS} fields, got {fields}")
    check_page_bytes(page_bytes)
    if table_offset == 0:  # a killed ffcv writer leaves 0
        raise FormatError("beton file was never finished", fix=UNFINISHED_FIX)
    return Header(
        fields=fields, page_bytes=page_bytes, num_samples=num_samples, table_offset=table_offset
    )


def pack_descriptor(field: Field) -> bytes:
    """Return the 1041 bytes that describe a field."""
    arguments = b""
    if field.shape:
        text = json.dumps([["", field.dtype]]).encode()
        shape = (*field.shape, *(0 for _ in range(32 - len(field.shape))))
        arguments = _ARRAY.pack(*shape, len(text)) + text
    return _DESCRIPTOR.pack(field.kind, field.name.encode(), arguments)


def unpack_descriptor(raw: bytes) -> Field:
    """Parse a descriptor. Raises FormatError: a custom or unknown type, or a damaged field."""
    type_id, padded_name, arguments = _DESCRIPTOR.unpack(raw)
    name = padded_name.rstrip(b"\0").decode("ascii", errors="replace")
    if type_id not in Kind.__members__.values():
        raise FormatError(
            f"beton field {name!r} has type {type_id}, which must be 0 to 6",
            why="custom fields (255) are read by the code that wrote them and by nothing else",
        )
    kind = Kind(type_id)
    try:
        if kind in (Kind.NDARRAY, Kind.TENSOR):
            return Field(name, kind, *_unpack_array(name, arguments))
        return Field(name, kind)
    except ConfigError as error:
        raise FormatError(str(error)) from error


def _unpack_array(name: str, arguments: bytes) -> tuple[str, tuple[int, ...]]:
    *shape, length = _ARRAY.unpack_from(arguments)
    while shape and shape[-1] == 0:
        shape.pop()
    text = arguments[_ARRAY.size : _ARRAY.size + length]
    try:
        described = json.loads(text)
    except (ValueError, RecursionError):
        described = None
    match described:
        case [["", str(dtype)]] if length == len(text):
            return dtype, tuple(shape)
    raise FormatError(f"beton field {name!r} must describe one plain dtype, got {text[:80]!r}")


def check_names(fields: Sequence[Field]) -> None:
    """Raise ConfigError if two fields have one name, or there are too many or none."""
    names = [field.name for field in fields]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"beton field names must be distinct, got {twice[0]!r} twice")
    if not 1 <= len(fields) <= MAX_FIELDS:
        raise ConfigError(f"beton must have 1 to {MAX_FIELDS} fields, got {len(fields)}")
