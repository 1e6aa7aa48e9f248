"""Stock ffcv 1.0.2 reads what we export, and we read what it writes.

Needs VIEWSTORE_FFCV_PYTHON, a Python that has ffcv; .ci/run makes one.
"""

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray

import viewstore
from viewstore.beton import RAW, Field, Kind
from viewstore.beton_writer import Picture, write_beton
from viewstore.building import BuildRequest, build
from viewstore.export import select
from viewstore.export_beton import export_beton
from viewstore.plan import DTYPES

PEER = Path(__file__).parent / "ffcv_peer.py"
SECONDS = 240  # ffcv waits for ever once its own thread has failed
Peer = Callable[..., dict[str, NDArray[Any]]]


@pytest.fixture(scope="module")
def ffcv(tmp_path_factory: pytest.TempPathFactory) -> Peer:
    """Run a command of ffcv_peer.py; return the arrays it saved."""
    python = os.environ.get("VIEWSTORE_FFCV_PYTHON")
    if not python:
        pytest.skip("needs VIEWSTORE_FFCV_PYTHON, a Python that has ffcv; .ci/run makes one")
    out = tmp_path_factory.mktemp("ffcv") / "out.npz"

    def run(command: str, *arguments: Path | str) -> dict[str, NDArray[Any]]:
        line = [python, str(PEER), command, *map(str, arguments)]
        line[4:4] = [str(out)] if command in ("read", "train") else []
        done = subprocess.run(line, capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, done.stderr
        return dict(np.load(out)) if command in ("read", "train") else {}

    return run


def build_views(folder: Path, codec: str, side: int, rows: int) -> viewstore.store.Store:
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


@pytest.mark.parametrize("codec", ["raw", "jpg", "png"])
@pytest.mark.parametrize("os_cache", ["1", "0"])
def test_stock_ffcv_reads_every_field_of_an_export(
    ffcv: Peer, tmp_path: Path, codec: str, os_cache: str
) -> None:
    """Several pages, so that it also looks regions up in pages that are not the first."""
    store = build_views(tmp_path, codec, side=64, rows=150)
    views = store.view_sets["simclr"]
    out = tmp_path / "e.beton"
    export_beton(select(store), out, page_bytes=2 << 20)
    found = ffcv("read", out, os_cache)

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


@pytest.mark.parametrize("os_cache", ["1", "0"])
def test_stock_ffcv_crops_flips_and_labels(ffcv: Peer, tmp_path: Path, os_cache: str) -> None:
    store = build_views(tmp_path, "raw", side=16, rows=150)
    export_beton(select(store), tmp_path / "e.beton")
    found = ffcv("train", tmp_path / "e.beton", os_cache)
    views = np.stack(list(store.view_sets["simclr"]))
    crops = views[:, 0, 4:12, 4:12][:, :, ::-1]
    assert np.array_equal(found["v0"], crops.transpose(0, 3, 1, 2))
    assert np.array_equal(found["v1"], views[:, 1].transpose(0, 3, 1, 2))
    assert np.array_equal(found["label"], store.labels)


@pytest.mark.parametrize("os_cache", ["1", "0"])
def test_stock_ffcv_reads_every_dtype_that_an_export_has(
    ffcv: Peer, tmp_path: Path, os_cache: str
) -> None:
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
    found = ffcv("read", tmp_path / "f.beton", os_cache)
    assert np.array_equal(found["v0"], pixels)
    assert found["half"].ravel().tolist() == [row / 2 for row in range(70)]
    for row in range(70):
        assert found["key"][row].tobytes().split(b"\0")[0] == b"k" * (70 - row)
    for name in arrays:
        assert np.array_equal(found[name], values[name]), name
