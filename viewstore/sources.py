"""Sources: image datasets in. What their rows are, and reading one, checked.

A source is opened once, to fix its rows; afterwards its table is enough to read it.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from viewstore.arrays import DIGITS, load_arrays, read_pixels
from viewstore.crc_checks import CrcChecks, Verify
from viewstore.descriptors import Descriptor, most_descriptors
from viewstore.errors import ConfigError, FormatError
from viewstore.image import scaled_decode

OnError = Literal["fail", "skip"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Where source bytes lie.

    Attributes:
        uri: Absolute path, or "digits".
        kind: "file" (an archive: rows are byte ranges), "dir" (rows are the files uri/key) or
            "array" (rows are entries of an array: pixels, not files).
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


@dataclass(frozen=True)
class Source:
    """An opened source: its rows, and the images that were left out with the reason."""

    table: SourceTable
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def image(self, row: int) -> NDArray[np.uint8]:
        """Return the image of a row, uint8 [H, W, 3]."""
        return SourceReader(self.table).image(row)


def open_source(spec: str, *, limit: int | None = None, on_error: OnError = "fail") -> Source:
    """Open a source and fix its rows, ordered by key bytes.

    Args:
        spec: A folder of class folders, a WebDataset tar or brace pattern, an `.npz`, a `.beton`,
            or "digits".
        limit: Keep the first rows only.
        on_error: "fail" ends at an image whose header cannot be read; "skip" leaves it out.

    Raises:
        ConfigError: There is nothing at `spec`, or no image in it, or a key twice; or the limit
            is below 1.
        FormatError: An image or archive cannot be read; it is named.
    """
    from viewstore.source_beton import scan_beton
    from viewstore.source_scan import scan_folder, scan_tars

    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be at least 1, got {limit}")
    path = Path(spec)
    if spec == DIGITS or path.suffix == ".npz":
        source = Source(first_rows(_array_source(spec).table, limit))
    elif "{" in spec or path.suffix == ".tar":
        source = scan_tars(spec, on_error=on_error, limit=limit)
    elif path.suffix == ".beton":
        source = scan_beton(path, on_error=on_error, limit=limit)
    elif path.is_dir():
        source = scan_folder(path, on_error=on_error, limit=limit)
    else:
        raise no_source(
            spec, "it is no folder, tar, npz or beton" if path.exists() else "nothing is there"
        )
    if not source.table.keys:
        raise no_source(spec, "it holds no image that can be read")
    return source


def no_source(spec: str, why: str) -> ConfigError:
    """Return the error for a source that is not one."""
    return ConfigError(
        f"source {spec} cannot be used",
        code="VS104",
        where=spec,
        why=why,
        fix="give a folder of class folders, a WebDataset tar, an .npz with images, a .beton, "
        "or digits",
    )


def _array_source(spec: str) -> Source:
    uri = spec if spec == DIGITS else str(Path(spec).resolve())
    if spec != DIGITS and not Path(spec).is_file():
        raise no_source(spec, "nothing is there")
    arrays = load_arrays(uri)
    count, height, width = arrays.images.shape[:3]
    digits = max(4, len(str(count - 1)))
    crcs = [zlib.crc32(image.tobytes()) for image in arrays.images]
    table = SourceTable(
        keys=tuple(f"{row:0{digits}d}" for row in range(count)),
        label=arrays.labels,
        part=np.zeros(count, np.uint32),
        offset=np.arange(count, dtype=np.uint64),
        size=np.full(count, arrays.images[0].nbytes if count else 0, np.uint32),
        crc32=np.array(crcs, np.uint32),
        height=np.full(count, height, np.uint32),
        width=np.full(count, width, np.uint32),
        parts=(Part(uri=uri, kind="array", bytes=arrays.bytes, sha256=arrays.sha256),),
        label_names=arrays.label_names,
    )
    return Source(table)


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
    return SourceTable(keys=keys, parts=table.parts, label_names=table.label_names, **columns)


class SourceReader:
    """Reads the rows of a table; safe to share between threads, cheap to send to a process."""

    def __init__(self, table: SourceTable, *, verify: Verify = "always") -> None:
        """Read `table`; a row's CRC is checked at its "first" touch, "always" or never ("off")."""
        self.table = table
        self._checks = CrcChecks(len(table.keys), verify)
        self._files: dict[int, Descriptor] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return (partial(SourceReader, verify=self._checks.verify), (self.table,))

    def read(self, row: int) -> bytes:
        """Return the bytes of a row: an image file, or the raw pixels of an array.

        Raises:
            FormatError: They cannot be reached, or were checked and are not the ones the row was
                fixed with.
        """
        table = self.table
        part = table.parts[table.part[row]]
        try:
            if part.kind == "array":
                data = self._pixels(part.uri, row)
            elif part.kind == "dir":
                with open(_below(part.uri, table.keys[row]), "rb", buffering=0) as file:  # noqa: PTH123
                    data = file.readall()
            else:
                tar = self._open(int(table.part[row]))
                data = os.pread(tar.number, int(table.size[row]), int(table.offset[row]))
        except OSError as error:
            raise self._unreadable(row, f"{error.strerror}") from error
        if self._checks.is_due(row):
            if zlib.crc32(data) != table.crc32[row]:
                raise self._unreadable(row, "its bytes changed since the store was begun")
            self._checks.passed(row)
        return data

    def image(self, row: int) -> NDArray[np.uint8]:
        """Return the image of a row, uint8 [H, W, 3]. Raises FormatError naming the file."""
        return self.decode(row, self.read(row), 1)[0]

    def decode(
        self, row: int, data: bytes, reduction: int, into: NDArray[np.uint8] | None = None
    ) -> tuple[NDArray[np.uint8], int]:
        """Return the image in the bytes of a row, and its reduction, as `scaled_decode`.

        `into` has room for the image; what is returned may lie in it.
        """
        table = self.table
        if table.parts[table.part[row]].kind == "array":
            height, width = int(table.height[row]), int(table.width[row])
            if len(data) not in (height * width, height * width * 3):
                raise self._unreadable(row, f"{len(data)} bytes are no {height} x {width} pixels")
            pixels = np.frombuffer(data, np.uint8).reshape(height, width, -1)
            return (np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels), 1
        try:
            image, made = scaled_decode(data, reduction, into=into)
        except (FormatError, ConfigError) as error:  # too little room: not the size it had
            raise self._unreadable(row, str(error)) from error
        sides = -(-int(table.height[row]) // made), -(-int(table.width[row]) // made)
        if image.shape[:2] != sides:  # crop boxes are drawn for the size it had
            raise self._unreadable(row, "its size changed since the store was begun")
        return image, made

    def _pixels(self, uri: str, row: int) -> bytes:
        try:
            return read_pixels(uri, int(self.table.offset[row]))
        except FormatError as error:
            raise self._unreadable(row, str(error)) from error

    def _open(self, part: int) -> Descriptor:
        with self._lock:
            if part not in self._files:
                while len(self._files) >= most_descriptors():
                    del self._files[next(iter(self._files))]
                self._files[part] = Descriptor(os.open(self.table.parts[part].uri, os.O_RDONLY))
            return self._files[part]

    def _unreadable(self, row: int, why: str) -> FormatError:
        part = self.table.parts[self.table.part[row]]
        key = self.table.keys[row]
        return FormatError(
            f"source image {key} cannot be read",
            code="VS205",
            where=f"{part.uri}/{key}" if part.kind == "dir" else f"{part.uri}: {key}",
            why=why,
            fix="mend or remove the file, or leave such images out with --on-error skip",
        )


def _below(folder: str, key: str) -> str:
    """Return folder/key. Raises FormatError: the key leads out of the folder.

    It is asked for each sample of each epoch, and pathlib takes 25 us.
    """
    if key.startswith("/") or ".." in key.split("/") or "\0" in key:
        raise FormatError(f"key {key!r} leads out of its folder", where=folder)
    return f"{folder}/{key}"
