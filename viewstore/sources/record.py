"""sources.json and its columns, which fix the rows of a store and their order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, FormatError
from viewstore.files.local import LOCAL, Files
from viewstore.format.paths import StorePaths
from viewstore.format.plan import check_rows
from viewstore.format.records import (
    LARGE_BYTES,
    MAX_INTEGER,
    SHA256,
    check_between,
    check_match,
    seal,
    unseal,
)
from viewstore.format.tar import pack_npy
from viewstore.sources.braces import brace_list
from viewstore.sources.table import Part, SourceTable

KIND = "viewstore-sources"
NUMBERS = {
    "label": "<i4",
    "part": "<u4",
    "offset": "<u8",
    "size": "<u4",
    "crc32": "<u4",
    "height": "<u4",
    "width": "<u4",
}
RECORD_AGAIN = (
    "run the build of the store again with the --source, --limit and --shard-rows of the first "
    "time: it records the same rows again"
)
NPY_HEADER_BYTES = 128
COLUMN_FORM = (str, int, str)
FORM = {
    "rows": int,
    "shard_rows": int,
    "parts": [(str, str, int | None, str | None)],
    "columns": dict.fromkeys(("key_bytes", "key_offset", "key_order", *NUMBERS), COLUMN_FORM),
    "label_names": [str],
}


def pack_columns(table: SourceTable) -> dict[str, NDArray[Any]]:
    """Return the columns of a source as they are stored."""
    keys = [key.encode() for key in table.keys]
    offsets = np.zeros(len(keys) + 1, np.dtype("<u8"))
    offsets[1:] = np.cumsum([len(key) for key in keys])
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return {
        "key_bytes": np.frombuffer(b"".join(keys), np.uint8),
        "key_offset": offsets,
        "key_order": np.array(order, np.dtype("<u8")),
        **{name: getattr(table, name).astype(dtype) for name, dtype in NUMBERS.items()},
    }


def pack_sources(table: SourceTable, shard_rows: int) -> tuple[bytes, dict[str, bytes]]:
    """Return sources.json, and its column files by name."""
    files = {}
    columns = {}
    for name, values in pack_columns(table).items():
        data = pack_npy(values)
        sha256 = hashlib.sha256(data).hexdigest()
        file = f"{name}-{sha256[:16]}.npy"
        files[file] = data
        columns[name] = [file, len(data), sha256]
    record = {
        "rows": len(table.keys),
        "shard_rows": shard_rows,
        "parts": [[part.uri, part.kind, part.bytes, part.sha256] for part in table.parts],
        "columns": columns,
        "label_names": list(table.label_names),
    }
    if table.spelling not in ("", _plain_spelling(table.parts)):
        record["x_source"] = table.spelling
    return seal(KIND, record), files


def _plain_spelling(parts: Sequence[Part]) -> str:
    """Return what names a source of these parts, unless its spelling is recorded."""
    return brace_list(list(dict.fromkeys(part.uri for part in parts)))


def read_sources(paths: StorePaths, files: Files = LOCAL) -> tuple[SourceTable, int, str]:
    """Return the rows of a store, its shard_rows and its sources_id.

    The rows lie where the newest record says: `sources/located.json`, if a source was moved or
    mended since the store was begun. It is of this machine: remote readers do without.

    Raises:
        FormatError: A file is damaged or missing; it is named.
    """
    first = read_sources_record(paths, files)
    if files.cache is None and paths.sources_located.is_file():
        table = _located_rows(paths, files, first)
    else:
        table = _first_rows(paths, files, first)
    return table, int(first["shard_rows"]), str(first["digest"])


def read_first_sources(paths: StorePaths) -> str:
    """Return the sources_id of a store of this machine, once sources.json and its columns are read.

    Raises:
        FormatError: One of them is damaged or missing; it is named.
    """
    first = read_sources_record(paths)
    _first_rows(paths, LOCAL, first)
    return str(first["digest"])


def _first_rows(paths: StorePaths, files: Files, first: dict[str, Any]) -> SourceTable:
    try:
        return _rows(paths, files, first)
    except FormatError as error:
        raise error.located(files.where(paths.sources_record), fix=_fix(files)) from error


def _located_rows(paths: StorePaths, files: Files, first: dict[str, Any]) -> SourceTable:
    """Return the rows where located.json says that they lie; sources.json says which they are."""
    try:
        newest = files.record(paths.sources_located, LARGE_BYTES, _unpack)
        for key in ("rows", "shard_rows", "label_names"):
            if newest[key] != first[key]:
                raise FormatError(f"{key} must be those of sources.json")
        return _rows(paths, files, newest)
    except FormatError as error:
        _first_rows(paths, files, first)  # raises where a column of both is damaged
        raise FormatError(
            f"located.json: {error}",
            code=error.code,
            where=str(paths.sources_located),
            why=error.why,
            fix="remove this file, and give --source to the next build",
        ) from error


def _rows(paths: StorePaths, files: Files, record: dict[str, Any]) -> SourceTable:
    columns = {name: _read_column(paths, files, record, name) for name in record["columns"]}
    return unpack_columns(record, columns)


def _fix(files: Files) -> str | None:
    """Return what makes a damaged sources.json, or its columns, whole again."""
    return RECORD_AGAIN if files.cache is None else None


def recorded_at(paths: StorePaths) -> int:
    """Return the time in ns at which the rows of a store were last compared with their source."""
    located = paths.sources_located
    return (located if located.is_file() else paths.sources_record).stat().st_mtime_ns


def unpack_columns(record: dict[str, Any], columns: dict[str, NDArray[Any]]) -> SourceTable:
    """Return the rows that sources.json and its columns describe."""
    keys = StoredKeys(columns["key_bytes"], columns["key_offset"])
    parts = tuple(
        Part(uri=uri, kind=kind, bytes=size, sha256=sha256)
        for uri, kind, size, sha256 in record["parts"]
    )
    if columns["part"].max() >= len(parts):
        raise FormatError(f"sources name part {columns['part'].max()}, there are {len(parts)}")
    order = columns["key_order"]
    if order.max() >= len(keys):
        raise FormatError(f"source keys are ordered by row {order.max()}, there are {len(keys)}")
    return SourceTable(
        keys=keys,
        parts=parts,
        label_names=tuple(record["label_names"]),
        spelling=_spelling(record, parts),
        key_order=order,
        **{name: columns[name] for name in NUMBERS},
    )


def _spelling(record: dict[str, Any], parts: Sequence[Part]) -> str:
    spelling = record.get("x_source", _plain_spelling(parts))
    if not isinstance(spelling, str):
        raise FormatError(f"sources must be spelled as text, got {type(spelling).__name__}")
    return spelling


def read_sources_record(paths: StorePaths, files: Files = LOCAL) -> dict[str, Any]:
    """Return the fields of sources.json. Raises FormatError: it is damaged or missing."""
    try:
        return files.record(paths.sources_record, LARGE_BYTES, _unpack)
    except FormatError as error:
        raise error.located(files.where(paths.sources_record), fix=_fix(files)) from error


def column_files(record: dict[str, Any]) -> dict[str, tuple[str, int, str]]:
    """Return the column files that sources.json lists: file name, bytes and sha256 by column.

    Raises:
        FormatError: A file has a name that does not follow from its digest.
    """
    for name, (file, _, sha256) in record["columns"].items():
        if not SHA256.fullmatch(sha256) or file != f"{name}-{sha256[:16]}.npy":
            raise FormatError(f"source column {name} must not be named {file!r}")  # a way out
    return {name: tuple(facts) for name, facts in record["columns"].items()}


def _unpack(raw: bytes) -> dict[str, Any]:
    record = unseal(raw, kind=KIND, form=FORM)
    try:
        check_rows(record["rows"], record["shard_rows"])
    except ConfigError as error:  # no user gave these settings
        raise FormatError(str(error)) from error
    for uri, _, size, sha256 in record["parts"]:
        check_between(size or 0, 0, MAX_INTEGER, f"bytes of part {uri[:80]!r} of the source")
        if sha256 is not None:
            check_match(sha256, SHA256, f"sha256 of part {uri[:80]!r} of the source")
    for name, (_, size, _) in record["columns"].items():
        check_between(size, NPY_HEADER_BYTES, MAX_INTEGER, f"bytes of source column {name}")
    return record


def _read_column(
    paths: StorePaths, files: Files, record: dict[str, Any], name: str
) -> NDArray[Any]:
    file, size, sha256 = column_files(record)[name]
    path = paths.sources / file
    dtype, count = _stored_form(name, record["rows"], size)
    try:
        return files.array(path, np.dtype(dtype), (count,), size, sha256)
    except FormatError as error:
        raise FormatError(f"source column {name}: {error}", where=files.where(path)) from error


def _stored_form(name: str, rows: int, size: int) -> tuple[str, int]:
    if name == "key_bytes":
        return "|u1", size - NPY_HEADER_BYTES
    if name in ("key_offset", "key_order"):
        return "<u8", rows + (name == "key_offset")
    return NUMBERS[name], rows


class StoredKeys(Sequence[str]):
    """Texts that lie one after another in an array of bytes, decoded on access."""

    def __init__(self, data: NDArray[np.uint8], offsets: NDArray[np.uint64]) -> None:
        """Take text i from data[offsets[i] : offsets[i + 1]].

        Raises:
            FormatError: The texts do not fill `data` one after another, or are no UTF-8.
        """
        self._data, self._offsets = data, offsets
        if offsets[0] != 0 or offsets[-1] != len(data) or (offsets[1:] < offsets[:-1]).any():
            raise FormatError("source keys must lie one after another and fill their column")
        for begin in range(0, len(self), _TEXTS_AT_ONCE):
            self._check_text(begin, min(len(self), begin + _TEXTS_AT_ONCE))

    def _check_text(self, begin: int, end: int) -> None:
        offsets = self._offsets[begin : end + 1].astype(np.int64)
        joined = self._data[offsets[0] : offsets[-1]]
        starts = offsets[:-1][offsets[:-1] < offsets[1:]] - offsets[0]
        try:
            joined.tobytes().decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"source keys must be UTF-8: {error}") from error
        if (joined[starts] & 0xC0 == 0x80).any():
            raise FormatError("source keys must be UTF-8: one begins within a character")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> tuple[str, ...]: ...
    def __getitem__(self, row: int | slice) -> str | tuple[str, ...]:
        if isinstance(row, slice):
            return tuple(self._text(each) for each in range(len(self))[row])
        return self._text(range(len(self))[row])

    def _text(self, row: int) -> str:
        return self._data[int(self._offsets[row]) : int(self._offsets[row + 1])].tobytes().decode()


_TEXTS_AT_ONCE = 1 << 16
