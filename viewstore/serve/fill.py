"""Fills: objects that come from an origin into the cache, once, and are read while they come.

The end of an object is held back until its sha256 is proved. Until then nobody can take what came
for the whole of it; whoever was sent bytes that turned out wrong is broken off.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, replace

from viewstore.errors import FormatError, RemoteError
from viewstore.files.cache import Cache
from viewstore.files.cache_settings import CacheSettings
from viewstore.files.download import Download
from viewstore.files.eviction import AHEAD
from viewstore.files.fetch import Retry
from viewstore.files.maps import Descriptor
from viewstore.serve.local import CHUNK_BYTES, READERS
from viewstore.serve.objects import BusyError, Listed

HELD_BYTES = 256 << 10  # of an object, kept from everyone until its sha256 is proved
BUSY_SECONDS = 2
END_SECONDS = 5.0  # fills get so long to notice that the server ends
THREAD = "viewstore-fill"


@dataclass(frozen=True)
class Progress:
    """How far a fill is.

    Attributes:
        attempt: Number of the download; bytes of an earlier one were wrong.
        file: Where its bytes stand; None: nothing is reserved yet.
        readable: How many bytes of it may be sent.
        ended: Whether no more come.
        error: Why it ended without the object.
    """

    attempt: int = 0
    file: Descriptor | None = None
    readable: int = 0
    ended: bool = False
    error: Exception | None = None


class Fill:
    """One object on its way into the cache. A thread brings it, tasks of event loops read it."""

    def __init__(self, listed: Listed) -> None:
        """Begin with nothing."""
        self.listed = listed
        self.progress = Progress()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._lock = threading.Lock()

    def run(
        self, cache: Cache, download: Download, where: str, refetched: Callable[[], None]
    ) -> None:
        """Bring the object; `refetched` is told of each download after one that was wrong."""

        def follow(descriptor: int) -> Iterator[bytes]:
            attempt = self.progress.attempt + 1
            if attempt > 1:
                refetched()
            self._move(Progress(attempt, Descriptor(os.dup(descriptor))))
            length = 0
            for chunk in download():
                yield chunk
                length += len(chunk)
                readable = max(0, min(length, self.listed.size - HELD_BYTES))
                self._move(replace(self.progress, readable=readable))

        try:
            found = cache.fill(self.listed.sha256, self.listed.size, follow, where)
        except Exception as error:  # it is raised in every task that waits
            self._move(Progress(self.progress.attempt, ended=True, error=error))
        else:
            file = None if found is None else Descriptor(found)
            readable = 0 if found is None else self.listed.size
            self._move(Progress(self.progress.attempt, file, readable, ended=True))

    async def is_kept(self) -> bool:
        """Wait until it is known whether the object goes into the cache.

        False: there is no room for it, or another process brings it.
        """
        now = self.progress
        while now.file is None and not now.ended:
            now = await self._after(now)
        return now.file is not None or now.error is not None

    async def read(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Yield bytes [start, stop) of an object that is kept, as they come.

        Raises:
            FormatError: What was yielded was wrong, or every download was.
            RemoteError: The origin did not give the rest.
        """
        run = asyncio.get_running_loop().run_in_executor
        attempt = None
        while start < stop:
            now = self.progress
            if now.error is not None:
                raise now.error.with_traceback(None)
            if attempt not in (None, now.attempt):
                raise FormatError(
                    f"{self.listed.name} came with wrong bytes and is fetched again", code="VS203"
                )
            size = min(CHUNK_BYTES, min(stop, now.readable) - start)
            if now.file is None or size <= 0:
                await self._after(now)
                continue
            data = await run(READERS, pread, now.file, size, start)
            if self.progress.attempt != now.attempt:  # it may have been written over meanwhile
                continue
            if not data:
                raise FormatError(f"{self.listed.name} became shorter while it was read")
            yield data
            attempt, start = now.attempt, start + len(data)

    def _move(self, progress: Progress) -> None:
        self.progress = progress
        with self._lock:
            waiting = list(self._waiting)
        for loop, event in waiting:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(event.set)

    async def _after(self, seen: Progress) -> Progress:
        """Wait until the progress is another one than `seen`."""
        waiter = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._waiting.add(waiter)
        try:
            if self.progress is seen:
                await waiter[1].wait()
        finally:
            with self._lock:
                self._waiting.discard(waiter)
        return self.progress


class Fills:
    """The fills of a server: one for each object, all into one cache, and a bounded number."""

    def __init__(self, most: int = 16, cache: CacheSettings | None = None) -> None:
        """Run at most `most` fills; `cache` None: as the environment says."""
        self.most = most
        settings = cache or CacheSettings.from_environment()
        ranks = math.ceil(most / (AHEAD + 1))  # so many ranks of a job have as many shards in use
        self.cache = Cache(settings, ranks=ranks, hash_tries=Retry().hash_tries)
        self._running: dict[tuple[str, int], Fill] = {}
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._ending = threading.Event()

    def needed_bytes(self, largest: int) -> int:
        """Return the least limit of a cache for objects of up to `largest` bytes."""
        return (self.most + 1) * largest

    def find(self, listed: Listed) -> Descriptor | None:
        """Return an object that is here; it stays readable while it is held.

        Raises:
            UnavailableError: The cache cannot be read.
        """
        found = self.cache.find(listed.sha256, listed.size)
        return None if found is None else Descriptor(found)

    def running(self, listed: Listed) -> Fill | None:
        """Return the fill of an object that is on its way."""
        return self._running.get((listed.sha256, listed.size))

    def join(
        self,
        listed: Listed,
        download: Download,
        where: str,
        refetched: Callable[[], None],
    ) -> tuple[Fill, bool]:
        """Return the fill of an object, and whether it was begun now.

        Raises:
            BusyError: It would be one more than may run.
        """
        with self._lock:
            fill = self.running(listed)
            if fill is not None:
                return fill, False
            if len(self._running) >= self.most or self._ending.is_set():
                raise BusyError(BUSY_SECONDS)
            fill = self._running[listed.sha256, listed.size] = Fill(listed)
            task = (fill, download, where, refetched)
            thread = threading.Thread(target=self._run, args=task, name=THREAD, daemon=True)
            self._threads.add(thread)
        thread.start()
        return fill, True

    def sleep(self, seconds: float) -> None:
        """Sleep. Raises RemoteError: the server ends."""
        if self._ending.wait(seconds):
            raise RemoteError("the server ended before the download did")

    def close(self) -> None:
        """End all fills; what they have brought so far is dropped."""
        self._ending.set()
        deadline = time.monotonic() + END_SECONDS  # of all of them: an origin may be silent
        for thread in list(self._threads):
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(
        self, fill: Fill, download: Download, where: str, refetched: Callable[[], None]
    ) -> None:
        def until_the_end() -> Iterator[bytes]:
            for chunk in download():
                self.sleep(0)
                yield chunk

        try:
            fill.run(self.cache, until_the_end, where, refetched)
        finally:
            with self._lock:
                del self._running[fill.listed.sha256, fill.listed.size]
                self._threads.discard(threading.current_thread())


def pread(file: Descriptor, size: int, start: int) -> bytes:
    """Return up to `size` bytes of a file, which stays open for as long as this runs."""
    return os.pread(file.number, size, start)
