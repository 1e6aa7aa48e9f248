"""Runs an iterator that waits for a network in a thread of its own, for a task of an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Iterator

CHUNKS = 2  # that a thread is ahead of who takes them


async def in_thread(chunks: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield what `chunks` gives, and raise what it raises.

    Its thread ends with it, after the chunk at which nobody takes from here any more, or with the
    process, which does not wait for a network that is silent.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
    room, left = threading.Semaphore(CHUNKS), threading.Event()

    def put(item: bytes | Exception | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(queue.put_nowait, item)

    def work() -> None:
        try:
            for chunk in chunks:
                put(chunk)
                room.acquire()
                if left.is_set():
                    return
            put(None)
        except Exception as error:
            put(error)

    threading.Thread(target=work, name="viewstore-origin", daemon=True).start()
    try:
        while (item := await queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
            room.release()
    finally:
        left.set()
        room.release()
