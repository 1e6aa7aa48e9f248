"""A store at a URL, as it is served: its newest generation is followed, its objects are cached."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import (
    ConfigError,
    FormatError,
    RemoteError,
    UnavailableError,
    ViewStoreError,
)
from viewstore.files.blob_cache import Checked, is_missing
from viewstore.files.fetch import Retry, Traffic
from viewstore.files.local import checked_blob, matching
from viewstore.files.remote import RemoteFiles
from viewstore.format.manifest import Manifest
from viewstore.format.paths import StorePaths
from viewstore.format.records import LARGE_BYTES
from viewstore.format.tar import unpack_npy
from viewstore.serve.fill import Fills
from viewstore.serve.objects import Listed
from viewstore.serve.origin import Origin, Told
from viewstore.store.committed import remote_manifest
from viewstore.store.contents import blobs, derived_files
from viewstore.store.store import Store

OLD_SECONDS = 5.0  # a manifest of this age is fetched again when it is asked for
QUICK = Retry(tries=2, total_seconds=10.0, longest_seconds=1.0, stall_seconds=5.0)
LOOKERS = 8  # threads that wait for manifests, for each store
PATHS = StorePaths(Path())
RECORDS = ("sources.json", "plan.json")  # whose sha256 no other record lists
LOG = logging.getLogger("viewstore.serve")


@dataclass(eq=False)
class _ToldTraffic(Traffic):
    """Counts what comes from an origin, and tells it."""

    told: Told | None = None

    def add_bytes(self, size: int) -> None:
        super().add_bytes(size)
        if self.told is not None:
            self.told.fetched(size)


class GenerationFiles(RemoteFiles):
    """The files of one generation: records stay in memory, the rest goes through the cache.

    Attributes:
        records: Bytes of the records that were read, by name.
        listed: What records say of other files, by name; more once more of them were read.
    """

    def __init__(self, url: str, fills: Fills, retry: Retry, traffic: Traffic) -> None:
        """Connect to `url`. Raises as `RemoteFiles`."""
        super().__init__(url, cache=fills.cache.settings, retry=retry)
        self.cache.disk = fills.cache
        self.cache.fetcher.sleep, self.cache.fetcher.traffic = fills.sleep, traffic
        self.records: dict[str, bytes] = {}
        self.listed: Mapping[str, Listed] = {}

    def record(self, path: Path, limit: int, check: Callable[[bytes], Checked]) -> Checked:
        name = path.as_posix()
        if name in self.records:
            return check(self.records[name])
        listed = self.listed.get(name)
        if listed is not None:
            return self._blob(path, listed.size, listed.sha256, lambda data: check(bytes(data)))
        if path.name not in RECORDS:
            return super().record(path, limit, check)
        self.records[name] = super().record(path, limit, partial(_proved, check))
        return check(self.records[name])

    def exists(self, path: Path) -> bool:
        return path.as_posix() in self.records or super().exists(path)

    def array(
        self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], size: int, sha256: str
    ) -> NDArray[Any]:
        def check(data: memoryview) -> NDArray[Any]:
            return unpack_npy(matching(data, size=size, sha256=sha256), dtype, shape)

        return self._blob(path, size, sha256, check)

    def _blob(
        self, path: Path, size: int, sha256: str, check: Callable[[memoryview], Checked]
    ) -> Checked:
        return checked_blob(self, path, size, sha256, check)


class ThroughGeneration:
    """One generation of a store at a URL."""

    def __init__(
        self,
        files: GenerationFiles,
        manifest: bytes,
        origin: Origin,
        doubted: Callable[[], None],
    ) -> None:
        """Read and check the records that a manifest leads to.

        Args:
            files: Of the generation; nothing was read through them.
            manifest: The bytes of its manifest.
            origin: Gives its objects.
            doubted: Is called when the origin has another derived file than the manifest says,
                which is so once there is a newer generation.

        Raises:
            FormatError: A record is damaged, or not the one that the manifest names.
            RemoteError: The origin did not give one.
        """
        files.records[PATHS.manifest.as_posix()] = manifest
        self._files = files
        self.manifest = remote_manifest(PATHS, files)
        self.number, self.store_id = self.manifest.generation, self.manifest.store_id
        files.listed = {
            found.name: Listed(**found._asdict(), immutable=False)
            for name in self.manifest.view_sets
            for found in derived_files(self.manifest, name)
        }
        self.files: Mapping[str, Listed] = {each.name: each for each in self._listed()}
        files.listed = self.files
        self._origin, self._doubted = origin, doubted
        self._store: Store | None = None
        self._lock = threading.Lock()

    def _listed(self) -> Iterator[Listed]:
        yield from self._files.listed.values()
        for found in blobs(PATHS, self.manifest, self.manifest.view_sets, self._files):
            yield Listed(**found._asdict(), immutable=True)
        for name, data in self._files.records.items():
            digest = hashlib.sha256(data).hexdigest()
            yield Listed(name=name, size=len(data), sha256=digest, immutable=False)

    @property
    def manifest_bytes(self) -> bytes:
        """The manifest as the origin gave it."""
        return self._files.records[PATHS.manifest.as_posix()]

    @property
    def largest(self) -> int:
        """Bytes of its largest object."""
        return max(each.size for each in self.files.values())

    def store(self) -> Store:
        """Return the store as it was in this generation; all threads share it."""
        with self._lock:
            if self._store is None:
                self._store = Store(PATHS, self.manifest, self._files)
            return self._store

    async def body(self, listed: Listed, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        if start == stop:
            return
        record = self._files.records.get(listed.name)
        if record is not None:
            yield record[start:stop]
            return
        try:
            async with aclosing(self._origin.read(listed, start, stop)) as body:
                async for data in body:
                    yield data
        except FormatError:
            if not listed.immutable:
                self._doubted()
            raise


class ThroughStore:
    """A store at a URL. Its manifest is asked for again while clients ask for it."""

    def __init__(
        self, name: str, url: str, *, fills: Fills, metrics: Told, retry: Retry | None = None
    ) -> None:
        """Serve the store at `url` under `name`; nothing is fetched yet.

        Args:
            name: In addresses.
            url: Of the store.
            fills: Those of the server, shared by its stores.
            metrics: Is told what comes from the origin.
            retry: How often and how long the origin is tried.

        Raises:
            ConfigError: The URL has another form than a store's.
            UnavailableError: The package that speaks its scheme is not installed.
        """
        self.name, self.url = name, url
        self._fills, self._told, self._retry = fills, metrics, retry or Retry()
        self._traffic = _ToldTraffic(told=metrics)
        self._manifests = RemoteFiles(url, cache=fills.cache.settings, retry=QUICK)
        self._manifests.cache.fetcher.sleep = fills.sleep
        self._manifests.cache.fetcher.traffic = self._traffic
        self._generation: ThroughGeneration | None = None
        self._error: ViewStoreError | None = None
        self._looked = float("-inf")
        self._doubted = False
        self._looking = threading.Lock()
        self._lookers = ThreadPoolExecutor(LOOKERS, "viewstore-look")

    async def generation(self, *, fresh: bool = False) -> ThroughGeneration | None:
        known = self._generation
        if known is not None and not self._doubted and not (fresh and self._is_old()):
            return known
        run = asyncio.get_running_loop().run_in_executor
        return await run(self._lookers, self.newest)

    def store(self) -> Store:
        found = self.newest() if self._generation is None else self._generation
        if found is None:
            raise ConfigError(
                f"{self.url} has no manifest.json",
                code="VS202",
                where=self.url,
                why="it is not a store, or no build of it has ended",
            )
        return found.store()

    def check_room(self) -> None:
        """Look whether the cache can be used, and has room for the objects of the store.

        An origin that does not answer yet may do so later; then this is found then.

        Raises:
            ConfigError: It has too little room.
            UnavailableError: It cannot be read or written.
        """
        try:
            self.newest()
        except ViewStoreError as error:
            if isinstance(error, ConfigError | UnavailableError):
                raise

    def newest(self) -> ThroughGeneration | None:
        """Return the newest generation; the origin is asked if that was long ago.

        While one thread asks, others go on with the last one.

        Raises:
            ConfigError: The cache has too little room for the objects of the store.
            ViewStoreError: There was none yet, and the origin gives none.
        """
        known = self._generation
        if not self._looking.acquire(blocking=known is None):
            return known
        try:
            if self._doubted or self._is_old():
                self._doubted = False
                self._look()
                self._looked = time.monotonic()
        finally:
            self._looking.release()
        if self._generation is None and self._error is not None:
            raise self._error.with_traceback(None)
        return self._generation

    def _doubt(self) -> None:
        self._doubted = True

    def _is_old(self) -> bool:
        return time.monotonic() - self._looked >= OLD_SECONDS

    def _look(self) -> None:
        """Follow the origin; what it gives that is of no use is told, and the last one stays."""
        self._error = None
        try:
            manifest = self._fetch_manifest()
            known = self._generation
            if manifest is None or (known is not None and known.manifest_bytes == manifest):
                return
            files = GenerationFiles(self.url, self._fills, self._retry, self._traffic)
            origin = Origin(files.cache, self._fills, self._told)
            found = ThroughGeneration(files, manifest, origin, self._doubt)
            self._check_room(found)
            self._generation = found
        except ViewStoreError as error:
            self._error = error
            if self._generation is not None:
                LOG.warning("store %s: the last manifest is sent: %s", self.name, error)

    def _fetch_manifest(self) -> bytes | None:
        """Return the manifest; None: there is none."""
        name, blobs = PATHS.manifest.as_posix(), self._manifests.cache
        try:
            return blobs.checked(
                PATHS.manifest,
                lambda: b"".join(blobs.fetcher.stream(name, limit=LARGE_BYTES)),
                partial(_proved, Manifest.unpack),
            )
        except RemoteError as error:
            if is_missing(error) and self._generation is None:
                return None
            raise

    def _check_room(self, found: ThroughGeneration) -> None:
        limit = self._fills.cache.settings.limit_bytes
        needed = self._fills.needed_bytes(found.largest)
        if limit < needed:
            raise ConfigError(
                f"cache limit must be at least {needed} bytes, got {limit}: objects of {self.url} "
                f"have up to {found.largest} bytes, and {self._fills.most} come at one time",
                where=str(self._fills.cache.settings.directory),
                fix=f"export VIEWSTORE_CACHE__LIMIT={needed}",
            )


def _proved(check: Callable[[bytes], object], data: bytes) -> bytes:
    """Return the bytes of a record. Raises as `check`."""
    check(data)
    return data
