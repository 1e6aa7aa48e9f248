"""Reading a `.beton`: every offset and size is checked against the file before it is used.

Own code throughout: stock ffcv hands what the file says to compiled functions.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.beton import layout
from viewstore.beton.layout import INDEX_BYTES, JPG, RAW, TABLE_DTYPE, Field, Header, Kind
from viewstore.beton.writer import Picture
from viewstore.errors import ConfigError, FormatError
from viewstore.images.header import LIMITS, read_size, sniff, unreadable

_SIZED = (Kind.BYTES, Kind.JSON)  # kinds whose records hold the size of their data


class Beton:
    """An open `.beton`: its fields, and the values of each sample.

    Attributes:
        header: Checked against the length of the file.
        fields: In their order.
        records: One per sample, `f0`, `f1`, ... in the order of the fields.
    """

    _descriptor = -1  # a signal may end __init__ anywhere

    def __init__(self, path: Path) -> None:
        """Open a file and check its header, fields and allocation table.

        Raises:
            FormatError: It deviates from docs/ffcv.md, was never finished, or is over a limit.
        """
        self._descriptor = os.open(path, os.O_RDONLY)
        self._bytes = os.fstat(self._descriptor).st_size
        self.header: Header = layout.unpack_header(self._read(0, layout.HEADER_BYTES))
        self.fields = self._read_fields()
        self.records = self._read_records()
        self._regions = self._read_regions()

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def __len__(self) -> int:
        return self.header.num_samples

    def field(self, name: str) -> Field:
        """Return a field by name. Raises ConfigError: there is none."""
        for field in self.fields:
            if field.name == name:
                return field
        names = [field.name for field in self.fields]
        raise ConfigError(f"beton has no field {name!r}, it has {names}", code="VS102")

    def column(self, name: str) -> NDArray[Any]:
        """Return the records of a field, [N]."""
        column: NDArray[Any] = self.records[f"f{self.fields.index(self.field(name))}"]
        return column

    def sizes(self, name: str) -> NDArray[np.int64]:
        """Return the bytes of each sample's data of a field, int64 [N].

        Raises:
            FormatError: A record points where no data begins, or gives another size than it has.
        """
        field, column = self.field(name), self.column(name)
        if field.kind in _SIZED:
            self._check_sized(name, column)
            return column["size"].astype(np.int64)
        pointers = column["data_ptr"] if field.kind is Kind.RGB else column
        starts, sizes = self._regions
        positions = np.searchsorted(starts, pointers)
        known = positions < len(starts)
        known[known] = starts[positions[known]] == pointers[known]
        if not known.all():
            row = int(np.argmin(known))
            raise FormatError(
                f"beton sample {row} must have its {name} where data begins, "
                f"got byte {int(pointers[row])}"
            )
        return sizes[positions]

    def read(self, name: str, row: int) -> int | float | bytes | NDArray[Any] | Picture:
        """Return the value of a sample: a number, bytes, an array or a Picture.

        Raises:
            FormatError: What the record says and what the data is do not agree.
        """
        field, record = self.field(name), self.column(name)[row]
        if field.kind in (Kind.INT, Kind.FLOAT):
            number: int | float = record.item()
            return number
        size = int(self._sizes(name)[row])
        if field.kind in _SIZED:
            return self._read(int(record["ptr"]), size)
        if field.kind is Kind.RGB:
            return self.picture(record, self._read(int(record["data_ptr"]), size), row)
        if size != field.array_bytes:
            raise FormatError(
                f"beton sample {row} must have {field.array_bytes} bytes of {name}, got {size}"
            )
        data = self._read(int(record), size)
        return np.frombuffer(data, field.dtype).reshape(field.shape)

    def picture(self, record: Any, data: bytes, row: int) -> Picture:  # noqa: ANN401
        """Return the picture of a record and its data, not decoded.

        Raises:
            FormatError: Over the limits of images, raw pixels that are more or fewer than the
                record says, or a JPEG of another size.
        """
        mode, height, width = int(record["mode"]), int(record["height"]), int(record["width"])
        LIMITS.check(height, width, encoded_bytes=len(data))
        if mode == RAW:
            if len(data) != height * width * 3:
                raise unreadable(
                    f"raw picture {row} of {height} x {width} must have {height * width * 3} "
                    f"bytes, got {len(data)}"
                )
        elif mode == JPG:
            if sniff(data) != "jpg" or read_size(data, "jpg", LIMITS) != (height, width):
                raise unreadable(f"picture {row} must be a jpg of {height} x {width}")
        else:
            raise unreadable(f"picture {row} must have mode 0 (jpg) or 1 (raw), got {mode}")
        return Picture(mode, height, width, data)

    def _sizes(self, name: str) -> NDArray[np.int64]:
        if name not in self._known_sizes:
            self._known_sizes[name] = self.sizes(name)
        return self._known_sizes[name]

    @cached_property
    def _known_sizes(self) -> dict[str, NDArray[np.int64]]:
        return {}

    def _check_sized(self, name: str, column: NDArray[Any]) -> None:
        low, high = self._data_range
        # Written so that sums of hostile 64-bit numbers cannot wrap around.
        inside = (column["ptr"] >= low) & (column["ptr"] <= high)
        inside &= column["size"] <= high - np.minimum(column["ptr"], high)
        inside |= column["size"] == 0
        if not inside.all():
            row = int(np.argmin(inside))
            raise FormatError(
                f"beton sample {row} must have its {name} in the data pages, got "
                f"{int(column['size'][row])} bytes at byte {int(column['ptr'][row])}"
            )

    @property
    def _data_range(self) -> tuple[np.uint64, np.uint64]:
        header = self.header
        low = layout.first_page(header.fields, self.records.nbytes, header.page_bytes)
        return np.uint64(low), np.uint64(header.table_offset)

    def _read_fields(self) -> tuple[Field, ...]:
        size = self.header.fields * layout.DESCRIPTOR_BYTES
        raw = self._read(layout.HEADER_BYTES, size)
        begins = range(0, size, layout.DESCRIPTOR_BYTES)
        fields = tuple(
            layout.unpack_descriptor(raw[begin : begin + layout.DESCRIPTOR_BYTES])
            for begin in begins
        )
        try:
            layout.check_names(fields)
        except ConfigError as error:
            raise FormatError(str(error)) from error
        return fields

    def _read_records(self) -> NDArray[Any]:
        header = self.header
        dtype = layout.record_dtype(self.fields)
        size = header.num_samples * dtype.itemsize
        begin = layout.HEADER_BYTES + header.fields * layout.DESCRIPTOR_BYTES
        if size > INDEX_BYTES:
            raise FormatError(f"beton records must be at most {INDEX_BYTES} bytes, got {size}")
        first = layout.first_page(header.fields, size, header.page_bytes)
        if not first <= header.table_offset <= self._bytes:
            raise FormatError(
                f"beton allocation table must lie in [{first}, {self._bytes}], "
                f"got {header.table_offset}",
                why="the file was cut or its header is damaged",
            )
        return np.frombuffer(self._read(begin, size), dtype)

    def _read_regions(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Return where data begins, ascending, and its sizes: what the table says, checked."""
        offset = self.header.table_offset
        size = self._bytes - offset
        if size % TABLE_DTYPE.itemsize or size > INDEX_BYTES:
            raise FormatError(
                f"beton allocation table must have whole records of {TABLE_DTYPE.itemsize} bytes, "
                f"at most {INDEX_BYTES}, got {size} bytes"
            )
        table = np.frombuffer(self._read(offset, size), TABLE_DTYPE)
        table = table[table["size"] > 0]
        table = table[np.argsort(table["ptr"], kind="stable")]
        self._check_regions(table)
        again = np.zeros(len(table), bool)  # samples may share their data
        again[1:] = table["ptr"][1:] == table["ptr"][:-1]
        table = table[~again]
        return table["ptr"].copy(), table["size"].astype(np.int64)

    def _check_regions(self, table: NDArray[Any]) -> None:
        """Raise FormatError: data of no sample, outside the pages, across two, or overlapping."""
        low, high = self._data_range
        starts, sizes = table["ptr"], table["size"]
        page = np.uint64(self.header.page_bytes)
        inside = (starts >= low) & (starts < high) & (sizes <= page)
        inside &= sizes <= page - starts % page  # no sum of hostile numbers that could wrap
        inside &= sizes <= high - np.minimum(starts, high)
        inside &= table["sample_id"] < self.header.num_samples
        if not inside.all():
            at = int(np.argmin(inside))
            raise FormatError(
                f"beton data must belong to a sample and lie in one data page, got {sizes[at]} "
                f"bytes at byte {starts[at]} for sample {table['sample_id'][at]}"
            )
        ends = starts + sizes
        same = (starts[1:] == starts[:-1]) & (sizes[1:] == sizes[:-1])
        if not (same | (starts[1:] >= ends[:-1])).all():
            at = int(np.argmin(same | (starts[1:] >= ends[:-1])))
            raise FormatError(f"beton data must not overlap, got two regions at {starts[at + 1]}")

    def _read(self, offset: int, size: int) -> bytes:
        """Return bytes of the file. Raises FormatError: they are not all there."""
        if size and size > self._bytes - offset:
            raise FormatError(
                f"beton must have {offset + size} bytes or more, got {self._bytes}",
                why="the file was cut",
            )
        parts = []
        while size:
            part = os.pread(self._descriptor, size, offset)
            if not part:
                raise FormatError("beton became shorter while it was read")
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)
