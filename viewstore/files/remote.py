"""The files of a store at a URL: small ones fetched and checked, blobs through the cache."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, FormatError, RemoteError, ViewStoreError
from viewstore.files.cache import AHEAD, Cache, needed_bytes
from viewstore.files.cache_settings import CacheSettings
from viewstore.files.fetch import Fetcher, Retry, Traffic
from viewstore.files.local import Checked, Download, FileSettings, Room, matching
from viewstore.files.transport import connect
from viewstore.format.manifest import SHARD_SUFFIX
from viewstore.format.tar import unpack_npy

CACHED_BYTES = 1 << 20  # smaller files cost less to fetch than to keep
AHEAD_BYTES = 1 << 30
AHEAD_THREAD = "viewstore-ahead"


class RemoteFiles:
    """Reads the files below a URL; safe to share between threads, cheap to send to a process."""

    def __init__(self, url: str, *, cache: CacheSettings, retry: Retry) -> None:
        self.url = url.rstrip("/")
        self.cache = Cache(cache, ranks=_local_ranks(), hash_tries=retry.hash_tries)
        self.fetcher = Fetcher(self.url, connect(self.url, retry), retry, sleep=_wait_while_running)
        self._retry = retry
        self._coming: set[str] = set()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:
        return (_remote_files, (self.url, self.cache.settings, self._retry))

    def where(self, path: Path) -> str:
        return self.url if path == Path() else self.fetcher.where(path.as_posix())

    def record(self, path: Path, limit: int, check: Callable[[bytes], Checked]) -> Checked:
        name = path.as_posix()
        with self._listed(path):
            return self._right(
                path, lambda: b"".join(self.fetcher.stream(name, limit=limit)), check
            )

    def exists(self, path: Path) -> bool:
        try:
            next(self.fetcher.stream(path.as_posix()), b"")
        except FileNotFoundError:
            return False
        return True

    def part(self, path: Path, start: int, stop: int, check: Callable[[bytes], Checked]) -> Checked:
        name = path.as_posix()
        with self._listed(path):
            return self._right(path, lambda: self.fetcher.read(name, start, stop), check)

    def _right(
        self, path: Path, fetch: Callable[[], bytes], check: Callable[[bytes], Checked]
    ) -> Checked:
        """Return `check` of what is fetched; what is wrong is fetched again: the way may be."""
        for left in reversed(range(self._retry.hash_tries)):
            try:
                return check(fetch())
            except FormatError as error:
                if not left:
                    raise error.located(self.where(path)) from error
        raise AssertionError("hash_tries is at least 1")

    def content(self, path: Path, size: int, sha256: str) -> bytes:
        if size < CACHED_BYTES:
            return self.record(path, size, partial(matching, size=size, sha256=sha256))
        descriptor = self.open(path, size, sha256)
        with os.fdopen(descriptor, "rb") as file:
            return file.read()

    def check_size(self, path: Path, size: int) -> None:
        """Raise FormatError unless a file has `size` bytes; of them one is asked for."""
        with self._listed(path):
            for _ in self.fetcher.stream(path.as_posix(), 0, 1, whole=size):
                pass

    def array(
        self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], size: int, sha256: str
    ) -> NDArray[Any]:
        return unpack_npy(self.content(path, size, sha256), dtype, shape)

    def open(self, path: Path, size: int, sha256: str) -> int:
        descriptor, fetched = self._open(path, size, sha256)
        if path.suffix == SHARD_SUFFIX:  # chunks of params open their pack again and again
            self.traffic.opened(sha256, fetched=fetched)
        return descriptor

    def _open(self, path: Path, size: int, sha256: str) -> tuple[int, bool]:
        """Return a descriptor, and whether the file was fetched for it."""
        fetched = False

        def download() -> Iterator[bytes]:
            nonlocal fetched
            fetched = True
            return self._download(path)

        return self.cache.open(sha256, size, download, self.where(path)), fetched

    @property
    def traffic(self) -> Traffic:
        return self.fetcher.traffic

    def holds(self, sha256: str) -> bool:
        return self.cache.holds(sha256)

    @property
    def keeps(self) -> bool:
        return self.cache.keeps

    @property
    def settings(self) -> FileSettings:
        return {"cache": self.cache.settings, "retry": self._retry}

    @property
    def room(self) -> Room:
        return Room(bytes=self.cache.settings.limit_bytes, ranks=self.cache.ranks)

    def most_open(self, largest: int) -> int:
        share = self.cache.settings.limit_bytes // self.cache.ranks
        return max(AHEAD + 1, share // max(1, largest))

    def repair(self, path: Path, options: str) -> str:
        return f"mend the store where it was built: viewstore verify STORE --repair {options}"

    def finalise(self, path: Path) -> str:
        return "derive it anew where it was built: viewstore finalise STORE; then copy it again"

    def check_cache(self, largest: int) -> None:
        """Raise ConfigError if the cache cannot hold the shards that are in use at one time."""
        limit, ranks = self.cache.settings.limit_bytes, self.cache.ranks
        needed = needed_bytes(largest, ranks)
        if 0 < limit < needed:
            raise ConfigError(
                f"cache limit must be at least {needed} bytes, got {limit}: shards have up to "
                f"{largest} bytes, and {ranks} ranks here use {AHEAD + 1} each",
                where=str(self.cache.settings.directory),
                fix=f"export VIEWSTORE_CACHE__LIMIT={needed}",
            )

    def prefetch(self, downloads: Sequence[Download]) -> None:
        """Download the first of these in the background: 2 per rank, at most 1 GiB."""
        if not self.cache.settings.limit_bytes:
            return
        room = AHEAD_BYTES
        for download in downloads[:AHEAD]:
            room -= download.bytes
            if room < 0:
                return
            with self._lock:
                known = download.sha256 in self._coming or self.cache.holds(download.sha256)
                if known or len(self._coming) >= AHEAD:
                    continue
                self._coming.add(download.sha256)
            self.traffic.asked_ahead(download.sha256)
            threading.Thread(target=self._bring, args=[download], name=AHEAD_THREAD).start()

    def _bring(self, download: Download) -> None:
        try:
            # Who needs the shard gets the error, with its place.
            with suppress(ViewStoreError):
                descriptor, fetched = self._open(download.path, download.bytes, download.sha256)
                os.close(descriptor)
                self.traffic.came_ahead(download.sha256, fetched=fetched)
        finally:
            with self._lock:
                self._coming.discard(download.sha256)

    def _download(self, path: Path) -> Iterator[bytes]:
        with self._listed(path):
            for chunk in self.fetcher.stream(path.as_posix()):
                _wait_while_running(0)
                yield chunk

    @contextmanager
    def _listed(self, path: Path) -> Iterator[None]:
        """The manifest names the file: that it is not there is an error of the remote store."""
        try:
            yield
        except FileNotFoundError as error:
            raise RemoteError(
                "remote store has no such file, asked twice",
                where=self.where(path),
                why="the manifest names it: the copy of the store is not whole",
                fix="copy the store again, manifest.json last",
            ) from error


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


def _remote_files(url: str, cache: CacheSettings, retry: Retry) -> RemoteFiles:
    return RemoteFiles(url, cache=cache, retry=retry)


def _local_ranks() -> int:
    """Return how many processes of this job read here, as torchrun says it."""
    text = os.environ.get("LOCAL_WORLD_SIZE", "")
    return int(text) if text.isdecimal() and int(text) else 1
