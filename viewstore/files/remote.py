"""The files of a store at a URL: small ones fetched and checked, blobs through the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.files.blob_cache import BlobCache, Checked
from viewstore.files.cache_settings import CacheSettings
from viewstore.files.fetch import Retry
from viewstore.files.local import shared_file
from viewstore.format.tar import unpack_npy


class RemoteFiles:
    """Reads the files below a URL; safe to share between threads, cheap to send to a process."""

    def __init__(self, url: str, *, cache: CacheSettings, retry: Retry) -> None:
        """Connect to `url`.

        Raises:
            ConfigError: The URL has another form than a store's.
            UnavailableError: The package that speaks its scheme is not installed.
        """
        self.url = url.rstrip("/")
        self.cache = BlobCache(self.url, cache, retry)

    def record(self, path: Path, limit: int, check: Callable[[bytes], Checked]) -> Checked:
        chunks = self.cache.fetcher.stream
        name = path.as_posix()
        return self.cache.checked(path, lambda: b"".join(chunks(name, limit=limit)), check)

    def exists(self, path: Path) -> bool:
        try:
            next(self.cache.fetcher.stream(path.as_posix()), b"")
        except FileNotFoundError:
            return False
        return True

    def offers(self, path: Path) -> bool:
        """Whether there is a file that stores may lack; the server is asked once."""
        try:
            next(self.cache.fetcher.stream(path.as_posix(), optional=True), b"")
        except FileNotFoundError:
            return False
        return True

    def array(
        self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], size: int, sha256: str
    ) -> NDArray[Any]:
        return unpack_npy(shared_file(self, path, size, sha256), dtype, shape)

    def open(self, path: Path, size: int, sha256: str) -> int:
        return self.cache.open(path, size, sha256)

    def reopen(self, path: Path, size: int, sha256: str) -> int | None:
        return self.cache.reopen(path, size, sha256)

    def origin(self, path: Path, sha256: str) -> str:
        copy = self.cache.disk.path_of(sha256)
        read = f", read from {copy}" if self.cache.holds(sha256) else ""
        return f"{self.where(path)}{read}"

    def where(self, path: Path) -> str:
        return self.url if path == Path() else self.cache.fetcher.where(path.as_posix())

    def check_size(self, path: Path, size: int) -> None:
        """Raise FormatError unless a file has `size` bytes; one byte of it is fetched."""
        with self.cache.named_by_manifest(path):
            for _ in self.cache.fetcher.stream(path.as_posix(), 0, 1, whole=size):
                pass
