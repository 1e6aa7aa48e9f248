"""Stock ffcv 1.0.2 reads what we export, and we read what it writes.

Needs VIEWSTORE_FFCV_PYTHON, a Python that has ffcv; .ci/run makes one.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray

import viewstore
from viewstore.beton.layout import RAW, Field, Kind
from viewstore.beton.reader import Beton
from viewstore.beton.writer import Picture, write_beton
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.export.ffcv import export_beton
from viewstore.export.selection import select
from viewstore.format.columns import DTYPES
from viewstore.sources.open import open_source
from viewstore.sources.reader import SourceReader
from viewstore.store.store import Store

PEER = Path(__file__).parent / "ffcv_peer.py"
EXAMPLE = Path(__file__).parents[2] / "examples" / "read_with_ffcv.py"
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Peer:
    """Asks the process of ffcv_peer.py."""

    process: subprocess.Popen[str]
    folder: Path

    def run(self, command: str, *arguments: Path | str) -> str:
        """Return what a command prints."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([command, *map(str, arguments)]) + "\n")
        self.process.stdin.flush()
        found = json.loads(self.process.stdout.readline())
        assert found["error"] is None, found["error"]
        return str(found["printed"])

    def load(self, command: str, path: Path) -> tuple[Arrays, Arrays]:
        """Return what ffcv delivers by field, through the page cache and without it."""
        out = self.folder / "out.npz"
        self.run(command, path, out)
        arrays = dict(np.load(out))
        by_cache = [
            {n.partition("/")[2]: a for n, a in arrays.items() if n.startswith(cache)}
            for cache in "10"
        ]
        return by_cache[0], by_cache[1]


@pytest.fixture(scope="module")
def ffcv(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    python = os.environ.get("VIEWSTORE_FFCV_PYTHON")
    if not python:
        pytest.skip("needs VIEWSTORE_FFCV_PYTHON, a Python that has ffcv; .ci/run makes one")
    process = subprocess.Popen(
        [python, str(PEER)],
        env=os.environ | {"NUMBA_OPT": "0"},  # code that runs once need not be optimised
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield Peer(process, tmp_path_factory.mktemp("ffcv"))


def build_views(folder: Path, codec: str, side: int, rows: int) -> Store:
    build(
        BuildRequest(
            generator="simclr",
            out=folder / "s",
            source="digits",
            limit=rows,
            codec=codec,
            settings={"views": 2, "height": side, "width": side},
            shard_rows=64,
            workers=1,
        )
    )
    return viewstore.open(folder / "s")


def ffcv_jpeg(data: bytes) -> NDArray[Any]:
    """Decode as libffcv does, by the fast transform."""
    return simplejpeg.decode_jpeg(data, fastdct=True)


def write_images(path: Path, rows: int, side: int) -> Arrays:
    """Save random pictures and their labels for the peer to write."""
    rng = np.random.default_rng(1)
    texts = np.array([[row % 7] * 5 for row in range(rows)], np.uint8)
    arrays = {
        "images": rng.integers(0, 256, (rows, side, side, 3), dtype=np.uint8),
        "labels": np.arange(rows),
        "texts": texts,
    }
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return arrays


@pytest.mark.parametrize("codec", ["raw", "jpg"])
def test_stock_ffcv_reads_every_field_of_an_export(ffcv: Peer, tmp_path: Path, codec: str) -> None:
    """Several pages, so that it also looks regions up in pages that are not the first."""
    store = build_views(tmp_path, codec, side=64, rows=150)
    views = store.view_sets["simclr"]
    out = tmp_path / "e.beton"
    export_beton(select(store), out, page_bytes=2 << 20)
    for found in ffcv.load("read", out):
        for row in range(150):
            pixels: Sequence[NDArray[Any]] = list(views[row])
            if codec == "jpg":
                members = views.payloads(row)
                pixels = [ffcv_jpeg(members[name]) for name in ("v0.jpg", "v1.jpg")]
            for view in range(2):
                assert np.array_equal(found[f"v{view}"][row], pixels[view])
            assert found["key"][row].tobytes().split(b"\0")[0].decode() == store.keys[row]
        assert np.array_equal(found["index"].ravel(), np.arange(150))
        assert np.array_equal(found["label"].ravel(), store.labels)
        for name in views.params:
            assert np.array_equal(found[name], views.params[name], equal_nan=True), name
        assert len(found) == 5 + len(views.params)


def test_stock_ffcv_crops_flips_and_labels(ffcv: Peer, tmp_path: Path) -> None:
    store = build_views(tmp_path, "raw", side=16, rows=150)
    export_beton(select(store), tmp_path / "e.beton")
    views = np.stack(list(store.view_sets["simclr"]))
    crops = views[:, 0, 4:12, 4:12][:, :, ::-1]
    for found in ffcv.load("train", tmp_path / "e.beton"):
        assert np.array_equal(found["v0"], crops.transpose(0, 3, 1, 2))
        assert np.array_equal(found["v1"], views[:, 1].transpose(0, 3, 1, 2))
        assert np.array_equal(found["label"], store.labels)
    said = ffcv.run("script", EXAMPLE, tmp_path / "e.beton")
    assert said == "150 samples, 2 views of (3, 16, 16), 10 labels\n"


def test_stock_ffcv_reads_every_dtype_that_an_export_has(ffcv: Peer, tmp_path: Path) -> None:
    """On float16 it hangs, which is why exports widen it; keys differ in length."""
    dtypes = [name for name in DTYPES if name != "f2"]
    arrays = {f"c_{d}": Field(f"c_{d}", Kind.NDARRAY, np.dtype(d).str, (2, 3)) for d in dtypes}
    fields = [Field("v0", Kind.RGB), Field("key", Kind.BYTES), Field("half", Kind.FLOAT)]
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (70, 4, 4, 3), dtype=np.uint8)
    values = {n: rng.integers(0, 99, (70, 2, 3)).astype(f.dtype) for n, f in arrays.items()}
    samples = (
        [
            Picture(RAW, 4, 4, pixels[row].tobytes()),
            b"k" * (70 - row) + b"\0",
            row / 2,
            *(values[name][row].tobytes() for name in arrays),
        ]
        for row in range(70)
    )
    write_beton(tmp_path / "f.beton", [*fields, *arrays.values()], samples, 70)
    for found in ffcv.load("read", tmp_path / "f.beton"):
        assert np.array_equal(found["v0"], pixels)
        assert found["half"].ravel().tolist() == [row / 2 for row in range(70)]
        for row in range(70):
            assert found["key"][row].tobytes().split(b"\0")[0] == b"k" * (70 - row)
        for name in arrays:
            assert np.array_equal(found[name], values[name]), name


def test_our_bytes_are_those_of_the_stock_writer(ffcv: Peer, tmp_path: Path) -> None:
    """Same samples, same fields, two data pages: nothing is left to taste."""
    arrays = write_images(tmp_path / "in.npz", rows=700, side=64)
    ffcv.run("write", tmp_path / "in.npz", tmp_path / "stock.beton", "raw")
    fields = [Field("image", Kind.RGB), Field("label", Kind.INT)]
    samples = (
        [Picture(RAW, 64, 64, image.tobytes()), label]
        for image, label in zip(arrays["images"], arrays["labels"].tolist(), strict=True)
    )
    write_beton(tmp_path / "ours.beton", fields, samples, 700)
    assert (tmp_path / "ours.beton").read_bytes() == (tmp_path / "stock.beton").read_bytes()


@pytest.mark.parametrize("mode", ["raw", "jpg", "proportion"])
def test_a_beton_of_stock_ffcv_is_a_source(ffcv: Peer, tmp_path: Path, mode: str) -> None:
    arrays = write_images(tmp_path / "in.npz", rows=150, side=16)
    ffcv.run("write", tmp_path / "in.npz", tmp_path / "stock.beton", mode)
    source = open_source(str(tmp_path / "stock.beton"))
    assert list(source.table.keys) == [f"{row:04d}" for row in range(150)]
    assert source.table.label.tolist() == arrays["labels"].tolist()
    images = np.stack([SourceReader(source.table).image(row) for row in range(150)])
    equal = [np.array_equal(*pair) for pair in zip(images, arrays["images"], strict=True)]
    raw = source.table.part == 1
    assert equal == raw.tolist()
    assert {"raw": raw.all(), "jpg": not raw.any()}.get(mode, 0 < raw.sum() < 150)
    assert np.abs(images - arrays["images"].astype(int)).mean() < 60  # noise, through JPEG

    build(
        BuildRequest(
            generator="simclr",
            out=tmp_path / "s",
            source=str(tmp_path / "stock.beton"),
            settings={"views": 1, "height": 16, "width": 16},
            workers=1,
        )
    )
    store = viewstore.open(tmp_path / "s")
    assert store.labels.tolist() == arrays["labels"].tolist()
    assert np.array_equal(store.source.image(149), images[149])


def test_we_read_every_kind_of_field_that_stock_ffcv_writes(ffcv: Peer, tmp_path: Path) -> None:
    arrays = write_images(tmp_path / "in.npz", rows=150, side=16)
    ffcv.run("write-all", tmp_path / "in.npz", tmp_path / "stock.beton")
    stock = Beton(tmp_path / "stock.beton")
    for row in range(150):
        picture = stock.read("image", row)
        assert isinstance(picture, Picture)
        assert picture.data == arrays["images"][row].tobytes()
        assert stock.read("label", row) == row
        assert stock.read("third", row) == row / 3
        facts = stock.read("facts", row)
        assert isinstance(facts, bytes)
        assert json.loads(facts.removesuffix(b"\0")) == {"n": row}
        assert stock.read("text", row) == arrays["texts"][row].tobytes()
        assert np.array_equal(np.asarray(stock.read("row", row)), arrays["images"][row, 0])
        assert np.array_equal(np.asarray(stock.read("ones", row)), np.ones((2, 3)))
