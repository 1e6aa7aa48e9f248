"""Shards as strict USTAR, and npy headers: what writers pack, and the only bytes readers accept.

The layout is docs/format.md section 2.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import FormatError
from viewstore.format.plan import Plan
from viewstore.format.records import canonical

BLOCK = 512
END = bytes(2 * BLOCK)
NPY_BYTES = 128
MEMBER_BYTES = 16 << 20
SHARD_BYTES = 2 << 30
# Key and extension; that of a joined column has the name of its view set before its own.
MEMBER_NAME = re.compile(r"[0-9A-Za-z_-]{1,64}(\.[a-z0-9_-]{1,63})?(\.[a-z0-9_]{1,31}){1,2}")
NAME_BYTES = 100
MEMBER_DTYPE = np.dtype([("offset", "<u8"), ("size", "<u4"), ("crc32", "<u4")])
_SIZE = re.compile(rb"[0-7]{11}\0")


def padded(size: int) -> int:
    """Return `size` rounded up to whole blocks."""
    return -(-size // BLOCK) * BLOCK


def member_name(row: int, extension: str) -> str:
    """Return the name of a member of `row`, for example "0000000042.views.npy"."""
    return f"{row:010d}.{extension}"


def pack_header(name: str, size: int) -> bytes:
    """Return the 512 header bytes of a member."""
    if not MEMBER_NAME.fullmatch(name):
        raise FormatError(f"member name must match {MEMBER_NAME.pattern}, got {name!r}")
    if len(name) > NAME_BYTES:
        raise FormatError(f"member name must have at most {NAME_BYTES} bytes, got {name!r}")
    header = bytearray(BLOCK)
    header[0 : len(name)] = name.encode("ascii")
    header[100:108] = b"0000444\0"
    header[108:116] = header[116:124] = b"0000000\0"
    header[124:136] = b"%011o\0" % size
    header[136:148] = b"00000000000\0"
    header[148:156] = b" " * 8
    header[156] = ord("0")
    header[257:265] = b"ustar\x0000"
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def pack_sample(view_set: str, row: int, key: str, label: int) -> bytes:
    """Return the canonical json of a row, without padding: its member `json`."""
    return canonical({"index": row, "key": key, "label": label, "view_set": view_set})


def pack_npy_header(descr: str, shape: tuple[int, ...]) -> bytes:
    """Return an npy 1.0 header of 128 bytes, or the next multiple of 64 that holds it.

    Ours, because np.save pads differently between versions.
    """
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape!r}, }}"
    total = max(NPY_BYTES, -(-(len(text) + 11) // 64) * 64)
    length = total - 10
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + f"{text:<{length - 1}}\n".encode()


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return the npy header of an array of this dtype and shape."""
    return pack_npy_header(repr(dtype.descr if dtype.names else dtype.str), shape)


def pack_npy(array: NDArray[Any]) -> bytes:
    """Return `array` as an npy 1.0 file, C order."""
    return npy_header(array.dtype, array.shape) + np.ascontiguousarray(array).tobytes()


def unpack_npy(
    raw: bytes | memoryview, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> NDArray[Any]:
    """Return the array of known dtype and shape in an npy file that `pack_npy` wrote.

    Raises:
        FormatError: The header or the length differs from what the array must have.
    """
    header = npy_header(dtype, shape)
    count = int(np.prod(shape, dtype=np.int64))
    if raw[: len(header)] != header or len(raw) != len(header) + count * dtype.itemsize:
        raise FormatError(f"npy must be {dtype} {shape}, C order, header of {len(header)} bytes")
    return np.frombuffer(raw, dtype, count=count, offset=len(header)).reshape(shape)


@dataclass(frozen=True, kw_only=True)
class Strided:
    """Where the pixels of a raw shard lie: uint8 `shape` of row i at byte offset + i * stride."""

    stride: int
    offset: int
    shape: tuple[int, int, int, int]  # views, height, width, channels


def strided_layout(
    members: Sequence[str], json_bytes: int, shape: tuple[int, int, int, int]
) -> Strided | None:
    """Return the layout of a raw shard with these members, or None for other codecs."""
    if not members or members[-1] != "views.npy":
        return None
    before = (BLOCK + json_bytes) * (len(members) - 1)
    payload = NPY_BYTES + int(np.prod(shape))
    return Strided(
        stride=before + BLOCK + padded(payload), offset=before + BLOCK + NPY_BYTES, shape=shape
    )


class TarWriter:
    """Appends members to a stream; keeps offset, size and CRC of each and the sha256 of it all."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.bytes = 0
        self.sha256 = hashlib.sha256()
        self.members: list[tuple[int, int, int]] = []

    def add(self, name: str, payload: bytes) -> None:
        """Append one member. Raises FormatError: name or size out of limits."""
        if len(payload) > MEMBER_BYTES:
            raise FormatError(f"member {name} must be at most {MEMBER_BYTES} bytes")
        offset = self.bytes + BLOCK
        self._write(pack_header(name, len(payload)))
        self._write(payload)
        self._write(bytes(padded(len(payload)) - len(payload)))
        self.members.append((offset, len(payload), zlib.crc32(payload)))

    def finish(self) -> NDArray[Any]:
        """Write the end and return the members, MEMBER_DTYPE [count]."""
        self._write(END)
        return np.array(self.members, dtype=MEMBER_DTYPE)

    def _write(self, data: bytes) -> None:
        self.stream.write(data)
        self.sha256.update(data)
        self.bytes += len(data)


def parse(data: memoryview | bytes, names: Iterable[str]) -> NDArray[Any]:
    """Return the members of a strict USTAR file, MEMBER_DTYPE [count], CRCs computed.

    Args:
        data: The whole file.
        names: The member names it must have, in order.

    Raises:
        FormatError: Any deviation from the bytes we would have written, with its offset.
    """
    view = memoryview(data)
    if len(view) % BLOCK or len(view) < len(END) or len(view) > SHARD_BYTES:
        raise FormatError(f"tar size must be a multiple of {BLOCK} up to {SHARD_BYTES}")
    offset = 0
    members = []
    for name in names:
        size = _parse_header(view, offset, name)
        payload = view[offset + BLOCK : offset + BLOCK + size]
        end = offset + BLOCK + padded(size)
        if end > len(view) - len(END):
            raise FormatError(f"tar member {name} at offset {offset} runs past the end")
        if any(view[offset + BLOCK + size : end]):
            raise FormatError(f"tar padding after {name} must be zero, offset {offset}")
        members.append((offset + BLOCK, size, zlib.crc32(payload)))
        offset = end
    if view[offset:] != END:
        raise FormatError(f"tar must end in two zero blocks at offset {offset}")
    return np.array(members, dtype=MEMBER_DTYPE)


def _parse_header(view: memoryview, offset: int, name: str) -> int:
    header = bytes(view[offset : offset + BLOCK])
    if len(header) < BLOCK or not _SIZE.fullmatch(header[124:136]):
        raise FormatError(f"tar header of {name} at offset {offset} is damaged")
    size = int(header[124:135], 8)
    if size > MEMBER_BYTES:
        raise FormatError(f"tar member {name} must be at most {MEMBER_BYTES} bytes, got {size}")
    if header != pack_header(name, size):
        raise FormatError(f"tar header at offset {offset} must be that of {name}")
    return size


def member_names(plan: Plan, rows: Iterable[int]) -> list[str]:
    """Return the member names of `rows` in file order."""
    return [member_name(row, extension) for row in rows for extension in plan.members]
