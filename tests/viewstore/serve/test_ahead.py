"""A thread runs an iterator for a task, and is never far ahead of it."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from contextlib import aclosing

import pytest

from viewstore.errors import RemoteError
from viewstore.serve.ahead import CHUNKS, in_thread


async def taken(chunks: Iterator[bytes]) -> list[bytes]:
    return [each async for each in in_thread(chunks)]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
def test_all_chunks_come_in_their_order(count: int) -> None:
    expected = [b"%d" % number for number in range(count)]
    assert asyncio.run(taken(iter(expected))) == expected


def test_an_error_comes_after_what_came_before_it() -> None:
    def breaks() -> Iterator[bytes]:
        yield b"first"
        raise RemoteError("it broke")

    async def test() -> None:
        body = in_thread(breaks())
        assert await anext(body) == b"first"
        with pytest.raises(RemoteError, match="it broke"):
            await anext(body)

    asyncio.run(test())


def test_it_is_no_further_ahead_than_it_may_be_and_ends_with_who_takes() -> None:
    begun: list[int] = []
    closed = threading.Event()

    def endless() -> Iterator[bytes]:
        try:
            for number in itertools.count():
                begun.append(number)
                yield b"x"
        finally:
            closed.set()

    async def test() -> None:
        async with aclosing(in_thread(endless())) as body:
            for _ in range(5):
                await anext(body)
            await asyncio.sleep(0.05)
            assert len(begun) <= 5 + CHUNKS

    asyncio.run(test())
    assert closed.wait(300)
