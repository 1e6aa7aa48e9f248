"""What came over the network for an opened store, and which shards needed not to come."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass(eq=False)
class Traffic:
    """Counts of one opened store, whoever reads it; safe to share between threads.

    Attributes:
        hits: Times a shard was opened that was in the cache. One that was fetched ahead of its
            opening is none: it was not there when it was asked for first.
        misses: Times a shard was fetched whole.
        fetched_bytes: What came, of any file, parts that came in vain included.
    """

    hits: int = 0
    misses: int = 0
    fetched_bytes: int = 0
    _ahead: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def came(self, size: int) -> None:
        """Count bytes from the network."""
        with self._lock:
            self.fetched_bytes += size

    def asked_ahead(self, sha256: str) -> None:
        """Note that a shard will be fetched before it is opened."""
        with self._lock:
            self._ahead.add(sha256)

    def came_ahead(self, sha256: str, *, fetched: bool) -> None:
        """Count a shard that was asked for ahead; another process may have fetched it."""
        with self._lock:
            self.misses += fetched
            if not fetched:
                self._ahead.discard(sha256)

    def opened(self, sha256: str, *, fetched: bool) -> None:
        """Count a shard that is opened to be read."""
        with self._lock:
            self.misses += fetched
            self.hits += not fetched and sha256 not in self._ahead
            self._ahead.discard(sha256)
