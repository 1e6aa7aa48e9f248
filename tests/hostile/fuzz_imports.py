"""What an import reads, with hostile bytes: its listing, its table of params, its tar, its rule."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.hostile.fuzzing import Reader, retarred, with_file
from viewstore.build.params_table import read_params
from viewstore.files.listed import ListedFiles
from viewstore.files.naming import ViewFiles
from viewstore.format.listing import PLACE, Listing
from viewstore.format.tar import TarWriter
from viewstore.sources.view_files import scan_views

KEYS = ("a", "b")


def import_readers() -> dict[str, Reader]:
    listing, tar, tables = _listing(), _tar(), _tables()
    there = np.ones((2, 2), bool)

    def read_listing(data: bytes, folder: Path) -> object:
        name = f"listing-{hashlib.sha256(data).hexdigest()[:16]}.npy"
        found = Listing.unpack(data, name)
        return found.columns, found.there, found.names

    def read_tar(path: Path) -> object:
        files = ViewFiles.parse(f"{path}:{{key}}_{{view}}.png")
        found = scan_views(files, KEYS, views=None, missing=True)
        listing = Listing.of(found.places, found.names, {})
        reader = ListedFiles(str(path), listing, in_tar=True)
        return [reader.read(row, view) for row, view in np.argwhere(listing.there).tolist()]

    def read_table(path: Path) -> object:
        return read_params(path, KEYS, there)

    def read_rule(data: bytes, folder: Path) -> object:
        files = ViewFiles.parse(data.decode("utf-8", "surrogateescape"))
        return files.expression().fullmatch("a_1.png" * 9)

    rules = [b"views/{key}_{view}.png", b"v.tar:x/{stem}/{view}.jpg", b"/a/{key}/{key}.png"]
    csv, parquet = tables
    return {
        "listing": Reader.of([listing], read_listing),
        "views tar": Reader.of([tar], with_file("v.tar", read_tar), retarred([tar])),
        "params csv": Reader.of([csv], with_file("p.csv", read_table)),
        "params parquet": Reader.of([parquet], with_file("p.parquet", read_table)),
        "naming rule": Reader.of(rules, read_rule),
    }


def _listing() -> bytes:
    places = np.zeros((2, 2), PLACE)
    places["part"] = [[0, 1], [2, 3]]
    places["height"] = places["width"] = 8
    names = [f"{key}_{view}.png" for key in KEYS for view in (0, 1)]
    params = {"crop_box": np.zeros((2, 2, 4), np.float32), "x_a": np.zeros((2, 2), np.int64)}
    return Listing.of(places, names, params).file


def _tar() -> bytes:
    stream = io.BytesIO()
    tar = TarWriter(stream)
    for key in KEYS:
        for view in (0, 1):
            picture = io.BytesIO()
            Image.new("RGB", (8, 8), (view, 9, 9)).save(picture, "PNG")
            tar.add(f"{key}_{view}.png", picture.getvalue())
    tar.finish()
    return stream.getvalue()


def _tables() -> tuple[bytes, bytes]:
    csv = b"key,view,distance,CLIP score\n"
    csv += b"".join(b"%s,%d,0.5,%d\n" % (key.encode(), v, v) for key in KEYS for v in (0, 1))
    columns = {"key": ["a", "a", "b", "b"], "view": [0, 1, 0, 1], "distance": [0.5] * 4}
    boxes = pa.array([[0.0] * 4] * 4, pa.list_(pa.float32(), 4))
    stream = io.BytesIO()
    pq.write_table(pa.table({**columns, "crop_box": boxes}), stream)
    return csv, stream.getvalue()
