"""The exporter `webdataset`: a view set as numbered tars with labels and params, and an index.

The shards of a store are such tars already; these have plain names, for brace patterns, and
carry what else is known of each sample: `cls`, and each params column as `<column>.npy`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from viewstore.files.disk import claimed_stream, drop_leftovers
from viewstore.files.local import LOCAL
from viewstore.format.records import LARGE_BYTES, canonical, check_form, parse
from viewstore.format.tar import (
    BLOCK,
    NPY_BYTES,
    TarWriter,
    member_name,
    pack_npy,
    pack_sample,
    padded,
)
from viewstore.progress import Progress, Silent

INDEX = "index.json"
KIND = "viewstore-webdataset"
SHARDS = [{"url": str, "nsamples": int, "filesize": int, "hash": str}]
TAR_NAME = re.compile(r"\d{6}\.tar")  # no other name in an index is one of ours
KEY_BYTES = 4096  # at most of the json of a sample
LABEL_DIGITS = 7  # webdataset decodes `cls` as a number


def export_tar(
    selection: Selection,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write a selection into the folder `out`: a tar for each shard, then index.json.

    The index comes last: a folder without one is an export that was stopped, and is begun again.
    The same selection gives the same bytes; what is this very export already is left alone.

    Args:
        selection: What to write.
        out: The folder; it is made if it is missing.
        overwrite: Replace another export that is there.
        progress: Advanced by 1 for each sample that was written.

    Raises:
        ConfigError: `out` is a file, or a folder that holds another export or something else.
        FormatError: `out` holds an export whose index is damaged.
        UnavailableError: The disk is too small.
    """
    check_pictures(selection)
    shards = dict(_shards(selection))
    paths = [out / f"{number:06d}.tar" for number in range(len(shards))]
    index = _index_of(out, paths)
    if index is not None and index["viewstore"] == _facts(selection):
        if _is_whole(out, paths, index):
            return Exported.of(selection, paths, already=True)
    elif index is not None and not overwrite:
        raise another_export(out)
    disk.make_directory(out.absolute())
    check_export_space(out, _bytes_of(selection))
    _clear(out, paths, index)
    entries = []
    for path, rows in zip(paths, shards.values(), strict=True):
        drop_leftovers(path)
        entries.append(_write_shard(selection, rows, path, progress or Silent()))
    record = {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": selection.view_set.name,
        "shardlist": entries,
        "viewstore": _facts(selection),
    }
    disk.write_atomic(out / INDEX, canonical(record))
    return Exported.of(selection, paths, already=False)


def _facts(selection: Selection) -> dict[str, Any]:
    return {
        "format": 1,
        "kind": KIND,
        "sources_id": selection.store.manifest.sources_id,
        "rows": len(selection.rows),
        "selection": selection.digest,
        "label_names": list(selection.store.label_names),
    }


def _index_of(out: Path, paths: list[Path]) -> dict[str, Any] | None:
    """Return the index of the export in `out`, None before its end or where nothing is.

    Raises:
        ConfigError: `out` is a file, or holds what no export wrote.
        FormatError: The index is damaged.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out must name a folder, and {out} is a file", where=str(out))
    found = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if INDEX not in found:
        unfinished = {path.name for path in paths}
        foreign = {name for name in found - unfinished if not name.startswith(".")}
        if foreign:
            raise _foreign(out, f"it holds {min(foreign)}, which no export wrote")
        return None
    index: dict[str, Any] = LOCAL.record(out / INDEX, LARGE_BYTES, parse)
    recorded = index.get("viewstore")
    if not isinstance(recorded, dict) or recorded.get("kind") != KIND:
        raise _foreign(out, f"its {INDEX} is not that of an export")
    check_form(index.get("shardlist"), SHARDS, INDEX)
    return index


def _is_whole(out: Path, paths: list[Path], index: dict[str, Any]) -> bool:
    """Return whether all tars of an export are there as its index says."""
    digests = {entry["url"]: entry["hash"] for entry in index["shardlist"]}
    named = list(digests) == [path.name for path in paths]
    return named and are_whole({out / url: sha256 for url, sha256 in digests.items()})


def _clear(out: Path, paths: list[Path], index: dict[str, Any] | None) -> None:
    """Remove an index, and first the tars of its export that no new ones will replace.

    While the index is there a kill leaves an export that can be replaced, not tars of nobody.
    """
    for entry in [] if index is None else index["shardlist"]:
        path = out / entry["url"]
        if TAR_NAME.fullmatch(entry["url"]) and path not in paths:
            disk.unlink(path)
    disk.unlink(out / INDEX)


def _foreign(out: Path, why: str) -> ConfigError:
    return cannot_take(out, why=why, fix="name another --out, or empty this folder")


def _shards(selection: Selection) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield the chosen rows of each shard of the store that has any."""
    numbers = selection.rows // selection.store.shard_rows
    for number in np.unique(numbers).tolist():
        yield number, selection.rows[numbers == number]


def _write_shard(
    selection: Selection, rows: NDArray[np.int64], path: Path, progress: Progress
) -> dict[str, Any]:
    """Write a tar; return its entry in the index."""
    entry: dict[str, Any] = {"url": path.name, "nsamples": len(rows)}

    def write(temporary: Path) -> None:
        with claimed_stream(temporary) as stream:
            tar = TarWriter(stream)
            for row, members in zip(rows.tolist(), _members(selection, rows), strict=True):
                for extension in sorted(members):
                    tar.add(member_name(row, extension), members[extension])
                progress.advance(1)
            tar.finish()
        entry.update(filesize=tar.bytes, hash=tar.sha256.hexdigest())

    disk.write_atomic_with(path, write)
    return entry


def _members(selection: Selection, rows: NDArray[np.int64]) -> Iterator[dict[str, bytes]]:
    """Yield the members of each row by extension; every row has the same ones."""
    views, labels = selection.view_set, selection.store.labels
    columns = {c.name: selection.read(c.name, rows) for c in selection.columns}
    labelled = bool((labels[selection.rows] >= 0).all())
    for index, row in enumerate(rows.tolist()):
        members = dict(views.payloads(row)) if views.kind == "pixels" else _rendered(selection, row)
        if labelled:
            members["cls"] = b"%0*d" % (LABEL_DIGITS, labels[row])
        for name, values in columns.items():
            members[f"{name}.npy"] = pack_npy(values[index])
        yield members


def _rendered(selection: Selection, row: int) -> dict[str, bytes]:
    """Return the members of a row whose views are rendered now, as a raw set stores them."""
    views, store = selection.view_set, selection.store
    json = pack_sample(views.plan.first_name, row, store.keys[row], int(store.labels[row]))
    return {"json": json + b"\n", "views.npy": pack_npy(views[row])}


def _bytes_of(selection: Selection) -> int:
    """Return an upper bound of the size of all tars."""
    sizes = selection.view_set.members["size"][selection.rows].astype(np.int64)
    stored = int((-(-sizes // BLOCK) * BLOCK + BLOCK).sum())
    if selection.view_set.kind == "recipe":
        plan = selection.view_set.plan
        pixels = plan.views * plan.height * plan.width * plan.channels
        stored = len(selection.rows) * (2 * BLOCK + padded(NPY_BYTES + pixels) + KEY_BYTES)
    columns = sum(BLOCK + padded(NPY_BYTES + c.row_bytes) for c in selection.columns)
    ends = 2 * BLOCK * (len(selection.rows) // selection.store.shard_rows + 2)
    return stored + len(selection.rows) * (columns + 2 * BLOCK) + ends
