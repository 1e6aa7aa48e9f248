"""Scanning folders and WebDataset tars for their images: keys, places, checksums, sizes."""

from __future__ import annotations

import itertools
import json
import mmap
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from viewstore import disk
from viewstore.errors import ConfigError, FormatError
from viewstore.image import probe
from viewstore.sources import OnError, Part, Source, SourceTable, first_rows, no_source
from viewstore.tar import BLOCK, padded

SUFFIXES = {"jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "ppm"}
TAR_SUFFIXES = ("jpg", "jpeg", "png", "webp")
RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class _Found:
    key: str
    label: int
    part: int
    offset: int
    size: int
    crc32: int
    height: int
    width: int


def scan_folder(folder: Path, *, on_error: OnError, limit: int | None) -> Source:
    """Return the images below `folder`; the first folder of a path is its class."""
    folder = folder.resolve()
    files = sorted(
        (path for path in folder.rglob("*") if path.suffix[1:].lower() in SUFFIXES),
        key=lambda path: path.relative_to(folder).as_posix().encode(),
    )
    names = sorted({path.relative_to(folder).parts[0] for path in files if path.parent != folder})
    labels = {name: label for label, name in enumerate(names)}
    skipped: list[tuple[str, str]] = []

    def found() -> Iterator[_Found]:
        for path in files:
            key = path.relative_to(folder).as_posix()
            label = labels.get(key.split("/")[0], -1) if "/" in key else -1
            try:
                data = path.read_bytes()
                height, width, _ = probe(data)
            except (FormatError, OSError) as error:
                _refuse(str(path), key, error, on_error, skipped)
                continue
            yield _Found(key, label, 0, 0, len(data), zlib.crc32(data), height, width)

    rows = list(itertools.islice(found(), limit))
    part = Part(uri=str(folder), kind="dir", bytes=None, sha256=None)
    return Source(_table(rows, (part,), tuple(names)), skipped)


def scan_tars(spec: str, *, on_error: OnError, limit: int | None) -> Source:
    """Return the images of the WebDataset tars that `spec` names."""
    rows: list[_Found] = []
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
            raise FormatError(
                str(error),
                code=error.code,
                where=error.where or str(path),
                why=error.why,
                fix=error.fix or "give an uncompressed ustar of plain files",
            ) from error
    rows.sort(key=lambda row: row.key.encode())
    for first, second in itertools.pairwise(rows):
        if first.key == second.key:
            raise ConfigError(
                f"key {first.key!r} stands twice in {spec}",
                code="VS104",
                why="keys name the rows of a store",
                fix="give each sample a name of its own",
            )
    return Source(first_rows(_table(rows, tuple(parts), ()), limit), skipped)


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
) -> list[_Found]:
    rows = []
    with path.open("rb") as file:
        if path.stat().st_size < BLOCK:
            raise FormatError("tar is shorter than one header")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            members = tar_members(data)
            for key, group in itertools.groupby(members, key=lambda member: member[0]):
                places = {suffix: (offset, size) for _, suffix, offset, size in group}
                suffix = next((s for s in TAR_SUFFIXES if s in places), None)
                if suffix is None:
                    continue
                offset, size = places[suffix]
                payload = data[offset : offset + size]
                try:
                    height, width, _ = probe(payload)
                except FormatError as error:
                    _refuse(f"{path}: {key}.{suffix}", key, error, on_error, skipped)
                    continue
                label = _label(data, places)
                crc32 = zlib.crc32(payload)
                rows.append(_Found(key, label, part, offset, size, crc32, height, width))
    return rows


def tar_members(data: mmap.mmap | bytes) -> Iterator[tuple[str, str, int, int]]:
    """Yield key, suffix, offset and size of the files of somebody else's ustar.

    Raises:
        FormatError: Links, pax or GNU headers, compression, a bad checksum, or a cut file.
    """
    offset = 0
    while offset + BLOCK <= len(data):
        header = data[offset : offset + BLOCK]
        if not any(header):
            return
        size = _check_header(header, offset)
        if offset + BLOCK + size > len(data):
            raise FormatError(f"tar is cut short in the member at offset {offset}")
        name = _name(header)
        if header[156:157] in (b"0", b"\0") and not name.endswith("/"):
            folder, _, base = name.rpartition("/")
            stem, _, suffix = base.partition(".")
            yield (f"{folder}/{stem}" if folder else stem), suffix.lower(), offset + BLOCK, size
        offset += BLOCK + padded(size)
    raise FormatError("tar is cut short: it has no end block")


def _check_header(header: bytes, offset: int) -> int:
    if header[156:157] not in (b"0", b"\0", b"5"):
        raise FormatError(
            f"tar member at offset {offset} must be a plain file",
            why="links, pax and GNU headers are refused",
        )
    try:
        size = int(header[124:136].strip(b"\0 ") or b"0", 8)
        stored = int(header[148:156].strip(b"\0 "), 8)
    except ValueError as error:
        raise FormatError(f"tar header at offset {offset} is damaged") from error
    if sum(header[:148]) + 8 * ord(" ") + sum(header[156:]) != stored:
        raise FormatError(f"tar header at offset {offset} does not match its checksum")
    return size


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0")[0]
    prefix = header[345:500].split(b"\0")[0] if header[257:262] == b"ustar" else b""
    try:
        return (prefix + b"/" + name if prefix else name).decode().removeprefix("./")
    except UnicodeDecodeError as error:
        raise FormatError("tar member name must be UTF-8") from error


def _label(data: mmap.mmap, places: dict[str, tuple[int, int]]) -> int:
    for suffix in ("cls", "json"):
        if suffix not in places:
            continue
        offset, size = places[suffix]
        text = data[offset : offset + min(size, 1 << 20)]
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            value = value.get("label", value.get("cls"))
        if isinstance(value, int) and -1 <= value < 2**31:
            return value
    return -1


def _refuse(
    where: str, key: str, error: Exception, on_error: OnError, skipped: list[tuple[str, str]]
) -> None:
    if on_error == "fail":
        raise FormatError(
            f"source image {key} cannot be read",
            code="VS205",
            where=where,
            why=str(error),
            fix="mend or remove the file, or leave such images out with --on-error skip",
        ) from error
    skipped.append((key, str(error)))


def _table(
    rows: Iterable[_Found], parts: tuple[Part, ...], label_names: tuple[str, ...]
) -> SourceTable:
    rows = list(rows)
    if any(row.size >= 2**32 for row in rows):
        raise FormatError("source images must be smaller than 4 GiB")
    return SourceTable(
        keys=tuple(row.key for row in rows),
        label=np.array([row.label for row in rows], np.int32),
        part=np.array([row.part for row in rows], np.uint32),
        offset=np.array([row.offset for row in rows], np.uint64),
        size=np.array([row.size for row in rows], np.uint32),
        crc32=np.array([row.crc32 for row in rows], np.uint32),
        height=np.array([row.height for row in rows], np.uint32),
        width=np.array([row.width for row in rows], np.uint32),
        parts=parts,
        label_names=label_names,
    )
