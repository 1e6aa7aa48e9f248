"""Reading somebody else's WebDataset tar: its members, and nothing that is not a plain file.

Pure: bytes in, places out. More is allowed than in our own shards (docs/format.md): other modes
and times, 10 KiB blocking, the prefix field, folders, and the pax headers in which stock
webdataset writes fractions of a second. Whatever could give a member another name, size or
content than its header says is refused.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from typing import NamedTuple

from viewstore.errors import FormatError
from viewstore.tar import BLOCK, padded

FILES, FOLDER, PAX = (b"0", b"\0"), b"5", b"x"
PAX_BYTES = 64 << 10
_OCTAL = re.compile(rb" *([0-7]+)[\0 ]*")
_PAX_RECORD = re.compile(rb"([0-9]{1,5}) ([^=\n]+)=")
_HARMLESS_PAX = {b"mtime", b"atime", b"ctime"}
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


class Member(NamedTuple):
    """A file in a tar: sample key, what follows its first dot, and where its bytes lie."""

    key: str
    suffix: str
    offset: int
    size: int


def tar_members(data: mmap.mmap | bytes) -> Iterator[Member]:
    """Yield the files of a tar in their order, hidden ones left out.

    Raises:
        FormatError: Links, GNU headers, pax headers that say more than times, compression,
            names that lead elsewhere, a bad checksum, a cut file, or bytes behind the end.
    """
    if data[:6].startswith(_COMPRESSED):
        raise FormatError("tar must not be compressed", fix="unpack it with gzip -d or its like")
    offset = 0
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
        if header[156:157] in FILES:
            folder, slash, base = _name(header, offset).rpartition("/")
            stem, _, suffix = base.partition(".")  # the first dot, as webdataset cuts it
            if stem:
                yield Member(f"{folder}{slash}{stem}", suffix.lower(), begin, size)
        elif header[156:157] == PAX:
            _check_pax(data[begin : begin + min(size, PAX_BYTES + 1)], offset)
        offset = begin + padded(size)
    raise FormatError("tar is cut short: it has no end block")


def _checked_size(header: bytes, offset: int) -> int:
    size, stored = _OCTAL.fullmatch(header[124:136]), _OCTAL.fullmatch(header[148:156])
    if size is None or stored is None:
        raise FormatError(f"tar header at offset {offset} is damaged")
    if sum(header[:148]) + 8 * ord(" ") + sum(header[156:]) != int(stored[1], 8):
        raise FormatError(f"tar header at offset {offset} does not match its checksum")
    kind = header[156:157]
    if kind not in (*FILES, FOLDER, PAX) or (kind == FOLDER and int(size[1], 8)):
        raise FormatError(
            f"tar member at offset {offset} must be a plain file",
            why="links, GNU headers and global pax headers are refused",
        )
    return int(size[1], 8)


def _name(header: bytes, offset: int) -> str:
    name = header[:100].split(b"\0")[0]
    # GNU tars have times where POSIX ones have the prefix.
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    try:
        text = (prefix + b"/" + name if prefix else name).decode().removeprefix("./")
    except UnicodeDecodeError as error:
        raise FormatError(f"tar member name at offset {offset} must be UTF-8") from error
    if not text or text.startswith("/") or ".." in text.split("/"):
        raise FormatError(f"tar member name must not lead elsewhere, got {text!r}")
    return text


def _check_pax(records: bytes, offset: int) -> None:
    """Raise FormatError if a pax header says more than times."""
    position = 0
    while position < len(records):
        match = _PAX_RECORD.match(records, position)
        if match is None or len(records) > PAX_BYTES or int(match[1]) <= len(match[0]):
            raise FormatError(f"tar has a damaged pax header at offset {offset}")
        if match[2] not in _HARMLESS_PAX:
            raise FormatError(
                f"tar has a pax header with {match[2][:40].decode(errors='replace')!r} "
                f"at offset {offset}",
                why="it may change the name or size of a member; only times are read past",
                fix="write it in ustar format, for example with tar --format=ustar",
            )
        position += int(match[1])
