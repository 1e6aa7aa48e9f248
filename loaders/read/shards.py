"""The open shards of a view set, mapped or read by calls, up to the share of the cache."""

from __future__ import annotations

import os
import threading

import numpy as np

from viewstore.errors import FormatError
from viewstore.files.maps import Descriptor, announce, map_file, most_descriptors
from viewstore.format.tar import Strided
from viewstore.loaders.pipeline.buffers import Buffer
from viewstore.store.view_set import ViewSet


class OpenShards:
    """The shards that are open; at the limit the one opened first is closed. Thread-safe."""

    def __init__(self, view_set: ViewSet, *, mapped: bool) -> None:
        """Open shards of `view_set`, mapped or read by calls."""
        self._view_set = view_set
        self._mapped = mapped
        self.divide_cache(1)
        self._files: dict[int, ShardFile] = {}
        self._opening: dict[int, threading.Lock] = {}
        self._lock = threading.Lock()

    def __contains__(self, number: int) -> bool:
        return number in self._files

    def __len__(self) -> int:
        return len(self._files)

    def find(self, number: int) -> ShardFile | None:
        """Return a shard if it is open, else None."""
        return self._files.get(number)

    def open(self, number: int) -> ShardFile:
        """Return a shard, opened if it is not; it stays readable even if it is closed meanwhile.

        Raises:
            FormatError: It is missing, or not what its commit says.
            RemoteError: The remote store did not deliver it.
        """
        found = self._files.get(number)
        if found is not None:
            return found
        with self._lock:
            opening = self._opening.setdefault(number, threading.Lock())
        with opening:  # opening may fetch the shard; meanwhile others may be opened
            found = self._files.get(number)
            if found is None:
                self._close_oldest()
                shard = self._view_set.shards[number]
                found = ShardFile(shard.open(), len(shard.rows), mapped=self._mapped)
                with self._lock:
                    self._files[number] = found
            return found

    def renew(self, number: int, damaged: ShardFile) -> ShardFile | None:
        """Return a shard to read instead of a `damaged` one: what is kept of it is fetched again.

        Returns:
            None: the shard is read where it lies, there is no other copy.

        Raises:
            ViewStoreError: As `open`, or the damaged copy cannot be dropped; the copy is named.
        """
        with self._lock:
            opening = self._opening[number]
        with opening:
            found = self._files.get(number)
            if found is None or found is damaged:  # else another thread was faster
                shard = self._view_set.shards[number]
                descriptor = shard.reopen()
                if descriptor is None:
                    return None
                found = ShardFile(descriptor, len(shard.rows), mapped=self._mapped)
                with self._lock:
                    self._files[number] = found
            return found

    def divide_cache(self, view_sets: int) -> None:
        """Keep no more open than one of so many view sets may that use one cache."""
        self._limit = self._view_set.most_open(view_sets)
        if not self._mapped:
            self._limit = min(self._limit, most_descriptors())

    def clear(self) -> None:
        """Close all; a map ends when the last array on it does."""
        with self._lock:
            self._files.clear()

    def _close_oldest(self) -> None:
        with self._lock:
            while len(self._files) >= self._limit:
                del self._files[next(iter(self._files))]


class ShardFile:
    """An open shard, mapped or read by calls."""

    def __init__(self, descriptor: int, rows: int, *, mapped: bool) -> None:
        """Take over `descriptor`, the file of a shard of `rows` rows."""
        self._rows = rows
        self._file: Descriptor | None = Descriptor(descriptor)
        self._grid: Buffer | None = None
        if mapped:
            self._map = map_file(descriptor)
            self._bytes = self._map.data
            self._file = None

    @property
    def mapped(self) -> bool:
        """Whether its bytes are pages of the file."""
        return self._file is None

    def payload(self, begin: int, size: int) -> memoryview | bytes:
        """Return bytes of the file."""
        if self._file is not None:
            return os.pread(self._file.number, size, begin)
        return self._bytes[begin : begin + size]

    def read_into(self, target: Buffer, begin: int) -> None:
        """Fill an array with the bytes from `begin` on, of a file that is not mapped."""
        assert self._file is not None
        if os.preadv(self._file.number, [target.reshape(-1).data], begin) != target.size:
            raise FormatError("a shard became shorter while it was read", code="VS203")

    def announce(self, begin: int, size: int) -> None:
        """Have the operating system load some bytes of a map."""
        if self.mapped:
            announce(self._map, begin, size)

    def grid(self, strided: Strided) -> Buffer:
        """Return the raw views of a mapped shard, uint8 [rows, V, H, W, C], not contiguous."""
        if self._grid is None:
            views, height, width, channels = strided.shape
            line = width * channels
            self._grid = np.lib.stride_tricks.as_strided(
                self._map[strided.offset :],
                (self._rows, views, height, width, channels),
                (strided.stride, height * line, line, channels, 1),
                writeable=False,
            )
        return self._grid
