"""Shards of a remote view set, mapped as they are read; threads share the maps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from viewstore.files.local import mapped
from viewstore.store.shard import Shard


class MappedShards:
    """Maps shards when they are first read, and lets go of the oldest map where there are many."""

    def __init__(self, shards: Mapping[int, Shard], most: Callable[[], int]) -> None:
        """Map some of `shards`; `most`() says how many at one time."""
        self._shards, self._most = shards, most
        self._maps: dict[int, NDArray[np.uint8]] = {}
        self._lock = threading.Lock()

    def __getitem__(self, number: int) -> NDArray[np.uint8]:
        """Return the bytes of a shard; threads may read what another one has let go of."""
        with self._lock:
            found = self._maps.get(number)
        if found is not None:
            return found
        found = mapped(self._shards[number].open())
        with self._lock:
            while len(self._maps) >= self._most():
                del self._maps[next(iter(self._maps))]
            self._maps[number] = found
        return found

    def again(self, number: int) -> bool:
        """Map a damaged shard anew; return False: it lies here, there is no other copy."""
        descriptor = self._shards[number].reopen()
        if descriptor is None:
            return False
        found = mapped(descriptor)
        with self._lock:
            self._maps[number] = found
        return True
