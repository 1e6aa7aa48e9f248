"""The exporter `ffcv`: a view set as one `.beton` file, and its record beside it.

docs/ffcv.md says what is in the file; beton/sidecar.py reads the record.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.beton import layout
from viewstore.beton.layout import JPG, RAW, Field, Kind
from viewstore.beton.sidecar import KIND, read_sidecar, sidecar_of
from viewstore.beton.writer import TABLE_SUFFIX, Picture, Value, write_beton
from viewstore.errors import ConfigError
from viewstore.export.selection import (
    Exported,
    Selection,
    another_export,
    are_whole,
    cannot_take,
    check_export_space,
    check_pictures,
)
from viewstore.files import disk
from viewstore.files.disk import drop_leftovers
from viewstore.format.columns import Column
from viewstore.format.records import seal
from viewstore.images.header import LIMITS, read_size
from viewstore.progress import Progress, Silent
from viewstore.store.view_set import ViewSet

CHUNK_ROWS = 1024

# ffcv has 16 letters for a name, and two standard columns have more.
SHORT_NAMES = {"mean_pair_distance": "mean_pair_dist", "min_pair_distance": "min_pair_dist"}


def fields_of(view_set: ViewSet, columns: Sequence[Column]) -> tuple[Field, ...]:
    """Return the fields of an export: v0, v1, ..., index, label, key, then the columns.

    Raises:
        ConfigError: Two fields would have one name, or a name is too long for ffcv.
    """
    fields = [Field(f"v{view}", Kind.RGB) for view in range(view_set.num_views)]
    fields += [Field("index", Kind.INT), Field("label", Kind.INT), Field("key", Kind.BYTES)]
    for column in columns:
        shape = column.shape or (1,)
        name = SHORT_NAMES.get(column.name, column.name)
        fields.append(Field(name, Kind.NDARRAY, _dtype_of(column).str, shape))
    layout.check_names(fields)
    return tuple(fields)


def _dtype_of(column: Column) -> np.dtype[Any]:
    """Return the dtype of a column's field: float16 is widened, on it stock ffcv hangs."""
    return np.dtype("<f4") if column.dtype == "f2" else column.numpy_dtype


def export_beton(
    selection: Selection,
    out: Path,
    *,
    page_bytes: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write a selection to the file `out`, and its record beside it.

    The file appears whole or not at all; the same selection gives the same bytes. What is there
    already and is this very export is left alone.

    Args:
        selection: What to write.
        out: The `.beton`.
        page_bytes: Power of two; None takes 8 MiB, or more where a sample needs it.
        overwrite: Replace another export that is there.
        progress: Advanced by 1 for each sample that was written.

    Raises:
        ConfigError: `out` is a folder, a file that no export wrote, or another export; or the
            view set does not fit the format.
        FormatError: `page_bytes` is no page size, or the record of the file that is at `out` is
            damaged.
        UnavailableError: The disk is too small.
    """
    check_pictures(selection)
    fields = fields_of(selection.view_set, selection.columns)
    sizes = _data_sizes(selection, fields)
    page_bytes = page_bytes or _page_for(int(sizes.max()))
    layout.check_page_bytes(page_bytes)
    facts = {"selection": selection.digest, "page_bytes": page_bytes}
    count = len(selection.rows)
    if _is_done(out, facts, overwrite=overwrite):
        return Exported.of(selection, [out], already=True)
    disk.make_directory(out.absolute().parent)
    drop_leftovers(out, companions=(TABLE_SUFFIX,))
    check_export_space(out.absolute().parent, _file_bytes(fields, sizes, page_bytes))

    def write(temporary: Path) -> None:
        write_beton(temporary, fields, _samples(selection, progress), count, page_bytes)
        record = {
            "store_id": selection.store.store_id,
            "rows": count,
            "sha256": disk.sha256_of(temporary),
            "view_set": selection.view_set.name,
            "label_names": list(selection.store.label_names),
            **facts,
        }
        # First, so that no crash leaves a file that seems to be nobody's: until the file has
        # its name too, the two do not match, and readers say so.
        disk.write_atomic(sidecar_of(out), seal(KIND, record))

    disk.write_atomic_with(out, write)
    return Exported.of(selection, [out], already=False)


def _is_done(out: Path, facts: dict[str, Any], *, overwrite: bool) -> bool:
    """Return whether `out` is this export, whole. Raises ConfigError: it must not be replaced."""
    if not out.exists():
        return False
    if not out.is_file():
        raise ConfigError(f"--out must name a file, and {out} is not one", where=str(out))
    record = read_sidecar(out)
    if record is None:
        raise cannot_take(
            out,
            why=f"no export wrote it: it has no record beside it, {sidecar_of(out).name}",
            fix="name another --out, or remove it",
        )
    if all(record[name] == value for name, value in facts.items()):
        return are_whole({out: record["sha256"]})
    if not overwrite:
        raise another_export(out)
    return False


def _page_for(largest: int) -> int:
    """Return the default page size, or the least one that holds `largest` bytes."""
    return max(layout.DEFAULT_PAGE_BYTES, 1 << (largest - 1).bit_length())


def _file_bytes(fields: Sequence[Field], sizes: NDArray[np.int64], page_bytes: int) -> int:
    """Return the size of the file whose samples have data of `sizes` bytes."""
    ends = np.cumsum(sizes)
    pages = paged = 0
    while paged < len(sizes):
        begin = int(ends[paged - 1]) if paged else 0
        paged = int(np.searchsorted(ends, begin + page_bytes, side="right"))
        pages += 1
    records = len(sizes) * layout.record_dtype(fields).itemsize
    regions = sum(field.kind in (Kind.RGB, Kind.BYTES, Kind.NDARRAY) for field in fields)
    return (
        layout.first_page(len(fields), records, page_bytes)
        + pages * page_bytes
        + len(sizes) * regions * layout.TABLE_DTYPE.itemsize
    )


def _data_sizes(selection: Selection, fields: Sequence[Field]) -> NDArray[np.int64]:
    """Return the bytes of each sample's data."""
    views, rows = selection.view_set, selection.rows
    if views.codec.suffix == "jpg":
        first = len(views.plan.members) - views.num_views  # `cls` and `json` come first
        pictures = views.members["size"][rows, first:].sum(axis=1, dtype=np.int64)
    else:
        pictures = np.full(len(rows), views.num_views * views.height * views.width * 3)
    keys = selection.store.keys
    names = np.array([len(keys[row].encode()) + 1 for row in rows.tolist()])
    arrays = sum(field.array_bytes for field in fields if field.kind is Kind.NDARRAY)
    sizes: NDArray[np.int64] = pictures + names + arrays
    return sizes


def _samples(selection: Selection, progress: Progress | None) -> Iterator[list[Value]]:
    """Yield the values of each sample, in the order of the fields."""
    progress = progress or Silent()
    store = selection.store
    for begin in range(0, len(selection.rows), CHUNK_ROWS):
        rows = selection.rows[begin : begin + CHUNK_ROWS]
        columns = [
            selection.read(each.name, rows).astype(_dtype_of(each)) for each in selection.columns
        ]
        for index, row in enumerate(rows.tolist()):
            # The NUL ends the key: ffcv's decoder leaves the end of a longer one behind it.
            key = store.keys[row].encode() + b"\0"
            values: list[Value] = [row, int(store.labels[row]), key]
            arrays = [column[index].tobytes() for column in columns]
            yield [*_pictures(selection.view_set, row), *values, *arrays]
            progress.advance(1)


def _pictures(view_set: ViewSet, row: int) -> list[Picture]:
    """Return the views of a row: JPEG files as they are, everything else as pixels."""
    if view_set.codec.suffix == "jpg":
        members = view_set.payloads(row)
        files = [members[name] for name in view_set.plan.members if name.endswith(".jpg")]
        return [Picture(JPG, *_jpeg_size(data), data) for data in files]
    views = view_set[row]
    pixels = np.ascontiguousarray(np.broadcast_to(views, (*views.shape[:3], 3)))
    return [Picture(RAW, views.shape[1], views.shape[2], view.tobytes()) for view in pixels]


def _jpeg_size(data: bytes) -> tuple[int, int]:
    size = read_size(data, "jpg", LIMITS)
    assert size is not None
    return size
