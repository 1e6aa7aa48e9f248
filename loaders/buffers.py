"""Memory for pixels: a buffer is used again once nobody holds an array or a tensor on it.

Fresh memory costs a page fault every 4 KiB, which for small views takes longer than filling it.
"""

from __future__ import annotations

import itertools
import math
import mmap
from collections import defaultdict, deque
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Buffer = NDArray[np.uint8]
Shape = tuple[int, ...]

HUGE_PAGE = 2 << 20


def pages(size: int) -> Buffer:
    """Return fresh memory, uint8 [size], in huge pages where the system has them."""
    memory = mmap.mmap(-1, max(1, size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)[:size]


class BufferPool:
    """Lends memory to batches. Safe to call from several threads."""

    def __init__(self, *, keep: int, ring: int = 0, pin: bool = False) -> None:
        """Make an empty pool.

        Args:
            keep: Spare buffers of a shape that are kept, at most.
            ring: Lend this many buffers of each slot in turn, held or not; 0 waits for the
                last reference instead.
            pin: Lend pinned memory. Torch keeps and reuses it, since it knows of the copies
                to a device that are still under way.
        """
        self._keep = keep
        self._ring = ring
        self._pin = pin
        self._spare: defaultdict[Shape, deque[Buffer]] = defaultdict(deque)
        self._turns: defaultdict[int, itertools.count[int]] = defaultdict(itertools.count)
        self._rings: dict[tuple[int, int, Shape], Buffer] = {}

    def take(self, shape: Shape, slot: int) -> Buffer:
        """Return uint8 `shape` for the views of a slot; what it holds is left over."""
        if self._pin:
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()
        if self._ring:
            key = (slot, next(self._turns[slot]) % self._ring, shape)
            if key not in self._rings:
                self._rings[key] = pages(math.prod(shape)).reshape(shape)
            return self._rings[key]
        spare = self._spare[shape]
        try:
            memory = spare.popleft()
        except IndexError:
            memory = pages(math.prod(shape)).reshape(shape)
        return np.asarray(_Lease(memory, self))

    def give(self, memory: Buffer) -> None:
        """Take memory back that nobody holds."""
        spare = self._spare[memory.shape]
        if len(spare) < self._keep:
            spare.append(memory)

    def close(self) -> None:
        """Give spare memory back to the system; what is lent follows when it comes back."""
        self._keep = 0
        self._spare.clear()
        self._rings.clear()


class _Lease:
    """Held by the arrays on a buffer: its end is the end of the last of them."""

    __slots__ = ("__array_interface__", "_memory", "_pool")

    def __init__(self, memory: Buffer, pool: BufferPool) -> None:
        self.__array_interface__: dict[str, Any] = memory.__array_interface__
        self._memory = memory
        self._pool = pool

    def __del__(self) -> None:
        self._pool.give(self._memory)
