"""Folders as sources: scans the images below one for their keys, checksums and sizes."""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from viewstore.errors import FormatError
from viewstore.images.decode import probe
from viewstore.sources.table import (
    OnError,
    Part,
    ScannedImage,
    Source,
    SourceKind,
    refuse,
    table_of,
)

SUFFIXES = {"jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "ppm"}


def scan_folder(spec: str, *, on_error: OnError, limit: int | None) -> Source:
    """Return the images below the folder `spec`; the first folder of a path is its class."""
    folder = Path(spec).resolve()
    keys = sorted(_image_keys(folder, "", frozenset()), key=os.fsencode)
    names = sorted({key.split("/")[0] for key in keys if "/" in key})
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


KIND = SourceKind(
    spelling="a folder of class folders",
    matches=lambda spec: Path(spec).is_dir(),
    scan=scan_folder,
)
