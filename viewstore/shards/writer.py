"""One shard as files: the tar of a set of pixels, the params pack; written, then read back."""

from __future__ import annotations

import mmap
import random
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import FormatError, ViewStoreError
from viewstore.files import disk
from viewstore.format.chunks import pack_chunk, pack_params, unpack_params
from viewstore.format.columns import MADE
from viewstore.format.manifest import BlobRecord, blob_name
from viewstore.format.plan import Plan
from viewstore.format.tar import (
    TarWriter,
    member_name,
    member_names,
    pack_npy_header,
    pack_sample,
    padded,
    parse,
)
from viewstore.images.codec import Codec
from viewstore.shards.commit import Blob
from viewstore.shards.unit import Rendered, Rows, Unit
from viewstore.store.column_content import PIXEL_CRC, pixel_crcs
from viewstore.store.shard_content import check_member


class ShardWriter:
    """Writes the members of each row into the tar, and collects the params of all rows.

    `add` takes each row once, in order; `write_columns` then writes the params. `columns` holds
    them by name, [rows of the unit, ...].
    """

    def __init__(self, plan: Plan, codec: Codec, rows: Rows, unit: Unit) -> None:
        self.plan, self.codec, self.rows, self.unit = plan, codec, rows, unit
        self.columns = {column.name: column.empty(unit.num_samples) for column in plan.columns}
        shape = (plan.views, plan.height, plan.width, plan.channels)
        self.shape = shape
        self.npy_header = pack_npy_header(repr("|u1"), shape)

    def add(self, tar: TarWriter, rendered: Rendered) -> None:
        """Append the members of a row. Raises ViewStoreError if its views have another shape."""
        params = dict(rendered.params)
        if self.plan.kind == "pixels" or PIXEL_CRC in self.columns:
            pixels = self._checked(rendered)
            for extension in self.plan.members:
                payload = self._payload(extension, rendered, pixels)
                tar.add(member_name(rendered.index, extension), payload)
            if PIXEL_CRC in self.columns:
                params[PIXEL_CRC] = pixel_crcs(pixels, np.isin(params["status"], MADE))
        for name, column in self.columns.items():
            column[rendered.index - self.unit.first] = params[name]

    def _checked(self, rendered: Rendered) -> NDArray[np.uint8]:
        pixels = rendered.pixels
        if pixels is None or pixels.shape != self.shape or pixels.dtype != np.uint8:
            found = "none" if pixels is None else f"{pixels.dtype} {pixels.shape}"
            raise ViewStoreError(
                f"views of row {rendered.index} must be uint8 {self.shape}, got {found}"
            )
        return pixels

    def _payload(self, extension: str, rendered: Rendered, pixels: NDArray[np.uint8]) -> bytes:
        if extension == "json":
            text = _sample(self.plan.first_name, rendered.index, self.rows)
            return text.ljust(self.plan.json_bytes - 1) + b"\n"
        if extension == "views.npy":
            return self.npy_header + np.ascontiguousarray(pixels).tobytes()
        view = int(extension.removeprefix("v").partition(".")[0])
        kept = rendered.encoded[view] if rendered.encoded else None
        return self.codec.encode(pixels[view]) if kept is None else kept

    def write_columns(
        self, tmp: Path, attempt: str, members: NDArray[Any]
    ) -> tuple[dict[str, tuple[int, int, str]], list[Blob]]:
        """Write the params pack, and each column that has a file of its own.

        `members` is the tar's table of members. Returns the (offset, size, sha256) of each
        packed column, and the written files.
        """
        chunks = {
            column.name: pack_chunk(column, self.columns[column.name], self.plan.shard_rows)
            for column in self.plan.columns
        }
        packed = {c.name: chunks[c.name] for c in self.plan.columns if c.pack}
        pack = pack_params(members, packed)
        unpack_params(pack.data, list(packed))
        payloads = {"params": pack.data} | {
            f"column:{c.name}": chunks[c.name] for c in self.plan.columns if not c.pack
        }
        blobs = []
        for number, (role, data) in enumerate(payloads.items()):
            path = tmp / f"{attempt}.{number}"
            disk.write_temporary(path, data, mode=0o444)
            blobs.append(blob_of(self.unit.shard, role, path, len(data), disk.sha256_of(path)))
        return pack.columns, blobs


def _sample(view_set: str, row: int, rows: Rows) -> bytes:
    return pack_sample(view_set, row, rows.key(row), rows.label(row))


def json_bytes(view_set: str, num_rows: int, rows: Rows) -> int:
    """Return the size that every json member of a view set has."""
    longest = max((len(_sample(view_set, row, rows)) for row in range(num_rows)), default=0)
    return padded(longest + 1)


def check_views(path: Path, plan: Plan, codec: Codec, unit: Unit, members: NDArray[Any]) -> None:
    """Read a written shard back: strict tar, every CRC, and three rows decoded.

    Raises:
        FormatError: The file does not hold what was meant to be written.
    """
    names = member_names(plan, range(unit.first, unit.first + unit.num_samples))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = parse(memoryview(data).toreadonly(), names)
        if not np.array_equal(found, members):
            raise FormatError("shard does not read back as it was written", where=str(path))
        grid = found.reshape(unit.num_samples, len(plan.members))
        last = unit.num_samples - 1
        for row in {0, last, random.Random(unit.shard).randint(0, last)}:
            for member, extension in zip(grid[row], plan.members, strict=True):
                begin, size = int(member["offset"]), int(member["size"])
                check_member(plan, codec, extension, data[begin : begin + size])


def blob_of(shard: int, role: str, temporary: Path, size: int, sha256: str) -> Blob:
    """Return a written file as a blob that waits for its name."""
    name = blob_name(shard, sha256, role)
    return Blob(
        record=BlobRecord(role=role, name=name, bytes=size, sha256=sha256), temporary=temporary
    )
