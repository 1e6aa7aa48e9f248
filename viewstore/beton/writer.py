"""Writes a `.beton` sample by sample: memory does not grow with the number of samples."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from viewstore.beton import layout
from viewstore.beton.layout import JPG, MAX_SIDE, RAW, TABLE_DTYPE, Field, Header, Kind
from viewstore.errors import ConfigError
from viewstore.files import disk
from viewstore.files.disk import claimed_stream

CHUNK_ROWS = 4096
COPY_BYTES = 1 << 20
TABLE_SUFFIX = ".table"  # of where the allocation table lies while a file is written


@dataclass(frozen=True, slots=True)
class Picture:
    """One image: a JPEG file (mode JPG), or pixels uint8 [height, width, 3] (mode RAW)."""

    mode: int
    height: int
    width: int
    data: bytes


Value = int | float | bytes | Picture


class BetonWriter:
    """Appends samples; each sample's data lies in one page, as stock ffcv reads it.

    The header is written last: until `finish` the file says that it is unfinished.
    """

    def __init__(
        self,
        stream: BinaryIO,
        table: BinaryIO,
        fields: Sequence[Field],
        num_samples: int,
        page_bytes: int = layout.DEFAULT_PAGE_BYTES,
    ) -> None:
        """Begin a file.

        Args:
            stream: An empty file that can be sought in.
            table: Takes the allocation table, which belongs at the end of the file.
            fields: Of every sample, in their order.
            num_samples: How many samples will be added.
            page_bytes: Power of two; the data of a sample must fit a page.
        """
        layout.check_names(fields)
        layout.check_page_bytes(page_bytes)
        if num_samples < 1:
            raise ConfigError(f"beton must have at least 1 sample, got {num_samples}")
        self.fields = tuple(fields)
        self.num_samples = num_samples
        self.page_bytes = page_bytes
        self._stream, self._table = stream, table
        self._dtype = layout.record_dtype(fields)
        self._added = 0
        self._records = np.zeros(min(CHUNK_ROWS, num_samples), self._dtype)
        self._next = layout.first_page(len(fields), num_samples * self._dtype.itemsize, page_bytes)
        stream.write(bytes(layout.HEADER_BYTES))
        stream.write(b"".join(layout.pack_descriptor(field) for field in fields))
        self._records_offset = stream.tell()
        stream.seek(self._next)

    def add(self, values: Sequence[Value]) -> None:
        """Append one sample: a value for each field; arrays as their C-order bytes.

        Raises:
            ConfigError: There are more samples than were announced, a value does not fit its
                field, or the data of the sample does not fit a page.
        """
        if self._added == self.num_samples:
            raise ConfigError(f"beton must have {self.num_samples} samples, got more")
        regions = [_region(f, v) for f, v in zip(self.fields, values, strict=True)]
        sizes = [0 if data is None else len(data) for data in regions]
        pointers = self._allocate(sizes)
        record = self._records[self._added % len(self._records)]
        for number, field in enumerate(self.fields):
            record[f"f{number}"] = _record(field, values[number], pointers[number])
        for data in regions:
            if data is not None:
                self._stream.write(data)
        spans = zip(pointers, sizes, strict=True)
        rows = [(self._added, pointer, size) for pointer, size in spans if size]
        self._table.write(np.array(rows, TABLE_DTYPE).tobytes())
        self._added += 1
        if self._added % len(self._records) == 0 or self._added == self.num_samples:
            self._write_records()

    def finish(self, read_table: BinaryIO) -> None:
        """Append the table, which `read_table` reads from its begin, and write the header."""
        if self._added != self.num_samples:
            raise ConfigError(f"beton must have {self.num_samples} samples, got {self._added}")
        offset = -(-self._next // self.page_bytes) * self.page_bytes
        self._stream.seek(offset)
        while data := read_table.read(COPY_BYTES):
            self._stream.write(data)
        header = Header(
            fields=len(self.fields),
            page_bytes=self.page_bytes,
            num_samples=self.num_samples,
            table_offset=offset,
        )
        self._stream.seek(0)
        self._stream.write(layout.pack_header(header))

    def _allocate(self, sizes: Sequence[int]) -> list[int]:
        """Return where the regions of a sample lie, all in one page; the stream is there."""
        total = sum(sizes)
        if total > self.page_bytes:
            raise ConfigError(
                f"sample {self._added} has {total} bytes, which must fit a page of "
                f"{self.page_bytes}",
                why="ffcv reads a sample from one page",
                fix="give larger pages",
            )
        left = -self._next % self.page_bytes or self.page_bytes
        if total > left:
            self._next += left
            self._stream.seek(self._next)
        *begins, self._next = itertools.accumulate(sizes, initial=self._next)
        return begins

    def _write_records(self) -> None:
        count = (self._added - 1) % len(self._records) + 1
        first = self._added - count
        self._stream.seek(self._records_offset + first * self._dtype.itemsize)
        self._stream.write(self._records[:count].tobytes())
        self._stream.seek(self._next)


def write_beton(
    path: Path,
    fields: Sequence[Field],
    samples: Iterable[Sequence[Value]],
    num_samples: int,
    page_bytes: int = layout.DEFAULT_PAGE_BYTES,
) -> None:
    """Write the new file `path`, synced; `samples` yields the values of each sample.

    The table lies in a file beside it meanwhile, so that it needs no memory.
    """
    table = path.with_name(path.name + TABLE_SUFFIX)
    try:
        with claimed_stream(path) as stream:
            with disk.stream_temporary(table) as spool:
                writer = BetonWriter(stream, spool, fields, num_samples, page_bytes)
                for values in samples:
                    writer.add(values)
            with table.open("rb") as read_table:
                writer.finish(read_table)
    finally:
        disk.unlink(table)


def _region(field: Field, value: Value) -> bytes | None:
    """Return the data of a field that lies in a page, or None. Raises ConfigError."""
    match field.kind, value:
        case (Kind.INT, int()) | (Kind.FLOAT, float()):
            return None
        case (Kind.RGB, Picture()):
            _check_picture(field, value)
            return value.data
        case (Kind.BYTES, bytes()) if value:  # an empty region would hide the size of the next
            return value
        case (Kind.NDARRAY, bytes()) if len(value) == field.array_bytes:
            return value
    raise ConfigError(f"beton field {field.name} cannot hold this {type(value).__name__}")


def _check_picture(field: Field, picture: Picture) -> None:
    height, width = picture.height, picture.width
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ConfigError(
            f"beton pictures must have sides in [1, {MAX_SIDE}], got {height} x {width} in "
            f"{field.name}"
        )
    if picture.mode not in (JPG, RAW) or not picture.data:
        raise ConfigError(f"beton field {field.name} must hold a jpg or raw picture")
    if picture.mode == RAW and len(picture.data) != height * width * 3:
        raise ConfigError(
            f"raw picture of {field.name} must have {height * width * 3} bytes, "
            f"got {len(picture.data)}"
        )


def _record(field: Field, value: Value, pointer: int) -> Any:  # noqa: ANN401
    if isinstance(value, Picture):
        return value.mode, value.width, value.height, pointer
    if isinstance(value, bytes):
        return (pointer, len(value)) if field.kind is Kind.BYTES else pointer
    return value
