"""Stores of as many rows as are asked for, of which a disk holds little: shards are sparse files.

Their records, tables and params are those of a real store that was built small, made longer. What
a raw view reads as is zeros; all views of a jpg shard are the same picture.
"""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import viewstore
from viewstore.build.adopt import make_folders
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.format.chunks import chunk_key, pack_chunk
from viewstore.format.manifest import (
    BlobRecord,
    Commit,
    Index,
    Manifest,
    ShardEntry,
    ViewSetEntry,
    blob_name,
)
from viewstore.format.paths import StorePaths, ViewSetPaths
from viewstore.format.plan import Plan
from viewstore.format.records import seal
from viewstore.format.stats import pack_stats
from viewstore.format.tar import BLOCK, MEMBER_DTYPE, NPY_BYTES, npy_header, padded
from viewstore.images.codec import codec_from_plan
from viewstore.sources.record import KIND, NUMBERS

SHARD_ROWS = 1024
SIDE = 32
VIEWS = 2
AT_ONCE = 1 << 18
KEY_DIGITS = 10
CODECS = ("jpg", "raw")

Part = Callable[[int, int], NDArray[Any]]


def simulate(root: Path, rows: int, *, views: int = VIEWS, codecs: Sequence[str] = CODECS) -> None:
    """Make a store of `rows` rows at `root`, with a view set of 32 px views for each codec."""
    plans = _small_plans(root.with_name(root.name + "-small"), views, codecs)
    paths = StorePaths(root)
    make_folders(paths.folders)
    sources_id = _write_sources(paths, rows)
    entries = {
        name: _write_view_set(
            paths.view_set(name),
            replace(plan, rows=rows, shard_rows=SHARD_ROWS, sources_id=sources_id),
        )
        for name, plan in plans.items()
    }
    manifest = Manifest(
        generation=1, previous=None, complete=True, sources_id=sources_id, view_sets=entries
    )
    paths.generation(1).write_bytes(manifest.pack())
    paths.manifest.write_bytes(manifest.pack())


def _small_plans(out: Path, views: int, codecs: Sequence[str]) -> dict[str, Plan]:
    for codec in codecs:
        build(
            BuildRequest(
                generator="simclr",
                out=out,
                view_set=codec,
                source="digits",
                codec=codec,
                limit=64,
                settings={"height": SIDE, "width": SIDE, "views": views},
                workers=1,
            )
        )
    return {name: views.plan for name, views in viewstore.open(out).view_sets.items()}


def _write_array(path: Path, dtype: str | np.dtype[Any], shape: tuple[int, ...], part: Part) -> Any:  # noqa: ANN401
    """Write an npy file whose rows [begin, end) `part` returns; return its bytes and sha256."""
    form = np.dtype(dtype)
    digest = hashlib.sha256()
    size = 0
    with path.open("wb") as file:
        for data in _pieces(form, shape, part):
            size += file.write(data)
            digest.update(data)
    return size, digest.hexdigest()


def _pieces(form: np.dtype[Any], shape: tuple[int, ...], part: Part) -> Iterator[bytes]:
    yield npy_header(form, shape)
    for begin in range(0, shape[0], AT_ONCE):
        yield part(begin, min(shape[0], begin + AT_ONCE)).astype(form, copy=False).tobytes()


def _write_sources(paths: StorePaths, rows: int) -> str:
    def keys(begin: int, end: int) -> NDArray[Any]:
        powers = 10 ** np.arange(KEY_DIGITS - 1, -1, -1)
        letters = np.arange(begin, end)
        first, last = begin // KEY_DIGITS, -(-end // KEY_DIGITS)
        digits = np.arange(first, last)[:, None] // powers % 10 + ord("0")
        return digits.reshape(-1)[letters - first * KEY_DIGITS]

    numbers: dict[str, Part] = {
        "label": lambda begin, end: np.arange(begin, end) % 1000,
        "offset": np.arange,
        "size": lambda begin, end: np.full(end - begin, SIDE * SIDE),
        "height": lambda begin, end: np.full(end - begin, SIDE),
        "width": lambda begin, end: np.full(end - begin, SIDE),
    }
    columns: dict[str, tuple[str, int, Part]] = {
        "key_bytes": ("|u1", rows * KEY_DIGITS, keys),
        "key_offset": ("<u8", rows + 1, lambda a, b: np.arange(a, b) * KEY_DIGITS),
        "key_order": ("<u8", rows, np.arange),
    }
    for name, dtype in NUMBERS.items():
        zeros: Part = lambda begin, end: np.zeros(end - begin)  # noqa: E731
        columns[name] = (dtype, rows, numbers.get(name, zeros))
    stored = {}
    for name, (dtype, count, part) in columns.items():
        size, sha256 = _write_array(paths.sources / name, dtype, (count,), part)
        file = f"{name}-{sha256[:16]}.npy"
        (paths.sources / name).rename(paths.sources / file)
        stored[name] = [file, size, sha256]
    record = seal(
        KIND,
        {
            "rows": rows,
            "shard_rows": SHARD_ROWS,
            "parts": [["simulated", "array", None, None]],
            "columns": stored,
            "label_names": [],
        },
    )
    paths.sources_record.write_bytes(record)
    return str(_digest_of(record))


def _digest_of(record: bytes) -> Any:  # noqa: ANN401
    import json

    return json.loads(record)["digest"]


def _write_view_set(paths: ViewSetPaths, plan: Plan) -> ViewSetEntry:
    make_folders([*paths.folders, paths.params, paths.members.parent])
    paths.plan.write_bytes(plan.pack())
    members, head, row_bytes = _shard_form(plan)
    commits = {}
    for shard in range(plan.shards):
        rows = len(plan.shard_range(shard))
        size = rows * row_bytes + 2 * BLOCK
        sha256 = hashlib.sha256(f"{plan.view_set} {shard}".encode()).hexdigest()
        blob = BlobRecord(
            role="views", name=blob_name(shard, sha256, "views"), bytes=size, sha256=sha256
        )
        with (paths.root / blob.name).open("wb") as file:
            file.write(head)
            file.truncate(size)
        pack = BlobRecord(
            role="params", name=blob_name(shard, sha256, "params"), bytes=1, sha256=sha256
        )
        (paths.root / pack.name).write_bytes(bytes(1))  # never read: the chunks below are
        commits[shard] = Commit(
            view_set=plan.view_set,
            plan_id=plan.id,
            entry=ShardEntry(
                shard=shard,
                rows=rows,
                files=(blob, pack),
                columns={column.name: (0, 1, sha256) for column in plan.columns},
            ),
            attempt="",
            seconds=0.0,
            host="",
            created="",
        )
    derived = {}
    values = {}
    for column in plan.columns:
        values[column.name] = np.ones((SHARD_ROWS, *column.shape), column.numpy_dtype)
        _link_chunks(paths, plan, column.name, pack_chunk(column, values[column.name], SHARD_ROWS))
    index = Index.of(plan, commits)
    for name, data in (("index.json", index.pack()), ("stats.json", pack_stats(plan, values))):
        (paths.root / name).write_bytes(data)
        derived[name] = (len(data), hashlib.sha256(data).hexdigest())
    derived["index/members.npy"] = _write_array(
        paths.members,
        MEMBER_DTYPE,
        (plan.rows, len(plan.members)),
        lambda begin, end: members[np.arange(begin, end) % SHARD_ROWS],
    )
    return ViewSetEntry(plan_id=plan.id, root=index.root, derived=derived)


def _shard_form(plan: Plan) -> tuple[NDArray[Any], bytes, int]:
    """Return the members of a shard's rows, its first bytes, and the bytes of a row."""
    members = np.zeros((SHARD_ROWS, len(plan.members)), MEMBER_DTYPE)
    if plan.view_set == "raw":
        strided = Index.of(plan, {}).strided
        assert strided is not None
        size = NPY_BYTES + plan.views * SIDE * SIDE * 3
        members["offset"][:, -1] = (
            strided.offset - NPY_BYTES + strided.stride * np.arange(SHARD_ROWS)
        )
        members["size"][:, -1] = size
        members["crc32"][:, -1] = zlib.crc32(bytes(size))
        return members, b"", strided.stride
    waves = np.add.outer(np.arange(SIDE), np.arange(SIDE)).astype(np.uint8) * 4
    picture = codec_from_plan(plan.codec).encode(np.repeat(waves[:, :, None], 3, axis=2))
    members["offset"] = BLOCK
    members["size"] = len(picture)
    members["crc32"] = zlib.crc32(picture)
    head = io.BytesIO()
    head.write(bytes(BLOCK))
    head.write(picture)
    return members, head.getvalue(), len(plan.members) * (BLOCK + padded(len(picture)))


def _link_chunks(paths: ViewSetPaths, plan: Plan, name: str, chunk: bytes) -> None:
    """Give each shard the same chunk, a few thousand names a file."""
    column = plan.column(name)
    for shard in range(plan.shards):
        target = paths.params / name / chunk_key(column, shard)
        target.parent.mkdir(parents=True, exist_ok=True)
        if shard % 4096 == 0:
            target.write_bytes(chunk)
            first = target
        else:
            os.link(first, target)
