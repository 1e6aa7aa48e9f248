"""WebDataset tars as sources: scans them for keys, labels, byte ranges, checksums and sizes."""

from __future__ import annotations

import json
import mmap
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from viewstore.errors import ConfigError, FormatError
from viewstore.files import disk
from viewstore.format.tar import BLOCK, padded
from viewstore.images.decode import probe
from viewstore.sources.table import (
    OnError,
    Part,
    ScannedImage,
    Source,
    SourceKind,
    by_key,
    first_rows,
    no_source,
    refuse,
    table_of,
)

TAR_SUFFIXES = ("jpg", "jpeg", "png", "webp")
LABEL_BYTES = 64
JSON_BYTES = 1 << 20
INTEGER = re.compile(rb"\s*-?[0-9]{1,10}\s*")
RANGE = re.compile(r"(\d+)\.\.(\d+)")


def scan_tars(spec: str, *, on_error: OnError, limit: int | None) -> Source:
    """Return the images of the WebDataset tars that `spec` names."""
    rows: list[ScannedImage] = []
    parts = []
    skipped: list[tuple[str, str]] = []
    for number, path in enumerate(expand_braces(spec)):
        if not path.is_file():
            raise no_source(str(path), "nothing is there")
        path = path.resolve()
        parts.append(
            Part(
                uri=str(path),
                kind="file",
                bytes=path.stat().st_size,
                sha256=disk.sha256_of(path),
            )
        )
        try:
            rows += _scan_tar(path, number, on_error, skipped)
        except FormatError as error:
            fix = "give an uncompressed ustar of plain files"
            raise error.located(str(path), fix=fix) from error
    table = table_of(by_key(rows, spec), tuple(parts), ())
    return Source(first_rows(table, limit), skipped)


def expand_braces(spec: str) -> list[Path]:
    """Return the paths of a brace pattern, as webdataset expands it: {a,b} and {000..042}."""
    match = re.search(r"\{([^{}]*)\}", spec)
    if match is None:
        return [Path(spec)]
    if numbers := RANGE.fullmatch(match[1]):
        first, last = numbers[1], numbers[2]
        count = int(last) - int(first) + 1
        if not 0 < count <= 1_000_000:
            raise ConfigError(f"brace range {match[0]} must ascend, over at most 10^6 numbers")
        choices = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        choices = match[1].split(",")
    return [
        path
        for choice in choices
        for path in expand_braces(spec[: match.start()] + choice + spec[match.end() :])
    ]


def _scan_tar(
    path: Path, part: int, on_error: OnError, skipped: list[tuple[str, str]]
) -> list[ScannedImage]:
    rows = []
    with path.open("rb") as file:
        if path.stat().st_size < BLOCK:
            raise FormatError("tar is shorter than one header")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for key, members in _samples(data).items():
                image = next((members[s] for s in TAR_SUFFIXES if s in members), None)
                if image is None:
                    continue
                payload = data[image.offset : image.offset + image.size]
                try:
                    height, width, _ = probe(payload)
                except FormatError as error:
                    refuse(f"{path}: {key}.{image.suffix}", key, error, on_error, skipped)
                    continue
                label, crc32 = _label(data, members), zlib.crc32(payload)
                span = part, image.offset, image.size
                rows.append(ScannedImage(key, label, *span, crc32, height, width))
    return rows


def _samples(data: mmap.mmap) -> dict[str, dict[str, Member]]:
    """Return the members of each sample by suffix, samples in the order of the tar."""
    samples: dict[str, dict[str, Member]] = {}
    for member in tar_members(data):
        members = samples.setdefault(member.key, {})
        if member.suffix in members:
            raise FormatError(f"tar member {member.key}.{member.suffix} stands twice")
        members[member.suffix] = member
    return samples


def _label(data: mmap.mmap, members: dict[str, Member]) -> int:
    """Return the label beside an image, -1 if there is none or it is no number."""
    if "cls" in members:
        cls = members["cls"]
        number = INTEGER.fullmatch(data[cls.offset : cls.offset + min(cls.size, LABEL_BYTES)])
        return _in_range(int(number[0])) if number else -1
    if "json" not in members:
        return -1
    record = members["json"]
    try:
        value = json.loads(data[record.offset : record.offset + min(record.size, JSON_BYTES)])
    except (ValueError, RecursionError):
        return -1
    if isinstance(value, dict):
        value = value.get("label", value.get("cls"))
    return _in_range(value) if type(value) is int else -1


def _in_range(label: int) -> int:
    return label if -1 <= label < 2**31 else -1


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


KIND = SourceKind(
    spelling="a WebDataset tar",
    matches=lambda spec: "{" in spec or Path(spec).suffix == ".tar",
    scan=scan_tars,
)
