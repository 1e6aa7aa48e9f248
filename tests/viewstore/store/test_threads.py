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
from viewstore.errors import FormatError
from viewstore.sources import reader
from viewstore.store.kept import Kept
from viewstore.store.mapped_shards import MappedShards
from viewstore.store.stored_members import StoredMembers
from viewstore.store.view_set import ViewSet

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


def map_two(views: ViewSet) -> None:
    """Have the shards of a local view set mapped as those of a remote one, two at a time."""
    maps = MappedShards(views.shards, lambda: 2)
    maps._maps = Yielding()

    class Held:
        """A cache that holds every shard."""

        def holds(self, sha256: str) -> bool:
            return True

    held: Any = Held()
    views.__dict__["_stored"] = StoredMembers(views.plan, views.members, views.shards, maps, held)


@pytest.mark.parametrize("mapped", [True, False], ids=["two maps", "opened for each row"])
def test_threads_read_what_one_reads(
    tmp_path: Path, photographs: str, monkeypatch: pytest.MonkeyPatch, mapped: bool
) -> None:
    build_small(tmp_path / "s", photographs, shard_rows=1)
    expected = list(viewstore.open(tmp_path / "s").view_set("simclr"))
    flips = viewstore.open(tmp_path / "s").view_set("simclr").params["flip"].tolist()
    monkeypatch.setattr(reader, "most_descriptors", lambda: 2)
    store = viewstore.open(tmp_path / "s")
    store.keep_columns(Kept(ROWS * 2, lambda column: column.nbytes))  # one column of two
    views = store.view_set("simclr")
    if mapped:
        map_two(views)
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


def test_a_shard_that_is_cut_while_it_is_read_is_an_error_and_not_the_end(
    tmp_path: Path, photographs: str
) -> None:
    build_small(tmp_path / "s", photographs, shard_rows=ROWS)
    views = viewstore.open(tmp_path / "s").view_set("simclr")
    views[0]  # whatever is kept of the shard is kept now
    path = Path(views.shards[0].where)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.truncate(100)
    with pytest.raises(FormatError, match="shorter than its commit says"):
        views[ROWS - 1]
