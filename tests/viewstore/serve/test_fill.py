"""One download for all who wait: read while it comes, and never whole before it is proved."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from viewstore.errors import FormatError, RemoteError
from viewstore.files.cache_settings import CacheSettings
from viewstore.files.locks import locked
from viewstore.serve import fill as fill_module
from viewstore.serve.fill import HELD_BYTES, Fill, Fills
from viewstore.serve.objects import BusyError, Listed

PIECE = 64 << 10
SIZE = 3 * HELD_BYTES
DATA = os.urandom(SIZE)
PATIENCE_SECONDS = 300  # until a test that would hang fails


def listed(data: bytes) -> Listed:
    sha256 = hashlib.sha256(data).hexdigest()
    return Listed(name="views/a/b.tar", size=len(data), sha256=sha256, immutable=True)


class Origin:
    """Gives bytes in pieces, `opened` bytes of each download and the rest once it is open."""

    def __init__(self, *downloads: bytes, opened: int = SIZE) -> None:
        self.downloads, self.opened = list(downloads), opened
        self.gate = threading.Event()
        self.begun = self.refetched = 0

    def __call__(self) -> Iterator[bytes]:
        data = self.downloads[min(self.begun, len(self.downloads) - 1)]
        self.begun += 1
        for start in range(0, len(data), PIECE):
            if start >= self.opened:
                assert self.gate.wait(PATIENCE_SECONDS)
            yield data[start : start + PIECE]

    def again(self) -> None:
        self.refetched += 1

    def join(self, fills: Fills, data: bytes = DATA) -> tuple[Fill, bool]:
        return fills.join(listed(data), self, "URL", self.again)


@pytest.fixture
def fills(tmp_path: Path) -> Iterator[Fills]:
    found = Fills(4, CacheSettings(directory=tmp_path / "cache", limit_bytes=1 << 24))
    yield found
    found.close()


async def whole(body: AsyncGenerator[bytes, None]) -> bytes:
    return b"".join([data async for data in body])


async def taken(body: AsyncGenerator[bytes, None], count: int) -> bytes:
    """Return the first `count` bytes at least; the rest stays to be read."""
    got = b""
    while len(got) < count:
        got += await anext(body)
    return got


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, PATIENCE_SECONDS))


def test_bytes_are_sent_before_the_origin_has_given_all(fills: Fills) -> None:
    async def test() -> None:
        origin = Origin(DATA, opened=2 * PIECE)
        body = origin.join(fills)[0].read(0, SIZE)
        first = await taken(body, PIECE)
        assert not origin.gate.is_set()
        origin.gate.set()
        assert first + await whole(body) == DATA

    run(test())


def test_the_end_is_held_back_until_the_hash_is_proved(fills: Fills) -> None:
    async def test() -> None:
        origin = Origin(DATA, opened=SIZE - PIECE)  # all but the last piece
        fill, _ = origin.join(fills)
        body = fill.read(0, SIZE)
        got = await taken(body, SIZE - HELD_BYTES - PIECE)
        while fill.progress.readable < SIZE - HELD_BYTES:
            await asyncio.sleep(0)
        assert fill.progress.readable == SIZE - HELD_BYTES
        assert not fills.cache.holds(fill.listed.sha256)
        origin.gate.set()
        assert got + await whole(body) == DATA
        assert fills.cache.holds(fill.listed.sha256)

    run(test())


@pytest.mark.parametrize("size", [0, 1, HELD_BYTES - 1, HELD_BYTES, HELD_BYTES + 1, 2_000_001])
def test_objects_of_any_size_come_whole(fills: Fills, size: int) -> None:
    async def test() -> None:
        data = os.urandom(size)
        fill, begun = Origin(data, opened=1 << 30).join(fills, data)
        assert begun
        assert await fill.is_kept()
        assert await whole(fill.read(0, size)) == data

    run(test())


def test_eight_readers_are_one_download(fills: Fills) -> None:
    async def test() -> None:
        origin = Origin(DATA, opened=PIECE)
        joined = [origin.join(fills) for _ in range(8)]
        assert [begun for _, begun in joined] == [True] + 7 * [False]
        reading = [asyncio.create_task(whole(fill.read(0, SIZE))) for fill, _ in joined]
        await asyncio.sleep(0.01)
        origin.gate.set()
        assert await asyncio.gather(*reading) == 8 * [DATA]
        assert origin.begun == 1

    run(test())


def test_a_reader_that_leaves_takes_nothing_with_it(fills: Fills) -> None:
    async def test() -> None:
        origin = Origin(DATA, opened=2 * PIECE)
        (first, _), (second, _) = origin.join(fills), origin.join(fills)
        leaves, stays = first.read(0, SIZE), second.read(0, SIZE)
        await taken(leaves, PIECE)
        waits = asyncio.create_task(whole(stays))
        await leaves.aclose()
        origin.gate.set()
        assert await waits == DATA
        assert origin.begun == 1

    run(test())


def flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def test_who_was_sent_wrong_bytes_is_broken_off_and_the_others_wait(fills: Fills) -> None:
    async def test() -> None:
        origin = Origin(flipped(DATA), DATA, opened=SIZE - PIECE)
        fill, _ = origin.join(fills)
        early = fill.read(0, SIZE)
        await taken(early, PIECE)
        late = asyncio.create_task(whole(fill.read(SIZE - PIECE, SIZE)))
        origin.gate.set()
        with pytest.raises(FormatError, match="fetched again"):
            await whole(early)
        assert await late == DATA[-PIECE:]
        assert (origin.begun, origin.refetched) == (2, 1)
        assert await whole(fill.read(0, SIZE)) == DATA

    run(test())


def test_an_object_that_is_wrong_three_times_is_an_error_for_all(fills: Fills) -> None:
    async def test() -> None:
        origin = Origin(flipped(DATA))
        fill, _ = origin.join(fills)
        assert await fill.is_kept()
        for _ in range(2):
            with pytest.raises(FormatError, match=r"in 3 downloads|fetched again"):
                await whole(fill.read(0, SIZE))
        while not fill.progress.ended:
            await asyncio.sleep(0)
        assert origin.begun == 3
        assert not fills.cache.holds(fill.listed.sha256)

    run(test())


def test_without_the_end_held_back_a_wrong_file_is_sent_whole(
    fills: Fills, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The naive variant: bytes go out as they come, all of them."""
    monkeypatch.setattr(fill_module, "HELD_BYTES", 0)
    wrong = flipped(DATA)

    def download() -> Iterator[bytes]:
        yield wrong
        assert sent.wait(PATIENCE_SECONDS)  # the client is faster than the hash

    async def test() -> None:
        fill, _ = fills.join(listed(DATA), download, "URL", lambda: None)
        got = await whole(fill.read(0, SIZE))
        sent.set()
        assert got == wrong

    sent = threading.Event()
    run(test())


def test_an_origin_that_gives_up_is_an_error_and_the_next_request_tries_again(
    fills: Fills,
) -> None:
    def gives_up() -> Iterator[bytes]:
        yield DATA[:PIECE]
        raise RemoteError("remote store did not give it")

    async def test() -> None:
        fill, _ = fills.join(listed(DATA), gives_up, "URL", lambda: None)
        with pytest.raises(RemoteError):
            await whole(fill.read(0, SIZE))
        while fills.running(fill.listed) is not None:
            await asyncio.sleep(0)
        assert await whole(Origin(DATA).join(fills)[0].read(0, SIZE)) == DATA

    run(test())


def test_one_fill_more_than_may_run_is_refused(fills: Fills) -> None:
    async def test() -> None:
        datas = [os.urandom(1000) for _ in range(5)]
        origins = [Origin(data, opened=0) for data in datas]
        running = [
            origin.join(fills, data)[0] for origin, data in zip(origins[:4], datas[:4], strict=True)
        ]
        with pytest.raises(BusyError) as refused:
            origins[4].join(fills, datas[4])
        assert refused.value.seconds == 2
        assert origins[0].join(fills, datas[0]) == (running[0], False)
        for origin in origins:
            origin.gate.set()
        for fill, data in zip(running, datas, strict=False):
            assert await whole(fill.read(0, 1000)) == data

    run(test())


def alike(count: int) -> list[bytes]:
    """Return objects whose hashes begin alike, so that they have one lock file."""
    found: dict[str, list[bytes]] = {}
    for number in itertools.count():
        data = b"%d" % number
        same = found.setdefault(listed(data).sha256[:3], [])
        same.append(data)
        if len(same) == count:
            return same
    raise AssertionError("numbers do not end")


def test_fills_with_one_lock_file_wait_for_one_another(fills: Fills) -> None:
    async def test() -> None:
        first, second = alike(2)
        slow, quick = Origin(first, opened=0), Origin(second)
        slow_fill, _ = slow.join(fills, first)
        while not slow.begun:
            await asyncio.sleep(0)
        quick_fill, _ = quick.join(fills, second)
        waits = asyncio.create_task(quick_fill.is_kept())
        await asyncio.sleep(0.05)
        assert not waits.done()
        slow.gate.set()
        assert await waits
        assert await whole(slow_fill.read(0, len(first))) == first
        assert await whole(quick_fill.read(0, len(second))) == second
        assert fills.cache.holds(quick_fill.listed.sha256)

    run(test())


def test_another_process_at_the_object_is_not_waited_for(fills: Fills) -> None:
    async def test() -> None:
        await whole(Origin(b"first").join(fills, b"first")[0].read(0, 5))  # makes the folders
        lock = fills.cache.settings.directory / "lock" / listed(DATA).sha256[:3]
        with locked(lock):  # as another process would, by a descriptor of its own
            origin = Origin(DATA)
            assert not await origin.join(fills)[0].is_kept()
        assert origin.begun == 0

    run(test())


def test_an_object_without_room_is_not_kept(tmp_path: Path) -> None:
    async def test(limit: int) -> None:
        fills = Fills(4, CacheSettings(directory=tmp_path / "cache", limit_bytes=limit))
        one, two = os.urandom(1000), os.urandom(1000)
        holds = Origin(one, opened=0)
        holds.join(fills, one)
        while not holds.begun:
            await asyncio.sleep(0)
        assert not await Origin(two).join(fills, two)[0].is_kept()
        assert fills.cache.used_bytes == 1000
        holds.gate.set()
        fills.close()

    with pytest.warns(UserWarning, match="no room for 1000 bytes"):
        run(test(1999))


def test_a_file_that_is_read_may_be_evicted_and_one_that_fills_is_not(tmp_path: Path) -> None:
    async def test() -> None:
        fills = Fills(1, CacheSettings(directory=tmp_path / "cache", limit_bytes=2 * SIZE))
        fill, _ = Origin(DATA).join(fills)
        body = fill.read(0, SIZE)
        got = await taken(body, 1)
        while fills.running(fill.listed) is not None:
            await asyncio.sleep(0)
        for number in range(3):  # each needs room
            other = bytes([number]) * SIZE
            assert await whole(Origin(other).join(fills, other)[0].read(0, SIZE)) == other
            while fills.running(listed(other)) is not None:
                await asyncio.sleep(0)
            assert fills.cache.used_bytes <= 2 * SIZE
        assert not fills.cache.holds(fill.listed.sha256)
        assert got + await whole(body) == DATA

    run(test())


def test_the_end_of_the_server_ends_its_fills(fills: Fills) -> None:
    def endless() -> Iterator[bytes]:
        for _ in itertools.count():
            yield b"x"

    size = 1 << 23
    fill, _ = fills.join(
        Listed(name="a", size=size, sha256="0" * 64, immutable=True),
        endless,
        "URL",
        lambda: None,
    )
    fills.close()
    assert fill.progress.ended
    assert isinstance(fill.progress.error, RemoteError)
    assert not list((fills.cache.settings.directory / "tmp").iterdir())
    with pytest.raises(BusyError):
        Origin(DATA).join(fills)


def test_an_object_of_another_size_with_the_same_hash_is_another_object(fills: Fills) -> None:
    """A store may lie about the size of what another store has."""

    async def test() -> None:
        origin = Origin(DATA, opened=PIECE)
        fill, _ = origin.join(fills)
        lied = Listed(name="x", size=SIZE + 1, sha256=fill.listed.sha256, immutable=True)
        other, begun = fills.join(lied, origin, "URL", origin.again)
        assert begun
        origin.gate.set()
        assert await whole(fill.read(0, SIZE)) == DATA
        with pytest.raises(FormatError):
            await whole(other.read(0, SIZE + 1))

    run(test())


def test_fills_of_a_silent_origin_are_waited_for_together(
    fills: Fills, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill_module, "END_SECONDS", 0.2)
    waits: list[float] = []
    join = threading.Thread.join

    def counted(thread: threading.Thread, timeout: float | None = None) -> None:
        waits.append(timeout or 0.0)
        join(thread, timeout)

    origins = [Origin(os.urandom(SIZE), opened=0) for _ in range(4)]
    for each in origins:
        each.join(fills, each.downloads[0])
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "join", counted)
        fills.close()
    assert len(waits) == 4
    assert sum(waits) < 0.4
    for each in origins:
        each.gate.set()
