"""A folder of class folders as a source: every picture below it, each class folder a label."""

from __future__ import annotations

import itertools
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from viewstore.errors import FormatError
from viewstore.files.spelling import absolute_path
from viewstore.images.decode import probe
from viewstore.sources.pictures import NOT_READ, READ, suffix_of, unread_note
from viewstore.sources.table import (
    OnError,
    Part,
    ScannedImage,
    Source,
    SourceKind,
    one_file,
    refuse,
    table_of,
)


def scan_folder(spec: str, *, on_error: OnError, limit: int | None) -> Source:
    """Return the pictures below the folder `spec`, in the order of their paths.

    The first folder of a path is the class of a picture. Classes are numbered by the folders
    there are, whatever can be read in them. Hidden files and folders are passed over.
    """
    folder = absolute_path(spec)
    unread: Counter[str] = Counter()
    keys = _sorted_keys(folder, unread)
    names = _classes(folder)
    labels = {name: label for label, name in enumerate(names)}
    skipped: list[tuple[str, str]] = []

    def found() -> Iterator[ScannedImage]:
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
            yield ScannedImage(key, label, 0, 0, len(data), zlib.crc32(data), height, width)

    rows = list(itertools.islice(found(), limit))
    part = Part(uri=str(folder), kind="dir", bytes=None, sha256=None)
    note = unread_note(unread)
    return Source(table_of(rows, (part,), names), skipped, () if note is None else (note,))


def folder_keys(spec: str) -> list[str]:
    """Return the paths of the pictures below a folder, in order."""
    return _sorted_keys(Path(spec), Counter())


def _sorted_keys(folder: Path, unread: Counter[str]) -> list[str]:
    return sorted(_picture_keys(folder, "", frozenset(), unread), key=os.fsencode)


def _classes(folder: Path) -> tuple[str, ...]:
    """Return the names of the class folders, as strings that can be written down, in order."""
    names = sorted(entry.name for entry in _entries(folder) if _is_class(entry))
    return tuple(name.encode("utf-8", "replace").decode() for name in names)


def _is_class(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".") and _kind(entry) == "folder"


def _picture_keys(
    folder: Path, prefix: str, above: frozenset[tuple[int, int]], unread: Counter[str]
) -> Iterator[str]:
    """Yield the pictures below `folder`, through links, but never round in a circle of them.

    `unread` counts pictures of formats that are not read, and tars beside pictures.
    """
    status = folder.stat()
    here = status.st_dev, status.st_ino
    if here in above:
        return
    for entry in _entries(folder):
        if entry.name.startswith("."):  # what systems leave behind, "._a.jpg" among it
            continue
        kind, suffix = _kind(entry), suffix_of(entry.name)
        if kind == "folder":
            below = folder / entry.name, f"{prefix}{entry.name}/"
            yield from _picture_keys(*below, above | {here}, unread)
        elif kind in ("file", "dangling") and suffix in READ:
            yield prefix + entry.name
        elif kind == "file" and (suffix in NOT_READ or suffix == "tar"):
            unread[f".{suffix}"] += 1


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return what is in a folder. Raises FormatError naming one that may not be searched."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise FormatError(
            f"a folder of the source cannot be searched: {error.strerror}",
            where=str(folder),
            fix="let your user read it, or move it out of the source",
        ) from error


def _kind(entry: os.DirEntry[str]) -> str:
    """Return "folder", "file", "dangling" (a link to nothing, or to itself) or "other"."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except OSError:  # a link to itself
        return "dangling"
    return "dangling" if entry.is_symlink() else "other"


KIND = SourceKind(
    spelling="a folder of class folders",
    matches=lambda spec: Path(spec).is_dir(),
    scan=scan_folder,
    files=one_file,
    keys=folder_keys,
)
