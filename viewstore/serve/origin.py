"""Objects of an origin as they are sent: from the cache, from a fill, or passed to one client."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from viewstore.errors import FormatError
from viewstore.files.blob_cache import BlobCache
from viewstore.files.maps import Descriptor
from viewstore.serve.ahead import in_thread
from viewstore.serve.fill import HELD_BYTES, Fill, Fills, pread
from viewstore.serve.local import CHUNK_BYTES, READERS
from viewstore.serve.objects import BusyError, Listed

PARTS = 4  # a range of more than one of so many parts of an object asks for all of it

Result = Literal["hit", "miss", "joined", "passed"]


class Told(Protocol):
    """Is told what a store that lies elsewhere does; `metrics` counts it. Threads call it."""

    def fetched(self, count: int) -> None:
        """Bytes came from the origin."""

    def asked(self, result: Result) -> None:
        """A client asked for an object.

        It was here, a fill was begun or joined, or bytes are passed on and not kept.
        """

    def refetched(self) -> None:
        """An object is fetched again because its hash was wrong."""


def wants_whole(start: int, stop: int, size: int) -> bool:
    """Whether bytes [start, stop) of an object are a reason to fetch all of it at once.

    A stream that broke goes on to the end of the object, wherever it begins again.
    """
    return stop == size or (stop - start) * PARTS > size


class Asked:
    """What was asked for in small ranges, of each object."""

    def __init__(self) -> None:
        self._bytes: Counter[str] = Counter()

    def add(self, listed: Listed, count: int) -> bool:
        """Count bytes; return whether a quarter of the object was asked for since it last was."""
        self._bytes[listed.sha256] += count
        if self._bytes[listed.sha256] * PARTS < listed.size:
            return False
        del self._bytes[listed.sha256]
        return True


class Origin:
    """The objects of one store that lies elsewhere, as bytes for clients."""

    def __init__(self, blobs: BlobCache, fills: Fills, told: Told) -> None:
        """Fetch through the fetcher of `blobs`, into the cache of `fills`."""
        self._blobs, self._fills, self._told = blobs, fills, told
        self._asked = Asked()

    async def read(self, listed: Listed, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Yield bytes [start, stop) of an object. Raises as `Generation.body`."""
        async with aclosing(await self._body(listed, start, stop)) as body:
            async for data in body:
                yield data

    async def _body(self, listed: Listed, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Return where the bytes come from, and count the request for them."""
        run = asyncio.get_running_loop().run_in_executor
        found = await run(READERS, self._fills.find, listed)
        if found is not None:
            self._told.asked("hit")
            return _from_file(found, start, stop)
        if wants_whole(start, stop, listed.size):
            fill, begun = self._join(listed)
            if await fill.is_kept():
                self._told.asked("miss" if begun else "joined")
                return fill.read(start, stop)
        else:
            self._count(listed, stop - start)
            running = self._fills.running(listed)
            if running is not None and stop <= running.progress.readable:
                self._told.asked("joined")
                return running.read(start, stop)
        self._told.asked("passed")
        return self._passed(listed, start, stop)

    def _join(self, listed: Listed) -> tuple[Fill, bool]:
        download = partial(self._stream, listed, 0, listed.size)
        where = self._blobs.fetcher.where(listed.name)
        return self._fills.join(listed, download, where, self._told.refetched)

    def _count(self, listed: Listed, count: int) -> None:
        """Count bytes of a small range; a quarter of the object is a reason to fetch all of it."""
        if self._asked.add(listed, count):
            with contextlib.suppress(BusyError):  # then it is begun another time
                self._join(listed)

    async def _passed(self, listed: Listed, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Yield bytes from the origin; of a whole object, the end once its sha256 is proved."""
        if (start, stop) != (0, listed.size):
            async with aclosing(in_thread(self._stream(listed, start, stop))) as body:
                async for data in body:
                    yield data
            return
        sent = False
        for left in reversed(range(self._fills.cache.hash_tries)):
            chunks = held_back(self._stream(listed, start, stop), listed)
            try:
                async with aclosing(in_thread(chunks)) as body:
                    async for data in body:
                        yield data
                        sent = True
                return
            except FormatError:
                if sent or not left:
                    raise
                self._told.refetched()

    def _stream(self, listed: Listed, start: int, stop: int) -> Iterator[bytes]:
        with self._blobs.named_by_manifest(Path(listed.name)):
            end = None if stop == listed.size else stop  # not every server knows ranges
            yield from self._blobs.fetcher.stream(listed.name, start, end, whole=listed.size)


def held_back(chunks: Iterator[bytes], listed: Listed) -> Iterator[bytes]:
    """Yield the bytes of a whole object, the last 256 KiB of them once its sha256 is proved.

    Raises:
        FormatError: Its sha256 is another one.
    """
    found, held = hashlib.sha256(), b""
    for chunk in chunks:
        found.update(chunk)
        held += chunk
        if len(held) > HELD_BYTES:
            yield held[:-HELD_BYTES]
            held = held[-HELD_BYTES:]
    if found.hexdigest() != listed.sha256:
        raise FormatError(
            f"{listed.name} does not match its sha256: expected {listed.sha256}, "
            f"got {found.hexdigest()}",
            code="VS203",
        )
    if held:
        yield held


async def _from_file(file: Descriptor, start: int, stop: int) -> AsyncGenerator[bytes, None]:
    run = asyncio.get_running_loop().run_in_executor
    while start < stop:
        data = await run(READERS, pread, file, min(CHUNK_BYTES, stop - start), start)
        if not data:
            raise FormatError("a file of the cache became shorter while it was read")
        yield data
        start += len(data)
