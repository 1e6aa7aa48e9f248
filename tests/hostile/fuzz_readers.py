"""Every reader of bytes from outside, with hostile inputs made of what it should read."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

from tests.generators.gan.test_training import TINY
from tests.generators.latent_world import small_encoder, small_gan, source_images
from tests.generators.network_files import ada_file, network, rosinality_checkpoint, torch_file
from tests.hostile.fuzzing import Read, altered_records, mutated
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.beton.reader import Beton
from viewstore.beton.sidecar import read_sidecar, sidecar_of
from viewstore.errors import ConfigError
from viewstore.export.ffcv import export_beton
from viewstore.export.selection import select
from viewstore.files.cache_settings import parse_bytes
from viewstore.files.fetch import Retry
from viewstore.files.local import is_url, local_path
from viewstore.files.tensors import read_tensors
from viewstore.files.transport import connect
from viewstore.format.chunks import pack_chunk, unpack_chunk, unpack_params
from viewstore.format.manifest import Commit, Index, Manifest
from viewstore.format.paths import StorePaths
from viewstore.format.plan import Plan
from viewstore.format.records import parse, unseal
from viewstore.format.stats import unpack_stats
from viewstore.format.tar import member_names
from viewstore.format.tar import parse as parse_tar
from viewstore.generators.checkpoints.read import read_checkpoint
from viewstore.generators.gan.file import Origin, read_generator, write_generator
from viewstore.generators.gan.inverter import Inverter, InverterShape, load_inverter, write_inverter
from viewstore.generators.gan.training import GanTrainer
from viewstore.images.codec import CODECS, codec_from_plan
from viewstore.images.decode import decode, probe
from viewstore.sources.braces import expand_braces
from viewstore.sources.labels import LabelReader, number_labels
from viewstore.sources.open import open_source
from viewstore.sources.reader import SourceReader
from viewstore.sources.record import read_sources
from viewstore.sources.tar_members import tar_members
from viewstore.store.matching import matching_rows
from viewstore.store.store import Store, open_store
from viewstore.store.verify import verify
from viewstore.store.where import parse as parse_where
from viewstore.train.checkpoint import TrainState, load_checkpoint, save_checkpoint
from viewstore.train.encoder_file import load_encoder, save_encoder

Inputs = st.SearchStrategy[bytes]


@dataclass(frozen=True)
class Reader:
    """A reader, the valid inputs that it must take, and hostile ones."""

    valid: Sequence[bytes]
    hostile: Inputs
    read: Read

    @classmethod
    def of(cls, valid: Sequence[bytes], read: Read, *more: Inputs) -> Reader:
        """Read mutations of `valid`, and `more` inputs."""
        return cls(valid, st.one_of(mutated(valid), *more), read)


NAMES = (
    *(
        "json",
        "plan",
        "commit",
        "manifest",
        "index",
        "stats",
        "sources",
        "sidecar",
        "store",
        "published",
    ),
    *("shard", "pack", "chunk", "tar", "tar source", "beton", "npz"),
    *("jpg", "png", "webp", "gif", "avif", "bmp", "tif", "ppm"),
    *("pickle", "torch zip", "torch legacy", "generator", "encoder", "inverter", "checkpoint"),
    *("gan state", "tensors", "where", "braces", "labels", "urls", "sizes"),
)


def make_readers(folder: Path) -> dict[str, Reader]:
    """Return the readers by name; what they should read is made in `folder`."""
    build_small(folder / "s", write_npz(folder / "images.npz"))
    store = open_store(folder / "s")
    readers = _records(store, folder)
    readers["published"] = _published(store)
    readers |= _shards(store)
    readers |= _sources(store, folder)
    readers |= _images()
    readers |= _networks(folder)
    readers |= _texts(store)
    return readers


def _with_file(name: str, read: Callable[[Path], object]) -> Read:
    """Return what writes an input to a file of this name and reads that."""

    def read_file(data: bytes, folder: Path) -> object:
        (folder / name).write_bytes(data)
        return read(folder / name)

    return read_file


def _records(store: Store, folder: Path) -> dict[str, Reader]:
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
        "sidecar": _with_file("e.beton.json", lambda path: read_sidecar(path.with_suffix(""))),
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


def _published(store: Store) -> Reader:
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


def _shards(store: Store) -> dict[str, Reader]:
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


@st.composite
def retarred(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """Draw a tar with changes in one header, whose checksum is right again, or in a payload."""
    data = bytearray(draw(st.sampled_from(seeds)))
    begin = 512 * draw(st.integers(0, min(40, len(data) // 512 - 1)))
    place = begin + draw(st.integers(0, 511))
    new = draw(st.one_of(st.binary(min_size=1, max_size=20), st.just(b"7" * 11)))
    data[place : place + len(new)] = new
    header = data[begin : begin + 512]
    header[148:156] = b" " * 8
    data[begin + 148 : begin + 156] = b"%06o\0 " % sum(header)
    return bytes(data)


def _sources(store: Store, folder: Path) -> dict[str, Reader]:
    tars = [_tar(tarfile.USTAR_FORMAT), _tar(tarfile.GNU_FORMAT), _tar(tarfile.PAX_FORMAT)]
    tars.append(store.view_sets["simclr"].shards[0].path.read_bytes())
    beton = (folder / "e.beton").read_bytes()
    npz = (folder / "images.npz").read_bytes()

    def open_all(path: Path) -> object:
        source = open_source(str(path))
        reader = SourceReader(source.table)
        return [reader.image(row) for row in range(min(3, len(source.table.keys)))]

    def read_beton(path: Path) -> object:
        opened = Beton(path)
        rows = range(min(3, len(opened)))
        return [opened.read(field.name, row) for field in opened.fields for row in rows]

    start = 24 + 1041 * Beton(folder / "e.beton").header.fields
    table = Beton(folder / "e.beton").header.table_offset
    pages = beton[start + 4000 : table]
    # What is drawn is one small part of the file: hypothesis keeps what it draws, and a file is
    # mostly data pages of 8 MiB.
    parts = (beton[:24], beton[24 : start + 4000], beton[table:])
    betons = st.integers(0, 2).flatmap(
        lambda number: mutated([parts[number]]).map(lambda data: bytes([number]) + data)
    )
    to_file = _with_file("e.beton", read_beton)

    def read_part(data: bytes, folder: Path) -> object:
        head, records, tail = (
            data[1:] if number == data[0] else part for number, part in enumerate(parts)
        )
        return to_file(head + records + pages + tail, folder)

    return {
        "tar": Reader.of(tars, lambda data, folder: list(tar_members(data)), retarred(tars)),
        "tar source": Reader.of(tars, _with_file("s.tar", open_all), retarred(tars)),
        "beton": Reader([bytes([0]) + parts[0]], betons, read_part),
        "npz": Reader.of([npz], _with_file("s.npz", open_all), _rezipped(npz)),
    }


def _tar(form: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        long = f"{'y' * 60}/{'x' * 70}"
        files = {"./a/1.jpg": encoded("JPEG"), "./a/1.cls": b"3", f"{long}.png": encoded("PNG")}
        files |= {f"{long}.json": b'{"label": "cat"}', "b.0.5.webp": encoded("WEBP")}
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def _rezipped(npz: bytes) -> Inputs:
    """Draw an npz whose arrays are mutated, and whose checksums are right."""
    with zipfile.ZipFile(io.BytesIO(npz)) as archive:
        arrays = {name: archive.read(name) for name in archive.namelist()}
    labels = io.BytesIO()
    np.save(labels, np.array(["cat", "dog"] * 10))
    heads = mutated([arrays["images.npy"][:128]])
    changed = st.one_of(
        heads.map(lambda head: {"images.npy": head + arrays["images.npy"][128:]}),
        mutated([arrays["labels.npy"], labels.getvalue()]).map(lambda data: {"labels.npy": data}),
    )

    def zipped(changes: dict[str, bytes]) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in (arrays | changes).items():
                archive.writestr(name, data)
        return stream.getvalue()

    return changed.map(zipped)


def encoded(form: str, *, mode: str = "RGB", **options: object) -> bytes:
    """Return a small picture as a file."""
    rows, columns = np.mgrid[:24, :32]
    pixels = np.stack([rows * 9, columns * 7, rows * columns], axis=-1).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, form, **options)
    return stream.getvalue()


def _images() -> dict[str, Reader]:
    files = {
        "jpg": [encoded("JPEG"), encoded("JPEG", progressive=True), encoded("JPEG", mode="CMYK")],
        "png": [encoded("PNG"), encoded("PNG", mode="P"), encoded("PNG", mode="I;16")],
        "webp": [encoded("WEBP"), encoded("WEBP", lossless=True), encoded("WEBP", mode="RGBA")],
        "gif": [encoded("GIF")],
        "avif": [encoded("AVIF")],
        "bmp": [encoded("BMP"), encoded("BMP", mode="P"), encoded("BMP", mode="1")],
        "tif": [
            encoded("TIFF"),
            encoded("TIFF", compression="tiff_lzw"),
            encoded("TIFF", mode="L"),
        ],
        "ppm": [encoded("PPM"), encoded("PPM", mode="1"), b"P5\n# x\n2 1\n65535\nabcd"],
    }

    def read(data: bytes, folder: Path) -> object:
        for name, codec in CODECS.items():
            if codec.encoded:
                try:
                    codec().view_decoder((24, 32, 3)).decode(data, np.empty((24, 32, 3), np.uint8))
                except ConfigError:
                    raise AssertionError(f"codec {name}: no user gave these settings") from None
                except Exception as error:
                    if type(error).__name__ != "FormatError":
                        raise
        height, width, _ = probe(data)
        pixels = decode(data)
        assert pixels.shape == (height, width, 3)
        return pixels

    readers = {}
    for name, valid in files.items():
        more = [mutated(valid).map(_with_png_checksums)] if name == "png" else []
        readers[name] = Reader.of(valid, read, *more)
    return readers


def _with_png_checksums(data: bytes) -> bytes:
    """Return a PNG whose chunks have the right CRC, as far as they can be told apart."""
    fixed = bytearray(data)
    position = 8
    while position + 12 <= len(fixed):
        size = int.from_bytes(fixed[position : position + 4], "big")
        end = position + 8 + size
        if end + 4 > len(fixed):
            break
        fixed[end : end + 4] = zlib.crc32(fixed[position + 4 : end]).to_bytes(4, "big")
        position = end + 4
    return bytes(fixed)


def _networks(folder: Path) -> dict[str, Reader]:
    gan = small_gan()
    encoder = small_encoder(source_images(gan, 8))
    write_generator(folder / "gan", gan, Origin(), half=True)
    save_encoder(folder / "encoder", encoder.settings, encoder.network, half=True)
    write_inverter(folder / "inverter", Inverter(InverterShape.of(gan)), half=True)
    images = torch.zeros(8, 1, 8, 8)
    trainer = GanTrainer(images, TINY)
    trainer.advance()
    trainer.write(folder / "state")
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = TrainState(step=1, loader={"epoch": 0}, history=[0.5], partial=[0.25])
    save_checkpoint(folder / "checkpoint", state, {"a": 1}, model, optimizer)
    valid = {
        "generator": (folder / "gan", read_generator),
        "encoder": (folder / "encoder", load_encoder),
        "inverter": (folder / "inverter", load_inverter),
        "checkpoint": (
            folder / "checkpoint",
            lambda path: load_checkpoint(path, {"a": 1}, model, optimizer),
        ),
        "gan state": (folder / "state", trainer.read),
        "tensors": (folder / "gan", partial(read_tensors, kind="viewstore_gan")),
    }
    readers = {}
    for name, (path, read) in valid.items():
        data = path.read_bytes()
        readers[name] = Reader.of([data], _with_file("net", read), _retold(data))
    rosinality = rosinality_checkpoint(network())
    pickles = {
        "pickle": [ada_file(), ada_file(2)],
        "torch zip": [torch_file(rosinality)],
        "torch legacy": [torch_file(rosinality, legacy=True)],
    }
    for name, files in pickles.items():
        readers[name] = Reader.of(files, _with_file("net.pkl", read_checkpoint))
    return readers


@st.composite
def _retold(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw a file of tensors whose header, or a text in it, says something else."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    if draw(st.booleans()):
        text = header["__metadata__"]
        name = draw(st.sampled_from(sorted(text)))
        if text[name].startswith("{"):
            text[name] = draw(altered_records([text[name].encode()])).decode("utf-8", "replace")
        else:
            text[name] = draw(st.one_of(st.text(max_size=8), st.sampled_from(("-1", "1e999"))))
        new = json.dumps(header).encode("utf-8", "replace")
    else:
        new = draw(altered_records([data[8:end]]))
    new += b" " * (-len(new) % 8)
    return len(new).to_bytes(8, "little") + new + data[end:]


def _texts(store: Store) -> dict[str, Reader]:
    def read_where(data: bytes, folder: Path) -> object:
        text = data.decode("utf-8", "surrogateescape")
        parse_where(text)
        return matching_rows(store, text)

    def read_braces(data: bytes, folder: Path) -> object:
        text = data.decode("utf-8", "surrogateescape")
        if "{" in text:  # what exists on this machine is left alone
            open_source(text)
        return expand_braces(text)

    def read_labels(data: bytes, folder: Path) -> object:
        labels = LabelReader()
        found = [labels.text(data), labels.json(data)]
        return number_labels(found), labels.note()

    def read_url(data: bytes, folder: Path) -> object:
        text = data.decode("utf-8", "surrogateescape")
        return (connect(text, Retry()) if is_url(text) else local_path(text)), text

    def read_size(data: bytes, folder: Path) -> object:
        return parse_bytes(data.decode("utf-8", "surrogateescape"))

    wheres = [
        b"label >= 0",
        b"simclr.crop_box > 0.5 and not any(label in [1, 2])",
        b"key = '0001' or label >= 1",
    ]
    wheres += [b"all(simclr.flip = true) or (simclr.blur is not missing)", b"label = " + b"9" * 400]
    braces = [b"/tmp/a-{000..003}.tar", b"{a,b{c,d}}.tar", b"{" * 60 + b"a" + b"}" * 60]
    braces += [b"{a,b}" * 9, b"s-{0..99999999}.tar"]
    labels = [
        b"7",
        b"cat",
        b"1.0",
        b'{"label": "cat"}',
        b'{"cls": 3.0}',
        b"\xef\xbb\xbf12",
        b"1e99",
    ]
    urls = [
        b"s3://bucket/views",
        b"https://host.org:443/a/b",
        b"file:///tmp/x%20y",
        b"memory://x/y",
    ]
    urls += [b"gs://bucket/a", b"http://[::1]:80/a", b"az://container/a"]
    return {
        "where": replace(Reader.of(wheres, read_where), valid=wheres[:1]),
        "braces": replace(Reader.of(braces, read_braces), valid=()),
        "labels": Reader.of(labels, read_labels),
        "urls": replace(Reader.of(urls, read_url), valid=urls[:3]),
        "sizes": Reader.of([b"7", b"5 kB", b"2MiB", b"3g", b"64GiB"], read_size),
    }
