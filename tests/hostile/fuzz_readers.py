"""Every reader of bytes from outside, with hostile inputs made of what it should read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.hostile.fuzz_files import image_readers, source_readers
from tests.hostile.fuzz_imports import import_readers
from tests.hostile.fuzz_networks import network_readers
from tests.hostile.fuzz_stores import published_reader, record_readers, shard_readers
from tests.hostile.fuzzing import Reader
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.files.cache_settings import parse_bytes
from viewstore.files.fetch import Retry
from viewstore.files.local import is_url, local_path
from viewstore.files.transport import connect
from viewstore.sources.braces import expand_braces
from viewstore.sources.labels import LabelReader, number_labels
from viewstore.sources.open import open_source
from viewstore.store.matching import matching_rows
from viewstore.store.store import Store, open_store
from viewstore.store.where import parse as parse_where

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
    *("maker", "stn", "tensorflow pickle"),
    *("pickle", "torch zip", "torch legacy", "generator", "encoder", "inverter", "checkpoint"),
    *("listing", "views tar", "params csv", "params parquet", "naming rule"),
    *("gan state", "tensors", "where", "braces", "labels", "urls", "sizes"),
)


def make_readers(folder: Path) -> dict[str, Reader]:
    """Return the readers by name; what they should read is made in `folder`."""
    build_small(folder / "s", write_npz(folder / "images.npz"))
    store = open_store(folder / "s")
    readers = record_readers(store, folder)
    readers["published"] = published_reader(store)
    readers |= shard_readers(store)
    readers |= source_readers(store, folder)
    readers |= image_readers()
    readers |= network_readers(folder)
    readers |= import_readers()
    readers |= _texts(store)
    return readers


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
