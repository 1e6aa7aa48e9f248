"""Memory for pixels: a buffer is used again once nobody holds an array or a tensor on it.

Fresh memory costs a page fault every 4 KiB, which for small views takes longer than filling it.
"""

from __future__ import annotations

import math
import mmap
import threading
import weakref
from collections import defaultdict, deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

Buffer = NDArray[np.uint8]
Shape = tuple[int, ...]

HUGE_PAGE_BYTES = 2 << 20
# Rows that begin at a multiple of 32 bytes are written past the caches by libjpeg-turbo: decoding
# into them takes longer, and so does flipping them right after.
MISALIGNMENT_BYTES = 16


def allocate(size: int) -> Buffer:
    """Return fresh zeroed memory, uint8 [size], in huge pages where the system has them."""
    memory = mmap.mmap(-1, max(1, size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= HUGE_PAGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)[:size]


def _buffer(shape: Shape) -> Buffer:
    return allocate(MISALIGNMENT_BYTES + math.prod(shape))[MISALIGNMENT_BYTES:].reshape(shape)


class BufferPool:
    """Lends memory to batches. Safe to call from several threads."""

    def __init__(self, *, pin: bool = False) -> None:
        """Make an empty pool.

        Args:
            pin: Lend pinned memory. Torch keeps and reuses it, since it knows of the copies
                to a device that are still under way.
        """
        self._pin = pin
        self._most_spare = 0  # of a shape
        self._spare: defaultdict[Shape, list[Buffer]] = defaultdict(list)
        self._lent: dict[int, tuple[weakref.ref[_Lease], Buffer]] = {}
        self._ended: deque[weakref.ref[_Lease]] = deque()
        self._lock = threading.Lock()

    def expect(self, batches: int) -> None:
        """Expect so many batches to be under way at a time; without it nothing is used again."""
        # As many again for what the caller holds, and for slots of one shape.
        self._most_spare = 2 * batches + 2

    def take(self, shape: Shape) -> Buffer:
        """Return uint8 `shape` with undefined content; it is the caller's until he drops it."""
        if self._pin:
            return _pinned(shape)
        with self._lock:
            self._collect()
            spare = self._spare[shape]
            memory = spare.pop() if spare else _buffer(shape)
            lease = _Lease(memory)
            # No Python runs at the end of a lease: it may end anywhere in the caller's program,
            # and an interrupt that arrives in our code there would be lost.
            end = weakref.ref(lease, self._ended.append)
            self._lent[id(end)] = end, memory
        return np.asarray(lease)

    @property
    def num_spare(self) -> int:
        """Buffers that nobody holds."""
        with self._lock:
            self._collect()
            return sum(len(spare) for spare in self._spare.values())

    def _collect(self) -> None:
        """Take memory back whose lease has ended."""
        while self._ended:
            _, memory = self._lent.pop(id(self._ended.popleft()), (None, None))
            if memory is not None and len(spare := self._spare[memory.shape]) < self._most_spare:
                spare.append(memory)


def _pinned(shape: Shape) -> Buffer:
    import torch  # what is not pinned needs none: BatchMaker says why that counts

    return torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()


class _Lease:
    """Held by the arrays on a buffer: its end is the end of the last of them."""

    __slots__ = ("__array_interface__", "__weakref__", "_memory")

    def __init__(self, memory: Buffer) -> None:
        self.__array_interface__: dict[str, Any] = memory.__array_interface__
        self._memory = memory


class Scratch(threading.local):
    """Memory of each thread for images and views that are rendered from."""

    def __init__(self) -> None:
        self._memory: Buffer = np.empty(0, np.uint8)

    def take(self, count: int, shape: tuple[int, ...]) -> Buffer:
        """Return uint8 [count, *shape], valid until this thread asks again."""
        size = count * int(np.prod(shape))
        if len(self._memory) < size:
            self._memory = np.empty(size, np.uint8)
        return self._memory[:size].reshape(count, *shape)
