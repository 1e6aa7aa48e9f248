"""The rows of a source as a table, and what each kind of source gives: a `SourceKind`."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, FormatError
from viewstore.files.spelling import absolute_path
from viewstore.sources.labels import Label, number_labels

OnError = Literal["fail", "skip"]
SOURCE_VARIABLE = "VIEWSTORE_SOURCE"  # where the source of a store lies on this machine


@dataclass(frozen=True, kw_only=True)
class Part:
    """Where source bytes lie.

    Attributes:
        uri: Path as `absolute_path` spells it, or "digits".
        kind: "file" (an archive: rows are byte ranges), "dir" (rows are the files uri/key),
            "pixels" (rows are byte ranges of raw RGB pixels) or "array" (rows are entries of an
            array: pixels, not files).
        bytes, sha256: Of the file; None for a folder.
    """

    uri: str
    kind: str
    bytes: int | None
    sha256: str | None


@dataclass(frozen=True, kw_only=True)
class SourceTable:
    """The rows of a source, N of them, in their fixed order.

    Attributes:
        keys: Distinct names of the samples.
        label: int32 [N], -1 where there is none.
        part: Entry of `parts` that holds the row.
        offset, size: Byte range in the part; of an array, row number and bytes of its pixels.
        crc32: zlib CRC-32 of those bytes.
        height, width: Of the image in pixels, EXIF orientation not applied.
        parts: Where the bytes lie.
        label_names: Name of each label; empty if they have none.
        spelling: What names the source, as a user would give it anywhere on this machine.
        key_order: The rows in the order of their keys' bytes, as a store keeps them; None where
            the table was scanned.
    """

    keys: Sequence[str]
    label: NDArray[np.int32]
    part: NDArray[np.uint32]
    offset: NDArray[np.uint64]
    size: NDArray[np.uint32]
    crc32: NDArray[np.uint32]
    height: NDArray[np.uint32]
    width: NDArray[np.uint32]
    parts: tuple[Part, ...]
    label_names: tuple[str, ...] = ()
    spelling: str = ""
    key_order: NDArray[np.uint64] | None = None

    @property
    def images_digest(self) -> str:
        """sha256, in hex, of the CRC-32 of all rows in their order: which images these are."""
        return hashlib.sha256(self.crc32.astype("<u4").tobytes()).hexdigest()


@dataclass(frozen=True)
class Source:
    """An opened source.

    Attributes:
        table: Its rows.
        skipped: The images that were left out, with the reason.
        notes: Sentences about what else is there and was not read.
    """

    table: SourceTable
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: tuple[str, ...] = ()


class Scan(Protocol):
    """Fixes the rows of a source."""

    def __call__(self, spec: str, *, limit: int | None, on_error: OnError) -> Source:
        """Return the source, its first `limit` rows by key.

        Raises:
            ConfigError: There is no such source, or a key stands twice.
            FormatError: An image or archive cannot be read; it is named.
        """


@dataclass(frozen=True, kw_only=True)
class SourceKind:
    """One kind of source; a new one is a module with such an object and a row in kinds.py.

    Attributes:
        spelling: What a user gives for it, as messages list it: "an .npz with images".
        matches: Whether a spelling is one of this kind. It may look at the disk, but reads nothing.
        scan: Fixes the rows.
        files: Returns the absolute paths of the files that a spelling names, or of its folder, in
            the order in which rows are numbered.
        keys: Returns the keys of all rows in their order without reading an image, where each
            image is a file of its own; None where they are not.
        pixels: Returns the raw pixels of a row, uint8 [H, W] or [H, W, 3], given the uri and the
            entry of a part of kind "array". None: all rows are files, or byte ranges of files.
    """

    spelling: str
    matches: Callable[[str], bool]
    scan: Scan
    files: Callable[[str], list[str]]
    keys: Callable[[str], list[str]] | None = None
    pixels: Callable[[str, int], bytes] | None = None


@dataclass(frozen=True)
class ScannedImage:
    """One image that a source holds."""

    key: str
    label: Label
    part: int
    offset: int
    size: int
    crc32: int
    height: int
    width: int


def no_source(spec: str, why: str) -> ConfigError:
    """Return the error for a source that is not one; `open_source` adds what to give instead."""
    return ConfigError(f"source {spec} cannot be used", code="VS104", where=spec, why=why)


def one_file(spec: str) -> list[str]:
    """Return the path of the file or folder `spec`, as it is recorded."""
    return [str(absolute_path(spec))]


def first_rows(table: SourceTable, limit: int | None) -> SourceTable:
    """Return the first `limit` rows of a table."""
    if limit is None or limit >= len(table.keys):
        return table
    return take_rows(table, np.arange(limit))


def take_rows(table: SourceTable, rows: NDArray[np.int64]) -> SourceTable:
    """Return some rows of a table, ascending."""
    names = ("label", "part", "offset", "size", "crc32", "height", "width")
    columns: dict[str, Any] = {name: getattr(table, name)[rows] for name in names}
    keys = tuple(table.keys[row] for row in rows.tolist())
    return replace(table, keys=keys, key_order=None, **columns)


def by_key(rows: Iterable[ScannedImage], spec: str) -> list[ScannedImage]:
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
            fix="mend the file, or move it away; build leaves such images out with --on-error skip",
        ) from error
    skipped.append((key, str(error)))


def table_of(
    rows: Iterable[ScannedImage], parts: tuple[Part, ...], label_names: tuple[str, ...]
) -> SourceTable:
    """Return the table of these rows, in their order.

    `label_names` are those of numbers; labels that are words are numbered here, and name
    themselves.
    """
    rows = list(rows)
    labels, words = number_labels([row.label for row in rows])
    if any(row.size >= 2**32 for row in rows):
        raise FormatError("source images must be smaller than 4 GiB")
    return SourceTable(
        keys=tuple(row.key for row in rows),
        label=labels,
        part=np.array([row.part for row in rows], np.uint32),
        offset=np.array([row.offset for row in rows], np.uint64),
        size=np.array([row.size for row in rows], np.uint32),
        crc32=np.array([row.crc32 for row in rows], np.uint32),
        height=np.array([row.height for row in rows], np.uint32),
        width=np.array([row.width for row in rows], np.uint32),
        parts=parts,
        label_names=words or label_names,
    )
