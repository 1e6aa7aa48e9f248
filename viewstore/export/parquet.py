"""The exporter `parquet`: a view set as one table, a line for each view, with or without pictures.

pandas, DuckDB and Hugging Face datasets read it; docs/tables.md says what is in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, FormatError
from viewstore.export.selection import (
    Exported,
    Selection,
    another_export,
    cannot_take,
    check_export_space,
    check_pictures,
)
from viewstore.files import disk
from viewstore.files.disk import claimed_stream, drop_leftovers
from viewstore.format.records import seal, unseal
from viewstore.format.tar import member_name
from viewstore.images.png import Png
from viewstore.progress import Progress, Silent
from viewstore.store.flat import Samples, flat_table, package
from viewstore.store.view_set import ViewSet

if TYPE_CHECKING:
    import pyarrow as pa

KIND = "viewstore-parquet"
FORM = {"sources_id": str, "view_set": str, "rows": int, "selection": str, "images": bool}
RECORD, SEAL = b"viewstore", b"viewstore.sha256"  # keys of the metadata of the file
UNSEALED = b"0" * 64
GROUP_LINES = 1 << 16
GROUP_BYTES = 64 << 20
PIECE = 1 << 20
END = 8  # the size of the footer and the letters PAR1


def export_parquet(
    selection: Selection,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write a selection to the file `out`, one row group after the other.

    The same selection gives the same bytes, as long as pyarrow is the same. What is this very
    export already is left alone: the file carries a record of what was chosen, and a sha256 of
    all else in it.

    Args:
        selection: What to write; pictures too if it has `images`.
        out: The `.parquet`.
        overwrite: Replace another export that is there.
        progress: Advanced by 1 for each sample that was written.

    Raises:
        ConfigError: `out` is a folder, a file that no export wrote, or another export; or the
            view set has no pictures, and the selection has `images`.
        UnavailableError: The disk is too small, or pyarrow is not installed.
    """
    parquet = package("pyarrow.parquet")
    if selection.images:
        check_pictures(selection)
    record = {
        "sources_id": selection.store.manifest.sources_id,
        "view_set": selection.view_set.name,
        "rows": len(selection.rows),
        "selection": selection.digest,
        "images": selection.images,
    }
    if _is_done(out, record, overwrite=overwrite):
        return Exported.of(selection, [out], already=True)
    disk.make_directory(out.absolute().parent)
    drop_leftovers(out)
    check_export_space(out.absolute().parent, len(selection.rows) * _sample_bytes(selection))
    schema = _table(selection, selection.rows[:0]).schema

    def write(temporary: Path) -> None:
        with claimed_stream(temporary) as stream:
            numbers = [name for name in schema.names if name != "image"]
            with parquet.ParquetWriter(
                stream,
                schema,
                compression="zstd",
                use_dictionary=numbers,
                write_page_checksum=True,
            ) as writer:
                for rows in _groups(selection):
                    writer.write_table(_table(selection, rows))
                    (progress or Silent()).advance(len(rows))
                writer.add_key_value_metadata({RECORD: seal(KIND, record), SEAL: UNSEALED})
            stream.flush()
            at, sha256 = _sealed(temporary, UNSEALED)
            stream.seek(at)
            stream.write(sha256.encode())

    disk.write_atomic_with(out, write)
    return Exported.of(selection, [out], already=False)


def _is_done(out: Path, record: dict[str, Any], *, overwrite: bool) -> bool:
    """Return whether `out` is this export, whole. Raises ConfigError: it must not be replaced."""
    if not out.exists():
        return False
    if not out.is_file():
        raise ConfigError(f"--out must name a file, and {out} is not one", where=str(out))
    found = _metadata(out)
    try:
        there = unseal(found.get(RECORD, b""), kind=KIND, form=FORM)
    except FormatError:
        raise cannot_take(
            out,
            why="no export wrote it: it has no record of one inside",
            fix="name another --out, or remove it",
        ) from None
    if all(there[name] == value for name, value in record.items()):
        return _is_whole(out, found.get(SEAL, b""))
    if not overwrite:
        raise another_export(out)
    return False


def _is_whole(out: Path, sha256: bytes) -> bool:
    try:
        return _sealed(out, sha256)[1].encode() == sha256
    except ValueError:  # the metadata was read from a file that is another one now
        return False


def _metadata(out: Path) -> dict[bytes, bytes]:
    """Return the keys and values in the footer of a file; none if it is no Parquet file."""
    parquet = package("pyarrow.parquet")
    try:
        return parquet.read_metadata(out).metadata or {}
    except Exception:  # a foreign parser on the bytes of others may raise anything
        return {}


def _sealed(path: Path, sha256: bytes) -> tuple[int, str]:
    """Return where `sha256` stands in the footer of a file, and the sha256 of all else in it.

    Raises:
        ValueError: It does not stand there.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(size - END)
        begin = size - END - int.from_bytes(file.read(4), "little")
        file.seek(max(begin, 0))
        at = begin + file.read().rindex(sha256)
        digest = hashlib.sha256()
        for first, end in ((0, at), (at + len(sha256), size)):
            _feed(digest, file, first, end)
    return at, digest.hexdigest()


def _feed(digest: Any, file: BinaryIO, first: int, end: int) -> None:  # noqa: ANN401
    file.seek(first)
    for begin in range(first, end, PIECE):
        digest.update(file.read(min(PIECE, end - begin)))


def _groups(selection: Selection) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of each row group: a group is whole in memory while it is written."""
    lines = GROUP_LINES // selection.view_set.num_views
    count = max(1, min(lines, GROUP_BYTES // _sample_bytes(selection)))
    for begin in range(0, len(selection.rows), count):
        yield selection.rows[begin : begin + count]


def _sample_bytes(selection: Selection) -> int:
    """Return what a sample of the selection takes in memory, on the average."""
    views, store = selection.view_set, selection.store
    size = sum(
        column.row_bytes * (1 if column.per == "view" else views.num_views)
        for column in selection.columns
    )
    size += views.num_views * (32 + len(store.keys[int(selection.rows[0])].encode()))
    if not selection.images:
        return size
    if views.codec.encoded:
        return size + int(views.members["size"][selection.rows].sum(axis=1).mean())
    return size + views.num_views * (views.height * views.width * 3 + 1024)


def _table(selection: Selection, rows: NDArray[np.int64]) -> pa.Table:
    """Return the lines of some rows, with what Hugging Face datasets want to know of them."""
    arrow = package("pyarrow")
    store, views = selection.store, selection.view_set
    samples = Samples(store.keys, store.labels, views.num_views)
    table = flat_table(selection.read, samples, selection.columns, rows)
    if selection.images:
        kind = arrow.struct({"bytes": arrow.binary(), "path": arrow.string()})
        pictures = [picture for row in rows.tolist() for picture in _pictures(views, row)]
        table = table.append_column("image", arrow.array(pictures, kind))
    features = {field.name: _feature(field.type) for field in table.schema}
    if selection.images:
        features["image"] = {"_type": "Image"}
    if store.label_names:
        features["label"] = {"names": list(store.label_names), "_type": "ClassLabel"}
    information = json.dumps({"info": {"features": features}})
    return table.replace_schema_metadata({"huggingface": information})


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """Return what Hugging Face datasets call a type: lists in lists, down to numbers."""
    if hasattr(kind, "list_size"):
        return {"feature": _feature(kind.value_type), "length": kind.list_size, "_type": "Sequence"}
    name = {"halffloat": "float16", "float": "float32"}.get(str(kind), str(kind))
    return {"dtype": name, "_type": "Value"}


def _pictures(views: ViewSet, row: int) -> Iterator[dict[str, Any]]:
    """Yield the views of a row as files: those that are stored, or PNG of raw pixels."""
    if views.codec.encoded:
        files = views.payloads(row)
        found = [(name, files[name]) for name in views.plan.members if name != "json"]
    else:
        png = Png()
        shape = (views.num_views, views.height, views.width, 3)
        pixels = np.broadcast_to(views[row], shape)
        found = [(f"v{view}.png", png.encode(each)) for view, each in enumerate(pixels)]
    for name, data in found:
        yield {"bytes": data, "path": member_name(row, name)}
