"""Brings the blobs of a store at a URL to this machine: whole, prefetched, or in parts.

A `BlobCache` belongs to one opened remote store; readers ask it what is on this machine and what
fits. It fetches through a `Fetcher` into the disk cache that all stores share.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypedDict, TypeVar

from viewstore.errors import ConfigError, FormatError, RemoteError, ViewStoreError
from viewstore.files.cache import Cache
from viewstore.files.cache_settings import CacheSettings
from viewstore.files.eviction import AHEAD, needed_bytes
from viewstore.files.fetch import Fetcher, Retry, Traffic
from viewstore.files.transport import connect
from viewstore.format.manifest import SHARD_SUFFIX, BlobRecord

AHEAD_BYTES = 1 << 30
AHEAD_THREAD = "viewstore-ahead"

Checked = TypeVar("Checked")


class FileSettings(TypedDict, total=False):
    """What `open_store` takes beside a path or URL, to read a store as another process does."""

    cache: CacheSettings
    retry: Retry


class BlobCache:
    """Brings files below a URL to this machine; threads may share it, and it can be pickled.

    Attributes:
        fetcher: Fetches, and counts what it received.
        disk: The files on this disk, shared with other stores and processes.
    """

    def __init__(self, url: str, cache: CacheSettings, retry: Retry) -> None:
        """Connect to `url`. Raises as `connect`."""
        self.fetcher = Fetcher(url, connect(url, retry), retry, sleep=_wait_while_running)
        self.disk = Cache(cache, ranks=_local_ranks(), hash_tries=retry.hash_tries)
        self._prefetching: set[str] = set()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:
        return (BlobCache, (self.fetcher.url, self.disk.settings, self.fetcher.retry))

    @property
    def settings(self) -> FileSettings:
        """How the store is read: what `open_store` was given."""
        return {"cache": self.disk.settings, "retry": self.fetcher.retry}

    @property
    def traffic(self) -> Traffic:
        """Counters of this store."""
        return self.fetcher.traffic

    @property
    def limit_bytes(self) -> int:
        """Bytes that the cache may take on this machine."""
        return self.disk.settings.limit_bytes

    @property
    def ranks(self) -> int:
        """Ranks of the job on this machine, which share the limit."""
        return self.disk.ranks

    def holds(self, sha256: str) -> bool:
        """Whether a blob is on this machine now."""
        return self.disk.holds(sha256)

    @property
    def keeps(self) -> bool:
        """Whether a blob that is opened now would stay on this machine."""
        return self.disk.keeps

    def most_open(self, largest: int) -> int:
        """Return how many blobs of up to `largest` bytes a rank may keep open or mapped."""
        return max(AHEAD + 1, self.limit_bytes // self.ranks // max(1, largest))

    def check_limit(self, largest: int) -> None:
        """Raise ConfigError if the blobs of up to `largest` bytes in use at one time do not fit."""
        needed = needed_bytes(largest, self.ranks)
        if 0 < self.limit_bytes < needed:
            raise ConfigError(
                f"cache limit must be at least {needed} bytes, got {self.limit_bytes}: shards have "
                f"up to {largest} bytes, and {self.ranks} ranks here use {AHEAD + 1} each",
                where=str(self.disk.settings.directory),
                fix=f"export VIEWSTORE_CACHE__LIMIT={needed}",
            )

    def open(self, path: Path, size: int, sha256: str) -> int:
        """Return a descriptor of a file, fetched if it is not here. Raises as `Files.open`."""
        descriptor, fetched = self._open(path, size, sha256)
        if path.suffix == SHARD_SUFFIX:  # chunks of params open their pack again and again
            self.traffic.opened(sha256, fetched=fetched)
        return descriptor

    def reopen(self, path: Path, size: int, sha256: str) -> int:
        """Return a descriptor of a file whose bytes were found wrong; a damaged copy is dropped.

        Raises:
            RemoteError: The server did not give it again; the copy that was dropped is named.
            FormatError: It gave another file; likewise.
            UnavailableError: The copy is damaged, and this process may not remove it.
        """
        kept = self.disk.holds(sha256)
        self.disk.drop_if_damaged(sha256)
        try:
            return self.open(path, size, sha256)
        except ViewStoreError as error:
            if kept:
                error.why = f"{error.why or error}; its copy {self.disk.path_of(sha256)} is damaged"
            raise

    def part(self, path: Path, start: int, stop: int, check: Callable[[bytes], Checked]) -> Checked:
        """Return `check` of bytes [start, stop) of a blob, which do not go to the cache.

        Raises:
            FormatError: `check` refused the bytes, each time they were fetched.
            RemoteError: The server did not give it.
        """
        return self.checked(path, lambda: self.fetcher.read(path.as_posix(), start, stop), check)

    def checked(
        self, path: Path, fetch: Callable[[], bytes], check: Callable[[bytes], Checked]
    ) -> Checked:
        """Return `check` of what `fetch` gives of a file; what it refuses is fetched again.

        Raises:
            FormatError: It was refused each time; the file is named.
            RemoteError: The server did not give it.
        """
        with self.named_by_manifest(path):
            for left in reversed(range(self.fetcher.retry.hash_tries)):
                try:
                    return check(fetch())
                except FormatError as error:
                    if not left:
                        raise error.located(self.fetcher.where(path.as_posix())) from error
        raise AssertionError("hash_tries is at least 1")

    def prefetch(self, blobs: Sequence[tuple[Path, BlobRecord]]) -> None:
        """Begin to fetch the first of these in the background: 2 per rank, at most 1 GiB."""
        if not self.limit_bytes:
            return
        bytes_left = AHEAD_BYTES
        for path, blob in blobs[:AHEAD]:
            bytes_left -= blob.bytes
            if bytes_left < 0:
                return
            with self._lock:
                known = blob.sha256 in self._prefetching or self.holds(blob.sha256)
                if known or len(self._prefetching) >= AHEAD:
                    continue
                self._prefetching.add(blob.sha256)
            self.traffic.prefetching(blob.sha256)
            threading.Thread(target=self._prefetch, args=[path, blob], name=AHEAD_THREAD).start()

    def _prefetch(self, path: Path, blob: BlobRecord) -> None:
        try:
            # Whoever opens the shard gets the error, with its URL.
            with suppress(ViewStoreError):
                descriptor, fetched = self._open(path, blob.bytes, blob.sha256)
                os.close(descriptor)
                self.traffic.prefetched(blob.sha256, fetched=fetched)
        finally:
            with self._lock:
                self._prefetching.discard(blob.sha256)

    def _open(self, path: Path, size: int, sha256: str) -> tuple[int, bool]:
        """Return a descriptor, and whether the file was fetched for it."""
        name, fetched = path.as_posix(), False

        def download() -> Iterator[bytes]:
            nonlocal fetched
            fetched = True
            with self.named_by_manifest(path):
                for chunk in self.fetcher.stream(name):
                    _wait_while_running(0)
                    yield chunk

        return self.disk.open(sha256, size, download, self.fetcher.where(name)), fetched

    @contextmanager
    def named_by_manifest(self, path: Path) -> Iterator[None]:
        """Raise RemoteError for a file that is not there although the manifest names it."""
        try:
            yield
        except FileNotFoundError as error:
            raise RemoteError(
                "remote store has no such file, asked twice",
                where=self.fetcher.where(path.as_posix()),
                why="the manifest names it: the copy of the store is not whole",
                fix="copy the store again, manifest.json last",
            ) from error


def is_missing(error: RemoteError) -> bool:
    """Whether a server that answers has no such file."""
    return isinstance(error.__cause__, FileNotFoundError)


def _wait_while_running(seconds: float) -> None:
    """Sleep. Raises RemoteError in a thread of ours that the end of the program waits for."""
    until = time.monotonic() + seconds
    thread = threading.current_thread()
    ours = thread.daemon or thread.name == AHEAD_THREAD
    while True:
        if ours and not threading.main_thread().is_alive():
            raise RemoteError("the program ended before the download did")
        left = until - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, 0.1))


def _local_ranks() -> int:
    """Return how many processes of this job read here, as torchrun says it."""
    text = os.environ.get("LOCAL_WORLD_SIZE", "")
    return int(text) if text.isdecimal() and int(text) else 1
