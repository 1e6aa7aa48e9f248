"""A `.beton` of any writer as a source: its pictures, labels and keys."""

from __future__ import annotations

import contextlib
import functools
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from viewstore.beton.layout import HEADER_BYTES, RAW, Field, Kind, unpack_header
from viewstore.beton.reader import Beton
from viewstore.beton.sidecar import check_sidecar
from viewstore.beton.writer import Picture
from viewstore.errors import ConfigError, FormatError
from viewstore.files import disk
from viewstore.files.spelling import absolute_path
from viewstore.sources.table import (
    OnError,
    Part,
    ScannedImage,
    Source,
    SourceKind,
    by_key,
    first_rows,
    no_source,
    one_file,
    refuse,
    table_of,
)

KEY_BYTES = 4096
FILES, ARRAY = 0, 1  # parts: JPEG files are byte ranges of the file, raw pixels are its rows


def scan_beton(spec: str, *, on_error: OnError, limit: int | None) -> Source:
    """Return the pictures of a `.beton` that stock ffcv or an export wrote.

    Keys are those of its field `key`, else row numbers; labels those of its field `label`, else
    of its only int field, else there are none.

    Raises:
        ConfigError: There is no file, or it has no picture field or several.
        FormatError: It is damaged, or does not match the record that its export left beside it.
    """
    if not Path(spec).is_file():
        raise no_source(spec, "nothing is there")
    path = absolute_path(spec)
    try:
        record = check_sidecar(path)
        beton = Beton(path)
        pictures = picture_field(beton, path)
        labels, keys = _labels(beton), _keys(beton)
        beton.sizes(pictures.name)
    except FormatError as error:
        raise error.located(str(path), fix="write it again") from error
    skipped: list[tuple[str, str]] = []

    def found() -> Iterator[ScannedImage]:
        for row, (key, label) in enumerate(zip(keys, labels, strict=True)):
            try:
                picture = _picture(beton, pictures.name, row)
            except FormatError as error:
                refuse(f"{path}: sample {row}", key, error, on_error, skipped)
                continue
            yield _scanned(beton, pictures.name, row, key, label, picture)

    ordered = keys == sorted(keys, key=str.encode)
    rows = by_key(itertools.islice(found(), limit if ordered else None), str(path))
    sha256 = disk.sha256_of(path) if record is None else str(record["sha256"])
    parts = tuple(
        Part(uri=str(path), kind=kind, bytes=path.stat().st_size, sha256=sha256)
        for kind in ("file", "array")
    )
    names = () if record is None else tuple(record["label_names"])
    return Source(first_rows(table_of(rows, parts, names), limit), skipped)


def beton_pixels(uri: str, row: int) -> bytes:
    """Return the raw pixels of a row. Raises FormatError: the file was changed."""
    beton = _open(uri)
    if row >= len(beton):
        raise FormatError(f"the beton has {len(beton)} samples now")
    picture = _picture(beton, picture_field(beton, Path(uri)).name, row)
    if picture.mode != RAW:
        raise FormatError(f"sample {row} must hold raw pixels")
    return picture.data


def picture_field(beton: Beton, path: Path) -> Field:
    """Return the picture field. Raises ConfigError: there is none, or more than one."""
    fields = [field for field in beton.fields if field.kind is Kind.RGB]
    if len(fields) != 1:
        names = ", ".join(field.name for field in fields) or "none"
        raise ConfigError(
            f"{path.name} must have one picture field to be a source, it has {names}",
            code="VS104",
            where=str(path),
            why="a sample of a source is one image",
            fix="write a .beton with one RGBImageField",
        )
    return fields[0]


@functools.lru_cache(maxsize=4)
def _open(uri: str) -> Beton:
    return Beton(Path(uri))


def _picture(beton: Beton, name: str, row: int) -> Picture:
    picture = beton.read(name, row)
    assert isinstance(picture, Picture)
    return picture


def _scanned(
    beton: Beton, name: str, row: int, key: str, label: int, picture: Picture
) -> ScannedImage:
    raw = picture.mode == RAW
    return ScannedImage(
        key=key,
        label=label,
        part=ARRAY if raw else FILES,
        offset=row if raw else int(beton.column(name)[row]["data_ptr"]),
        size=len(picture.data),
        crc32=zlib.crc32(picture.data),
        height=picture.height,
        width=picture.width,
    )


def _labels(beton: Beton) -> list[int]:
    """Return the label of each sample, -1 where there is none."""
    names = [field.name for field in beton.fields if field.kind is Kind.INT]
    name = "label" if "label" in names else names[0] if len(names) == 1 else None
    if name is None:
        return [-1] * len(beton)
    labels: NDArray[np.int64] = beton.column(name)
    wrong = (labels < -1) | (labels >= 2**31)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise FormatError(
            f"beton labels must be in [-1, 2^31), got {labels[row]} for sample {row} in {name}"
        )
    return [int(label) for label in labels]


def _keys(beton: Beton) -> list[str]:
    if not any(field.name == "key" and field.kind is Kind.BYTES for field in beton.fields):
        digits = max(4, len(str(len(beton) - 1)))
        return [f"{row:0{digits}d}" for row in range(len(beton))]
    return [_key(beton, row) for row in range(len(beton))]


def _key(beton: Beton, row: int) -> str:
    data = beton.read("key", row)
    assert isinstance(data, bytes)
    text = data.removesuffix(b"\0")
    if not text or len(text) > KEY_BYTES or b"\0" in text:
        raise FormatError(f"beton key of sample {row} must have 1 to {KEY_BYTES} bytes, no NUL")
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"beton key of sample {row} must be UTF-8") from error


def _is_beton(spec: str) -> bool:
    path = Path(spec)
    if path.suffix.lower() == ".beton" or not path.is_file():
        return path.suffix.lower() == ".beton" and not path.is_dir()
    with path.open("rb") as file, contextlib.suppress(FormatError):
        unpack_header(file.read(HEADER_BYTES))
        return True
    return False


KIND = SourceKind(
    spelling="a .beton",
    matches=_is_beton,
    scan=scan_beton,
    files=one_file,
    pixels=beton_pixels,
)
