"""A store in a folder, as it is served: the table of names of its newest generation, and bytes."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from viewstore.errors import FormatError, ViewStoreError
from viewstore.files.disk import explained
from viewstore.files.maps import Descriptor
from viewstore.format.manifest import Manifest
from viewstore.format.paths import StorePaths
from viewstore.serve.folder import KeptFiles
from viewstore.serve.objects import Listed
from viewstore.store.committed import read_manifest
from viewstore.store.contents import blobs, derived_files
from viewstore.store.store import Store, open_store

CHUNK_BYTES = 1 << 20
LOOK_SECONDS = 1.0  # the manifest is looked at so often, at most
AGAIN_SECONDS = 10.0  # so long a generation that cannot be read is tried at each look; then rarely
LOOKERS = 8  # threads that look for manifests, for each store
READERS = ThreadPoolExecutor(32, "viewstore-read")  # asyncio's own pool has six on two cores
LOG = logging.getLogger("viewstore.serve")

Stamp = tuple[int, int, int]


class LocalGeneration:
    """One generation of a store in a folder."""

    def __init__(self, root: Path) -> None:
        """Read and check the records of the newest generation; keep open what may be replaced.

        Raises:
            FormatError: A record is damaged, or a derived file is not the one the manifest names.
            OSError: The folder cannot be read.
        """
        self._paths = StorePaths(root)
        self._kept = KeptFiles(root)
        manifest_file = self._kept.opened("manifest.json")
        self.stamp = _stamp_of(os.fstat(manifest_file.number))
        manifest = read_manifest(self._paths, self._kept)
        assert manifest is not None, "it is open"
        self.manifest = manifest
        self.number, self.store_id = manifest.generation, manifest.store_id
        self.files: Mapping[str, Listed] = {each.name: each for each in self._listed(manifest)}
        self._store: Store | None = None
        self._lock = threading.Lock()

    def _listed(self, manifest: Manifest) -> Iterator[Listed]:
        there = [
            name
            for name in manifest.view_sets
            if self._kept.exists(self._paths.view_set(name).plan)
        ]
        for name in there:
            for found in derived_files(manifest, name):
                self._kept.keep(*found)
                yield Listed(**found._asdict(), immutable=False)
        for found in blobs(self._paths, manifest, there, self._kept):
            yield Listed(**found._asdict(), immutable=True)
        for name, data in self._kept.records.items():
            digest = hashlib.sha256(data).hexdigest()
            yield Listed(name=name, size=len(data), sha256=digest, immutable=False)

    def store(self) -> Store:
        """Return the store as it was in this generation; all threads share it."""
        with self._lock:
            if self._store is None:
                self._store = Store(self._paths, self.manifest, self._kept)
            return self._store

    async def body(self, listed: Listed, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        record = self._kept.records.get(listed.name) if not listed.immutable else None
        run = asyncio.get_running_loop().run_in_executor
        if record is None:
            file = await run(READERS, self._kept.opened, listed.name, listed.size)
        while start < stop:
            size = min(CHUNK_BYTES, stop - start)
            if record is None:
                data = await run(READERS, _pread, file, size, start)
            else:
                data = record[start : start + size]
            if not data:
                raise FormatError(f"{listed.name} became shorter while it was read")
            yield data
            start += len(data)


@dataclass(frozen=True)
class _Failure:
    """A generation that could not be read.

    Attributes:
        stamp: Of its manifest.
        error: Why.
        began, tried: When it was tried first and last, by the monotonic clock.
    """

    stamp: Stamp | None
    error: ViewStoreError
    began: float
    tried: float

    def is_due(self, now: float) -> bool:
        """Whether it is time to try again."""
        rest = LOOK_SECONDS if now - self.began < AGAIN_SECONDS else AGAIN_SECONDS
        return now - self.tried >= rest


class LocalStore:
    """A store in a folder. Its newest generation is followed, be it that of a new store there."""

    def __init__(self, name: str, root: Path) -> None:
        """Serve the store at `root` under `name`."""
        self.name, self.root = name, root
        self._generation: LocalGeneration | None = None
        self._failure: _Failure | None = None
        self._looked = float("-inf")
        self._looking = threading.Lock()
        self._lookers = anyio.CapacityLimiter(LOOKERS)

    async def generation(self, *, fresh: bool = False) -> LocalGeneration | None:
        known = self._generation  # None: the first look may be under way, and is waited for
        if known is not None and not fresh and time.monotonic() - self._looked < LOOK_SECONDS:
            return known
        return await anyio.to_thread.run_sync(self.newest, fresh, limiter=self._lookers)

    def store(self) -> Store:
        found = self.newest()
        return open_store(self.root) if found is None else found.store()

    def newest(self, fresh: bool = False) -> LocalGeneration | None:
        """Return the newest generation, as `generation` does, for threads.

        While one thread reads a new generation, others go on with the old one, unless `fresh`.
        """
        known = self._generation
        if not self._looking.acquire(blocking=fresh or known is None):
            return known
        try:
            now = time.monotonic()
            if fresh or now - self._looked >= LOOK_SECONDS:
                self._looked = now
                self._look(now)
        finally:
            self._looking.release()
        return self._known()

    def _known(self) -> LocalGeneration | None:
        known, failure = self._generation, self._failure
        if known is None and failure is not None:
            raise failure.error.with_traceback(None)
        return known

    def _look(self, now: float) -> None:
        """Read the newest generation if the manifest is another one than before."""
        stamp = None
        try:
            with explained(self.root):
                stamp = _stamp(self.root)
                if self._is_known(stamp, now):
                    return
                self._generation, self._failure = LocalGeneration(self.root), None
        except ViewStoreError as error:
            self._failed(stamp, error, now)

    def _is_known(self, stamp: Stamp | None, now: float) -> bool:
        """Whether there is nothing to read: no manifest, the one we have, or one that failed."""
        if stamp is None:
            self._generation = self._failure = None
            return True
        if self._generation is not None and self._generation.stamp == stamp:
            self._failure = None
            return True
        failed = self._failure
        return failed is not None and failed.stamp == stamp and not failed.is_due(now)

    def _failed(self, stamp: Stamp | None, error: ViewStoreError, now: float) -> None:
        """Keep what is served, and say once why what the manifest names is not."""
        before = self._failure
        if before is None or before.stamp != stamp:
            before = None
            LOG.warning("store %s cannot be read as it is now: %s", self.name, error)
        began = now if before is None else before.began
        self._failure = _Failure(stamp, error, began, now)


def _stamp(root: Path) -> Stamp | None:
    """Return what changes with each manifest; None: there is none."""
    try:
        return _stamp_of((root / "manifest.json").lstat())
    except (FileNotFoundError, NotADirectoryError):
        return None


def _stamp_of(facts: os.stat_result) -> Stamp:
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def _pread(file: Descriptor, size: int, start: int) -> bytes:
    return os.pread(file.number, size, start)  # `file` stays open for as long as this runs
