"""Threads read one store at once, more shards and source files than may be open."""

from __future__ import annotations

import io
import random
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import viewstore
from tests.viewstore.small_stores import build_small
from viewstore.sources import reader
from viewstore.store import view_set
from viewstore.store.kept import Kept

ROWS, THREADS, READS = 24, 6, 300


@pytest.fixture
def photographs(tmp_path: Path) -> str:
    """A folder of tars of one image each: every image has a file of its own to keep open."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    rng = np.random.Generator(np.random.Philox(5))
    for number in range(ROWS):
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        image = io.BytesIO()
        Image.fromarray(pixels).save(image, "png")
        member = tarfile.TarInfo(f"{number:02d}.png")
        member.size = len(image.getvalue())
        with tarfile.open(folder / f"{number:02d}.tar", "w") as tar:
            tar.addfile(member, io.BytesIO(image.getvalue()))
    return str(folder)


class Yielding(dict[int, Any]):
    """A dictionary of what is open that lets other threads run in the middle of every change."""

    def __iter__(self) -> Iterator[int]:
        found = list(super().__iter__())
        time.sleep(0)
        return iter(found)

    def __delitem__(self, key: int) -> None:
        time.sleep(0)
        super().__delitem__(key)


def test_threads_read_what_one_reads(
    tmp_path: Path, photographs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_small(tmp_path / "s", photographs, shard_rows=1)
    expected = list(viewstore.open(tmp_path / "s").view_set("simclr"))
    flips = viewstore.open(tmp_path / "s").view_set("simclr").params["flip"].tolist()
    monkeypatch.setattr(view_set, "MOST_MAPS", 2)
    monkeypatch.setattr(reader, "most_descriptors", lambda: 2)
    store = viewstore.open(tmp_path / "s")
    store.keep_columns(Kept(ROWS * 2, lambda column: column.nbytes))  # one column of two
    views = store.view_set("simclr")
    views._mapped._maps = Yielding()
    store.source._files = Yielding()

    def read(seed: int) -> int:
        rows = random.Random(seed).choices(range(ROWS), k=READS)
        for row in rows:
            assert (views[row] == expected[row]).all()
            assert store.source.image(row).shape == (16, 16, 3)
            assert views.params["status"][row].tolist() == [1, 1]
            assert views.params["flip"][row].tolist() == flips[row]
            assert views.params.rows("flip", np.array([row])).tolist() == [flips[row]]
        return len(rows)

    with ThreadPoolExecutor(THREADS) as pool:
        assert sum(pool.map(read, range(THREADS))) == THREADS * READS
