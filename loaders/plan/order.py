"""Which row stands at which position of an epoch: a function of seed and epoch alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.loaders.plan.cut import Positions
from viewstore.randomness import compiled

VERSION = 1
SHARDS_STREAM = 1  # stream 0 orders rows; from 2 on, the windows of a block shuffle
WINDOW_STREAM = 2
AT_ONCE = 8192


@dataclass(frozen=True)
class Permutation:
    """A keyed permutation of range(size) that needs no memory.

    A Feistel network over the bits of a number, applied again to what falls outside of the range
    (cycle walking). The compiled module does the same, faster.

    Attributes:
        size: Number of elements.
        seed, epoch, stream: The key. Seed and epoch are hashed, never added.
    """

    size: int
    seed: int
    epoch: int
    stream: int = 0
    _keys: tuple[np.uint32, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # 8 rounds on 8 elements or fewer are visibly biased.
        rounds = 24 if self.size <= 256 else 8
        number = b"".join(n.to_bytes(8, "little") for n in (self.seed, self.epoch, self.stream))
        digest = hashlib.shake_256(b"viewstore/order/1" + number).digest(4 * rounds)
        object.__setattr__(self, "_keys", tuple(np.frombuffer(digest, "<u4")))

    def __call__(self, positions: Positions) -> Positions:
        """Return the element at each of some positions, int64 of their shape."""
        if compiled is None or self.size <= 1:
            return self._walk(positions)
        numbers = np.array(positions, np.int64, order="C")
        compiled.permute(self.size, np.array(self._keys, "<u4"), numbers)
        return numbers

    @property
    def _bits(self) -> tuple[int, int]:
        """Return the bits of the low and of the high half."""
        bits = (self.size - 1).bit_length()
        return bits // 2, bits - bits // 2

    def _walk(self, positions: Positions) -> Positions:
        given = np.asarray(positions)
        if self.size <= 1:
            return np.zeros(given.shape, np.int64)
        x = given.astype(np.uint64).reshape(-1)
        for begin in range(0, len(x), AT_ONCE):  # so many stay in the fastest cache
            x[begin : begin + AT_ONCE] = self._rounds(x[begin : begin + AT_ONCE])
        outside = np.flatnonzero(x >= self.size)
        while len(outside):
            x[outside] = walked = self._rounds(x[outside])
            outside = outside[walked >= self.size]
        return x.astype(np.int64).reshape(given.shape)

    def _rounds(self, x: NDArray[np.uint64]) -> NDArray[np.uint64]:
        high, low = self._split(x)
        for i, key in enumerate(self._keys):
            self._round(i, key, high, low)
        return self._join(high, low)

    def _round(
        self, i: int, key: np.uint32, high: NDArray[np.uint32], low: NDArray[np.uint32]
    ) -> None:
        low_bits, high_bits = self._bits
        source, target, bits = (low, high, high_bits) if i % 2 == 0 else (high, low, low_bits)
        mixed = _mix(source, key)
        mixed &= np.uint32((1 << bits) - 1)
        target ^= mixed

    def _split(self, x: NDArray[np.uint64]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        low_bits, _ = self._bits
        low = x & np.uint64((1 << low_bits) - 1)
        return (x >> np.uint64(low_bits)).astype(np.uint32), low.astype(np.uint32)

    def _join(self, high: NDArray[np.uint32], low: NDArray[np.uint32]) -> NDArray[np.uint64]:
        return high.astype(np.uint64) << np.uint64(self._bits[0]) | low


def _mix(x: NDArray[np.uint32], key: np.uint32) -> NDArray[np.uint32]:
    x = x ^ key
    shifted = x >> np.uint32(16)
    x ^= shifted
    x *= np.uint32(0x85EBCA6B)
    np.right_shift(x, np.uint32(13), out=shifted)
    x ^= shifted
    x *= np.uint32(0xC2B2AE35)
    np.right_shift(x, np.uint32(16), out=shifted)
    x ^= shifted
    return x


class RowOrder(Protocol):
    """Which row stands at which position of an epoch: `Order`, or `SeveralRows`."""

    def rows(self, positions: Positions, epoch: int) -> Positions:
        """Return the row at each of some positions of an epoch, int64 [B]."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """Which row stands at which position of an epoch.

    Attributes:
        shuffle: "global"; "block:B" shuffles shards, then the rows within windows of B shards;
            "none" keeps the rows as they are.
        num_rows: Rows of an epoch.
        seed: Seed of every epoch's order.
        shard_rows: Rows per shard; used by "block:B" alone.
        shard_sizes: Rows of each shard that a filter keeps, of those where it keeps any, [K];
            None: all of `shard_rows` but the last. Else windows of a filter that keeps a tenth
            would read from ten times as many shards.
    """

    shuffle: str
    num_rows: int
    seed: int
    shard_rows: int
    shard_sizes: NDArray[np.int64] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        name, _, window = self.shuffle.partition(":")
        block = name == "block" and window.isdecimal() and int(window) > 0
        if self.shuffle not in ("global", "none") and not block:
            raise ConfigError(
                "shuffle must be global, none or block:B with B shards a window, "
                f"got {self.shuffle!r}"
            )

    @property
    def name(self) -> str:
        """Version and shuffle: states of another name are refused."""
        return f"{VERSION}:{self.shuffle}"

    @property
    def shards_at_once(self) -> int | None:
        """How many shards are read from at one time; None: all of them."""
        if self.shuffle == "global":
            return None
        return 1 if self.shuffle == "none" else self._window

    def rows(self, positions: Positions, epoch: int) -> Positions:
        """Return the row at each of some positions of an epoch, int64 [B]."""
        if self.shuffle == "none":
            return positions
        if self.shuffle == "global":
            return Permutation(self.num_rows, self.seed, epoch)(positions)
        return self._block_rows(positions, epoch)

    @property
    def _window(self) -> int:
        return int(self.shuffle.partition(":")[2])

    @cached_property
    def _sizes(self) -> Positions:
        """Return the rows of each shard."""
        if self.shard_sizes is not None:
            return self.shard_sizes
        begins = np.arange(0, self.num_rows, self.shard_rows)
        return np.minimum(self.shard_rows, self.num_rows - begins)

    @cached_property
    def _begins(self) -> Positions:
        """Return the first row of each shard."""
        return np.cumsum(self._sizes) - self._sizes

    def _block_rows(self, positions: Positions, epoch: int) -> Positions:
        count = len(self._sizes)
        shards = Permutation(count, self.seed, epoch, SHARDS_STREAM)(np.arange(count))
        sizes = self._sizes[shards]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        bounds = np.append(starts[: -1 : self._window], self.num_rows)
        windows = np.searchsorted(bounds, positions, side="right") - 1
        offsets = np.empty(positions.shape, np.int64)  # into the rows of the shuffled shards
        for window in np.unique(windows).tolist():
            inside = windows == window
            size = int(bounds[window + 1] - bounds[window])
            permutation = Permutation(size, self.seed, epoch, WINDOW_STREAM + window)
            offsets[inside] = bounds[window] + permutation(positions[inside] - bounds[window])
        number = np.searchsorted(starts, offsets, side="right") - 1
        return np.asarray(self._begins[shards[number]] + offsets - starts[number])
