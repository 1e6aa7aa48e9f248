"""Reads what `torch.save` writes, without torch: the zip container and the legacy stream.

A legacy stream is five pickles (magic, version, system, value, storage keys) and then, for each
key, a 64-bit count and raw little-endian numbers. Each storage inside a network pickle is one too.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable

from viewstore.generators.checkpoints.machine import Global, Table, load
from viewstore.generators.checkpoints.scan import Budget, Malformed, over_limit
from viewstore.generators.checkpoints.torch_tensors import Storage, storage_code, storage_table

LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
ZIP_START = b"PK\x03\x04"
_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
# Longest that torch writes is under 300 bytes; a storage may be listed many times.
_STORAGE_HEADER_BYTES = 4096

Read = Callable[[str], bytes | memoryview]


class Storages:
    """The storages that a pickle declares by persistent id; `read` finds their bytes by key."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self.by_key: dict[str, Storage] = {}

    def declare(self, identity: object) -> Storage:
        """Return the storage of a persistent id: a pickle may name the same one many times."""
        match identity:
            case ("storage", Global() as kind, str() as key, str(), int() as numel, *views):
                if len(views) > 1 or any(view is not None for view in views):
                    raise Malformed("a storage is a view of another, which is not supported")
                return self._same(key, Storage(storage_code(kind), numel, lambda: self._read(key)))
        raise Malformed("a persistent id does not describe a storage")

    def _same(self, key: str, storage: Storage) -> Storage:
        known = self.by_key.setdefault(key, storage)
        if (known.code, known.numel) != (storage.code, storage.numel) or storage.numel < 0:
            raise Malformed("a storage is declared twice, or with a negative length")
        return known


def read_legacy(data: bytes, table: Table, budget: Budget) -> object:
    """Return the value of a legacy stream, with tensors left in `data`."""
    return _read_stream(data, io.BytesIO(data), table, budget)


def read_storage(data: bytes, budget: Budget) -> Storage:
    """Return the storage of the legacy stream that a network pickle holds for it."""
    header = io.BytesIO(data[:_STORAGE_HEADER_BYTES])
    value = _read_stream(data, header, storage_table(), budget)
    if not isinstance(value, Storage):
        raise Malformed("a nested stream does not hold a storage")
    return value


def _read_stream(data: bytes, stream: io.BytesIO, table: Table, budget: Budget) -> object:
    numbers: dict[str, memoryview] = {}
    storages = Storages(lambda key: numbers[key])
    if load(stream, {}, budget) != _MAGIC or load(stream, {}, budget) != _VERSION:
        raise Malformed("it is not a torch file of version 1001")
    match load(stream, {}, budget):
        case {"little_endian": True}:
            pass
        case _:
            raise Malformed("its numbers are not little-endian")
    value = load(stream, table, budget, persistent=storages.declare)
    keys = load(stream, {}, budget)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Malformed("the keys of the storages are not a list of text")
    if len(keys) != len(storages.by_key) or set(keys) != storages.by_key.keys():
        raise Malformed("the storages in the file are not those that its tensors use")
    position = stream.tell()
    for key in keys:
        numbers[key], position = _take_numbers(data, position, storages.by_key[key])
    if position != len(data):
        raise Malformed(f"{len(data) - position} bytes follow its last storage")
    return value


def _take_numbers(data: bytes, position: int, storage: Storage) -> tuple[memoryview, int]:
    start = position + 8
    end = start + storage.numel * storage.itemsize
    if end > len(data):
        raise Malformed(
            f"a storage of {storage.numel} numbers at byte {position} is cut short at {len(data)}"
        )
    (numel,) = struct.unpack_from("<q", data, position)
    if numel != storage.numel:
        raise Malformed(f"a storage of {storage.numel} numbers at byte {position} says {numel}")
    return memoryview(data)[start:end], end


def read_zip(data: bytes, table: Table, budget: Budget) -> object:
    """Return the value of a zip container, with tensors left in `data`."""
    # zipfile makes an object of every entry, some ten times as large as the entry itself.
    if data.count(b"PK\x01\x02") > budget.limits.tensors:
        raise over_limit("tensors", budget.limits.tensors)
    archive = _open_zip(data)
    members = _members(archive, len(data))
    storages = Storages(lambda key: archive.read(members[f"data/{key}"]))
    if "data.pkl" not in members:
        raise Malformed("the zip file holds no data.pkl, so torch.save did not write it")
    if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
        raise Malformed("its numbers are not little-endian")
    pickled = archive.read(members["data.pkl"])
    stream = io.BytesIO(pickled)
    value = load(stream, table, budget, persistent=storages.declare)
    if stream.tell() != len(pickled):
        raise Malformed("bytes follow the end of its pickle")
    for key, storage in storages.by_key.items():
        size = members[f"data/{key}"].file_size if f"data/{key}" in members else 0
        if size != storage.numel * storage.itemsize:
            raise Malformed(f"a storage of {storage.numel} numbers has {size} bytes in the file")
    return value


def _open_zip(data: bytes) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BytesIO(data))
    except Exception as error:  # zipfile raises whatever its fields lead it to
        raise Malformed(f"the zip file is cut short or corrupt: {error}") from error


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Return the members by name within the one folder. Raises Malformed: one could expand."""
    infos = archive.infolist()
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
        raise Malformed("a member of the zip file is compressed, which torch.save never does")
    if sum(info.file_size for info in infos) > size:
        raise Malformed("the members of the zip file are together longer than the file")
    members = {info.filename.partition("/")[2]: info for info in infos}
    if len(members) != len(infos):
        raise Malformed("two members of the zip file have the same name")
    return members
