"""The listing of an imported view set: where each view lies, and its params (docs/import.md).

A file of two arrays in npy form, one behind the other: the records, a structured array [N, V]
that `numpy.load` reads, and the names of the parts as UTF-8, each ended by a NUL.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import FormatError
from viewstore.format.columns import Column
from viewstore.format.plan import MAX_SIDE, MAX_VIEWS
from viewstore.format.tar import npy_header, pack_npy, unpack_npy

ROLE = "listing"  # of its file in the weights of a plan
NAME = re.compile(r"listing-([0-9a-f]{16})\.npy")
# Where the file of a view lies, and the size of its picture.
PLACE = np.dtype(
    [
        ("part", "<u4"),
        ("offset", "<u8"),
        ("size", "<u4"),
        ("crc32", "<u4"),
        ("height", "<u2"),
        ("width", "<u2"),
    ]
)
NOWHERE = 2**32 - 1  # the part of a view that has no file
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': (\[[^]]{1,4000}\]), 'fortran_order': False, "
    rb"'shape': \((\d{1,10}), (\d{1,3})\), \} *\n",
    re.DOTALL,
)
_FIELD = re.compile(r"\('([a-z][a-z0-9_]{0,30})', '[<|]([uif][1248])'(?:, \((\d{1,3}),\))?\)")


@dataclass(frozen=True)
class Listing:
    """Where the views of a view set lie.

    Attributes:
        records: [N, V], the fields of PLACE, then a field for each column of params.
        names: Of the parts: files below a folder, or the one tar.
    """

    records: NDArray[Any]
    names: tuple[str, ...]

    @classmethod
    def of(
        cls, places: NDArray[Any], names: Sequence[str], params: Mapping[str, NDArray[Any]]
    ) -> Listing:
        """Return the listing of `places` (PLACE [N, V]) with columns of params [N, V, ...]."""
        fields: list[Any] = list(PLACE.descr)
        fields += [
            (name, each.dtype.str.replace("|", "<"), *([each.shape[2:]] if each.ndim > 2 else []))
            for name, each in params.items()
        ]
        records = np.zeros(places.shape, fields)
        for name in PLACE.names or ():
            records[name] = places[name]
        for name, each in params.items():
            records[name] = each
        return cls(records, tuple(names))

    @property
    def views(self) -> int:
        """Views of a sample."""
        return int(self.records.shape[1])

    @property
    def there(self) -> NDArray[np.bool_]:
        """Which views have a file, [N, V]."""
        return np.asarray(self.records["part"] != NOWHERE)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of params, by name."""
        found = []
        for name in (self.records.dtype.names or ())[len(PLACE.descr) :]:
            kind = self.records.dtype[name]
            shape = (self.views, *kind.shape)
            found.append(Column(name=name, dtype=kind.base.str[1:], shape=shape))
        return tuple(sorted(found, key=lambda column: column.name))

    @cached_property
    def file(self) -> bytes:
        """The bytes of its file."""
        names = b"".join(name.encode() + b"\0" for name in self.names)
        return pack_npy(self.records) + pack_npy(np.frombuffer(names, np.uint8))

    @property
    def file_name(self) -> str:
        """The name of its file, after its content."""
        return f"listing-{hashlib.sha256(self.file).hexdigest()[:16]}.npy"

    @classmethod
    def unpack(cls, raw: bytes, name: str) -> Listing:
        """Return the listing in a file of this name.

        Raises:
            FormatError: Its sha256 is another one, or it is no listing: another form, a name that
                leads out of its folder, a view that lies in no part.
        """
        named = NAME.fullmatch(name)
        if named is None or hashlib.sha256(raw).hexdigest()[:16] != named[1]:
            raise FormatError(f"{name} does not match the sha256 in its name", code="VS203")
        header = _HEADER.match(raw)
        dtype = None if header is None else _dtype(header[1].decode("latin-1"))
        if header is None or dtype is None:
            raise FormatError(f"{name} is no listing: its header has another form")
        shape = int(header[2]), int(header[3])
        size = len(npy_header(dtype, shape)) + shape[0] * shape[1] * dtype.itemsize
        records = unpack_npy(raw[:size], dtype, shape)
        names = _names(raw[size:])
        _check(records, names)
        return cls(records, names)


def _dtype(descr: str) -> np.dtype[Any] | None:
    """Return the dtype that a header names; None if it is none of a listing."""
    fields: list[Any] = []
    for found in _FIELD.finditer(descr):
        name, kind, extent = found.groups()
        fields.append((name, f"<{kind}", *([(int(extent),)] if extent else [])))
    names = [field[0] for field in fields]
    if len(set(names)) != len(names):
        return None
    dtype = np.dtype(fields)
    if tuple(dtype.descr[: len(PLACE.descr)]) != tuple(PLACE.descr):
        return None
    return dtype if repr(dtype.descr) == descr else None


def _names(raw: bytes) -> tuple[str, ...]:
    size = max(len(raw) - len(npy_header(np.dtype("u1"), (len(raw),))), 0)
    text = unpack_npy(raw, np.dtype("u1"), (size,)).tobytes()
    try:
        *names, end = text.decode().split("\0")
    except UnicodeDecodeError as error:
        raise FormatError("a listing names its parts in UTF-8") from error
    if end:
        raise FormatError("the last name of a listing is cut short")
    for name in names:
        check_below(name)
    return tuple(names)


def _check(records: NDArray[Any], names: Sequence[str]) -> None:
    """Raise FormatError unless each view lies in a part, or nowhere."""
    if not 1 <= records.shape[1] <= MAX_VIEWS:
        raise FormatError(f"a listing has 1 to {MAX_VIEWS} views, got {records.shape[1]}")
    there = records["part"] != NOWHERE
    if (records["part"][there] >= len(names)).any():
        raise FormatError(f"a listing names {len(names)} parts, and a view lies in none of them")
    for name in ("height", "width"):
        sides = records[name][there]
        if ((sides < 1) | (sides > MAX_SIDE)).any():
            raise FormatError(f"a listing has views of 1 to {MAX_SIDE} px a side")


def check_below(name: str) -> None:
    """Raise FormatError if a name leads out of the folder in which it is looked up."""
    if not name or name.startswith("/") or ".." in name.split("/") or "\0" in name:
        raise FormatError(f"name {name!r} leads out of its folder")
