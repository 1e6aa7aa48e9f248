"""Scanning folders and WebDataset tars for their images: keys, places, checksums, sizes."""

from __future__ import annotations

import itertools
import json
import mmap
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from viewstore import disk
from viewstore.errors import ConfigError, FormatError
from viewstore.image import probe
from viewstore.source_tar import Member, tar_members
from viewstore.sources import OnError, Part, Source, SourceTable, first_rows, no_source
from viewstore.tar import BLOCK

SUFFIXES = {"jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "ppm"}
TAR_SUFFIXES = ("jpg", "jpeg", "png", "webp")
LABEL_BYTES = 64
JSON_BYTES = 1 << 20
INTEGER = re.compile(rb"\s*-?[0-9]{1,10}\s*")
RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class Found:
    """One image that a source holds."""

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
    keys = sorted(_image_keys(folder, "", frozenset()), key=os.fsencode)
    names = sorted({key.split("/")[0] for key in keys if "/" in key})
    labels = {name: label for label, name in enumerate(names)}
    skipped: list[tuple[str, str]] = []

    def found() -> Iterator[Found]:
        for key in keys:
            label = labels[key.split("/")[0]] if "/" in key else -1
            path = folder / key
            try:
                key.encode()
                data = path.read_bytes()
                height, width, _ = probe(data)
            except (FormatError, OSError, UnicodeEncodeError) as error:
                refuse(str(path), key, error, on_error, skipped)
                continue
            yield Found(key, label, 0, 0, len(data), zlib.crc32(data), height, width)

    rows = list(itertools.islice(found(), limit))
    part = Part(uri=str(folder), kind="dir", bytes=None, sha256=None)
    return Source(table_of(rows, (part,), tuple(names)), skipped)


def _image_keys(folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    """Yield the images below `folder`, through links, but never round in a circle of them."""
    status = folder.stat()
    here = status.st_dev, status.st_ino
    if here in above:
        return
    for entry in os.scandir(folder):
        if entry.name.startswith("."):  # what systems leave behind, "._a.jpg" among it
            continue
        if entry.is_dir():
            yield from _image_keys(folder / entry.name, f"{prefix}{entry.name}/", above | {here})
        elif entry.is_file() and entry.name.rpartition(".")[2].lower() in SUFFIXES:
            yield prefix + entry.name


def scan_tars(spec: str, *, on_error: OnError, limit: int | None) -> Source:
    """Return the images of the WebDataset tars that `spec` names."""
    rows: list[Found] = []
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


def by_key(rows: Iterable[Found], spec: str) -> list[Found]:
    """Return the rows in the order of their keys. Raises ConfigError: a key stands twice."""
    ordered = sorted(rows, key=lambda row: row.key.encode())
    for first, second in itertools.pairwise(ordered):
        if first.key == second.key:
            raise ConfigError(
                f"key {first.key!r} stands twice in {spec}",
                code="VS104",
                why="keys name the rows of a store",
                fix="give each sample a name of its own",
            )
    return ordered


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
) -> list[Found]:
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
                place = part, image.offset, image.size
                label = _label(data, members)
                rows.append(Found(key, label, *place, zlib.crc32(payload), height, width))
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


def refuse(
    where: str, key: str, error: Exception, on_error: OnError, skipped: list[tuple[str, str]]
) -> None:
    """Leave an image out and say why, or raise FormatError, as `on_error` has it."""
    if on_error == "fail":
        raise FormatError(
            f"source image {key} cannot be read",
            code="VS205",
            where=where,
            why=str(error),
            fix="mend or remove the file, or leave such images out with --on-error skip",
        ) from error
    skipped.append((key, str(error)))


def table_of(
    rows: Iterable[Found], parts: tuple[Part, ...], label_names: tuple[str, ...]
) -> SourceTable:
    """Return the table of these rows, in their order."""
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
