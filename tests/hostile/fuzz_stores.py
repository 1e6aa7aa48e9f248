"""What is read of a store, with hostile bytes: records, shards, packs, derived files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from hypothesis import strategies as st

from tests.hostile.fuzzing import Read, Reader, altered_records, mutated, retarred, with_file
from viewstore.beton.sidecar import read_sidecar, sidecar_of
from viewstore.export.ffcv import export_beton
from viewstore.export.selection import select
from viewstore.format.chunks import pack_chunk, unpack_chunk, unpack_params
from viewstore.format.manifest import Commit, Index, Manifest
from viewstore.format.paths import StorePaths
from viewstore.format.plan import Plan
from viewstore.format.records import parse, unseal
from viewstore.format.stats import unpack_stats
from viewstore.format.tar import member_names
from viewstore.format.tar import parse as parse_tar
from viewstore.images.codec import codec_from_plan
from viewstore.sources.record import read_sources
from viewstore.store.store import Store, open_store
from viewstore.store.verify import verify


def record_readers(store: Store, folder: Path) -> dict[str, Reader]:
    paths, view_set = store.paths, store.paths.view_set("simclr")
    beton = folder / "e.beton"
    export_beton(select(store), beton)
    files = {
        "plan": view_set.plan,
        "commit": view_set.commit(1),
        "manifest": paths.manifest,
        "index": view_set.index,
        "stats": view_set.stats,
        "sources": paths.sources_record,
        "sidecar": sidecar_of(beton),
    }

    def read_plan(data: bytes, folder: Path) -> object:
        plan = Plan.unpack(data)
        return codec_from_plan(plan.codec), plan.id, plan.shard_range(plan.shards - 1)

    def in_place(path: Path, read: Callable[[], object]) -> Read:
        whole = path.read_bytes()

        def read_store(data: bytes, folder: Path) -> object:
            path.write_bytes(data)
            try:
                return read()
            finally:
                path.write_bytes(whole)

        return read_store

    reads: dict[str, Read] = {
        "plan": read_plan,
        "commit": lambda data, folder: Commit.unpack(data),
        "manifest": lambda data, folder: Manifest.unpack(data),
        "index": lambda data, folder: Index.unpack(data),
        "stats": lambda data, folder: unpack_stats(data),
        "sources": in_place(paths.sources_record, lambda: read_sources(paths)),
        "sidecar": with_file("e.beton.json", lambda path: read_sidecar(path.with_suffix(""))),
    }
    readers = {}
    for name, read in reads.items():
        valid = [files[name].read_bytes()]
        readers[name] = Reader.of(valid, read, altered_records(valid))
    valid = [path.read_bytes() for path in files.values()]
    readers["json"] = Reader.of(
        valid,
        lambda data, folder: unseal(data, kind=parse(data).get("kind", ""), form={}),
        altered_records(valid),
    )
    readers["json"] = replace(readers["json"], valid=())
    readers["store"] = _whole_store(
        store, [path for path in files.values() if path != files["sidecar"]]
    )
    return readers


def _whole_store(store: Store, files: Sequence[Path]) -> Reader:
    """Return the reader of a store in which one record is another: it is opened and verified."""
    whole = [path.read_bytes() for path in files]
    marked = [bytes([number]) + data for number, data in enumerate(whole)]
    records = st.integers(0, len(files) - 1).flatmap(
        lambda number: st.one_of(altered_records([whole[number]]), mutated([whole[number]])).map(
            lambda data: bytes([number]) + data
        )
    )

    def read(data: bytes, folder: Path) -> object:
        number = data[0]
        files[number].write_bytes(data[1:])
        try:
            faults = list(verify(store.root, level="deep"))
            opened = open_store(store.root)
            views = opened.view_sets["simclr"]
            return faults, views[0], views.params["crop_box"], views.stats, opened.keys[0]
        finally:
            files[number].write_bytes(whole[number])

    return Reader(marked, records, read)


def republished(paths: StorePaths, name: str, data: bytes) -> None:
    """Replace a derived file of `simclr`, and seal a manifest that names the new one."""
    manifest = Manifest.unpack(paths.manifest.read_bytes())
    entry = manifest.view_sets["simclr"]
    derived = dict(entry.derived) | {name: (len(data), hashlib.sha256(data).hexdigest())}
    changed = replace(manifest, view_sets={"simclr": replace(entry, derived=derived)})
    for path, new in (
        (paths.view_set("simclr").root / name, data),
        (paths.manifest, changed.pack()),
    ):
        path.chmod(0o644)
        path.write_bytes(new)


def published_reader(store: Store) -> Reader:
    """Return the reader of a store whose manifest names a hostile index or statistics."""
    paths, view_set = store.paths, store.paths.view_set("simclr")
    files = {"index.json": view_set.index, "stats.json": view_set.stats}
    names, whole = (
        list(files),
        {path: path.read_bytes() for path in (*files.values(), paths.manifest)},
    )
    hostile = st.integers(0, 1).flatmap(
        lambda number: altered_records([whole[files[names[number]]]]).map(
            lambda data: bytes([number]) + data
        )
    )

    def read(data: bytes, folder: Path) -> object:
        try:
            republished(paths, names[data[0]], data[1:])
            faults = list(verify(store.root))
            views = open_store(store.root).view_sets["simclr"]
            return faults, [views[0], views[19]], views.params["crop_box"], views.stats
        finally:
            for path, data in whole.items():
                path.write_bytes(data)

    valid = [bytes([number]) + whole[files[name]] for number, name in enumerate(names)]
    return Reader(valid, hostile, read)


def shard_readers(store: Store) -> dict[str, Reader]:
    views = store.view_sets["simclr"]
    shard = views.shards[1]
    names = member_names(views.plan, shard.rows)
    packed = [column.name for column in views.plan.columns if column.pack]
    column = views.plan.column("crop_box")
    chunk = pack_chunk(column, views.params["crop_box"][:8], 8)
    pack = (shard.folder / shard.entry.file("params").name).read_bytes()
    tar = shard.path.read_bytes()

    def read_pack(data: bytes, folder: Path) -> object:
        members, chunks = unpack_params(data, packed)
        columns = {each.name: each for each in views.plan.columns}
        return members, [unpack_chunk(columns[name], raw, 8) for name, raw in chunks.items()]

    return {
        "shard": Reader.of([tar], lambda data, folder: parse_tar(data, names), retarred([tar])),
        "pack": Reader.of([pack], read_pack, retarred([pack])),
        "chunk": Reader.of([chunk], lambda data, folder: unpack_chunk(column, data, 8)),
    }
