"""What a reader has the system fetch ahead is what it reads next, no less and no more."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from viewstore.loaders import Cached, ViewLoader, assemble
from viewstore.loaders.read.set_reader import ViewSetReader
from viewstore.loaders.read.shards import ShardFile
from viewstore.store.store import Store

Crcs = set[int]
Count = Callable[[], tuple[Crcs, Crcs]]


@pytest.fixture
def touched(monkeypatch: pytest.MonkeyPatch) -> Count:
    """Return the CRCs of what was announced of maps, and of what was read, since the last call."""
    announced: Crcs = set()
    read: Crcs = set()
    payload = ShardFile.payload

    def announce(data: NDArray[np.uint8], begin: int, size: int) -> None:
        announced.add(zlib.crc32(data[begin : begin + size]))

    def recorded(file: ShardFile, begin: int, size: int) -> memoryview | bytes:
        found = payload(file, begin, size)
        read.add(zlib.crc32(found))
        return found

    def count() -> tuple[Crcs, Crcs]:
        found = set(announced), set(read)
        announced.clear()
        read.clear()
        return found

    monkeypatch.setattr("viewstore.loaders.read.shards.announce", announce)
    monkeypatch.setattr(ShardFile, "payload", recorded)
    return count


@pytest.mark.parametrize("name", ["jpg", "png", "hard"])
def test_what_is_announced_is_what_is_read(
    digits: Store, photos: Store, name: str, touched: Count
) -> None:
    """Raw views are one member: its CRC is read whole, however few of them are shown."""
    view_set = (digits if name == "hard" else photos).view_set(name)
    reader = ViewSetReader(view_set, verify="always")
    rows, views = np.array([1, 21, 9]), np.array([[1, 0], [0, 1], [1, 0]])
    out = [np.empty((3, *reader.shape), np.uint8) for _ in range(2)]
    reader.read(rows, views, out)  # opens the shards
    touched()
    reader.announce(rows, views)
    announced, nothing = touched()
    reader.read(rows, views, out)
    again, read = touched()
    raw = name == "hard"
    assert (nothing, again) == (set(), set())
    assert announced == read
    assert len(read) == (3 if raw else 6)
    columns = [i for i, member in enumerate(view_set.plan.members) if member != "json"]
    asked = {(row, columns[0 if raw else view]) for row in rows for view in (0, 1)}
    assert announced == {int(view_set.members[place]["crc32"]) for place in asked}


def test_only_the_views_that_are_asked_for_are_announced(photos: Store, touched: Count) -> None:
    view_set = photos.view_set("jpg")
    reader = ViewSetReader(view_set)
    reader.read(np.array([3]), np.array([[0]]), [np.empty((1, *reader.shape), np.uint8)])
    touched()
    reader.announce(np.array([5]), np.array([[1]]))
    (announced,), _ = touched()
    assert announced == zlib.crc32(view_set.payloads(5)["v1.jpg"])


def test_shards_that_are_not_open_or_not_mapped_are_not_announced(
    photos: Store, touched: Count
) -> None:
    rows, views = np.array([3]), np.array([[0]])
    closed = ViewSetReader(photos.view_set("jpg"))
    closed.announce(rows, views)
    by_calls = ViewSetReader(photos.view_set("jpg"), mapped=False)
    by_calls.read(rows, views, [np.empty((1, *by_calls.shape), np.uint8)])
    by_calls.announce(rows, views)
    assert touched()[0] == set()


def test_a_loader_announces_where_its_views_do_not_fit_the_memory(
    photos: Store, touched: Count, monkeypatch: pytest.MonkeyPatch
) -> None:
    def announced(memory: int) -> int:
        monkeypatch.setattr(assemble, "machine_bytes", lambda: memory)
        settings = {"batch_size": 4, "num_threads": 0, "shuffle": "none"}
        with ViewLoader(photos, [Cached("jpg")], **settings) as batches:
            for _ in range(2):
                list(batches)
        return len(touched()[0])

    size = photos.view_set("jpg").num_bytes
    assert announced(size + 1) > 20
    assert announced(100 * size) == 0
