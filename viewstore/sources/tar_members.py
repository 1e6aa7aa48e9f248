"""The plain files in a tar that anybody wrote, and where their bytes lie; nothing is unpacked."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from typing import NamedTuple

from viewstore.errors import FormatError
from viewstore.format.tar import BLOCK, padded

_FILES, _FOLDER, _PAX, _LONG_NAME = (b"0", b"\0"), b"5", b"x", b"L"
EXTENSION_BYTES = 64 << 10
_OCTAL = re.compile(rb" *([0-7]+)[\0 ]*")
_PAX_RECORD = re.compile(rb"([0-9]{1,5}) ([^=\n]+)=")
_HARMLESS_PAX = {b"mtime", b"atime", b"ctime", b"uid", b"gid", b"uname", b"gname", b"comment"}
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


class Member(NamedTuple):
    """A file in a tar: its name, cleaned of a leading "./", and where its bytes lie."""

    name: str
    offset: int
    size: int


def tar_members(data: mmap.mmap | bytes) -> Iterator[Member]:
    """Yield the files of a tar in their order.

    Long names come as GNU tar writes them (a member of type "L") or as POSIX does (`path` of a pax
    header).

    Raises:
        FormatError: Links, sparse files, pax headers that say more than names, times and owners,
            compression, names that lead elsewhere, a bad checksum, a cut file, or bytes behind
            the end.
    """
    if data[:6].startswith(_COMPRESSED):
        raise FormatError("tar must not be compressed", fix="unpack it with gzip -d or its like")
    offset = 0
    name: bytes | None = None  # from the extension header before a member
    while offset + BLOCK <= len(data):
        header = data[offset : offset + BLOCK]
        if not any(header):
            if data[offset:].strip(b"\0"):
                raise FormatError(f"tar has bytes behind its end block at offset {offset}")
            return
        size = _checked_size(header, offset)
        begin = offset + BLOCK
        if begin + size > len(data):
            raise FormatError(f"tar is cut short in the member at offset {offset}")
        kind = header[156:157]
        if kind in (_PAX, _LONG_NAME):
            if size > EXTENSION_BYTES:
                raise FormatError(f"tar has an extension header too long at offset {offset}")
            payload = data[begin : begin + size]
            name = payload.rstrip(b"\0") if kind == _LONG_NAME else _pax_path(payload, offset)
        else:
            if kind in _FILES:
                yield Member(_clean(_name(header) if name is None else name, offset), begin, size)
            name = None
        offset = begin + padded(size)
    raise FormatError("tar is cut short: it has no end block")


def _checked_size(header: bytes, offset: int) -> int:
    size, stored = _OCTAL.fullmatch(header[124:136]), _OCTAL.fullmatch(header[148:156])
    if size is None or stored is None:
        raise FormatError(f"tar header at offset {offset} is damaged")
    if sum(header[:148]) + 8 * ord(" ") + sum(header[156:]) != int(stored[1], 8):
        raise FormatError(f"tar header at offset {offset} does not match its checksum")
    kind = header[156:157]
    known = kind in (*_FILES, _FOLDER, _PAX, _LONG_NAME)
    if not known or (kind == _FOLDER and int(size[1], 8)):
        raise FormatError(
            f"tar member at offset {offset} must be a plain file",
            why="links, sparse files and global pax headers are refused",
        )
    return int(size[1], 8)


def _name(header: bytes) -> bytes:
    name = header[:100].split(b"\0")[0]
    # GNU tars have times where POSIX ones have the prefix.
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _clean(name: bytes, offset: int) -> str:
    try:
        text = name.decode().removeprefix("./")
    except UnicodeDecodeError as error:
        raise FormatError(f"tar member name at offset {offset} must be UTF-8") from error
    if not text or text.startswith("/") or ".." in text.split("/") or "\0" in text:
        raise FormatError(f"tar member name must not lead elsewhere, got {text!r}")
    return text


def _pax_path(records: bytes, offset: int) -> bytes | None:
    """Return the `path` of a pax header, None without one. Raises FormatError: it says more."""
    position = 0
    path = None
    while position < len(records):
        record = _PAX_RECORD.match(records, position)
        if record is None or int(record[1]) <= len(record[0]):
            raise FormatError(f"tar has a damaged pax header at offset {offset}")
        end = position + int(record[1])
        if end > len(records) or records[end - 1 : end] != b"\n":
            raise FormatError(f"tar has a damaged pax header at offset {offset}")
        if record[2] == b"path":
            path = records[record.end() : end - 1]
        elif record[2] not in _HARMLESS_PAX:
            raise FormatError(
                f"tar has a pax header with {record[2][:40].decode(errors='replace')!r} "
                f"at offset {offset}",
                why="it may change the size of a member or make it another kind of file",
                fix="write it in ustar format, for example with tar --format=ustar",
            )
        position = end
    return path
