"""Keyed randomness: a draw is a function of (seed, epoch, row, view, op) and of nothing else.

Philox4x32-10 as in Random123 (Salmon et al., SC 2011), vectorised over samples and views: by a C
module where one could be compiled, by numpy elsewhere. The layout of keys, counters and words is
in docs/format.md, section 7: changing it changes every view.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    from viewstore import _draws
except ImportError:  # installed where there was no C compiler
    _draws = None  # type: ignore[assignment]
compiled = _draws

AUGMENT = b"viewstore/aug/1"
BUILD = b"viewstore/build/2"
CALIBRATION = b"viewstore/calibration/1"
CHOICE = b"viewstore/choice/1"
MONITOR = b"viewstore/monitor/1"

Integers = int | NDArray[np.integer[Any]]

MADE = 1 << 15  # number of the first view that training makes, in the place of the view of a key

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ROUNDS = 10
_AT_ONCE = 8192


class Op(IntEnum):
    """What a word is drawn for; words of two ops never meet. docs/format.md 7.4 reserves others."""

    CROP = 0
    FLIP = 1
    JITTER = 2
    JITTER_ORDER = 3
    GRAY = 4
    BLUR = 5
    SOLARIZE = 6
    OP_LIST = 7
    JIGSAW = 8
    MASK = 10
    CROP_AGAIN = 11
    CUTMIX = 12
    CUTMIX_PARTNER = 13
    ATTACK = 14
    SCHEDULE = 16
    SET_CHOICE = 17
    NOISE = 20
    SEQUENTIAL = 255


def _rounds(key: tuple[int, int], columns: list[NDArray[np.uint64]]) -> None:
    """Turn counters into words in place; callers pass few enough for the fastest cache."""
    c0, c1, c2, c3 = columns
    first, second = np.empty_like(c0), np.empty_like(c0)
    low, high = key
    for _ in range(_ROUNDS):
        np.multiply(c0, _MULTIPLIERS[0], out=first)
        np.multiply(c2, _MULTIPLIERS[1], out=second)
        np.right_shift(second, _HALF, out=c0)
        c0 ^= c1
        c0 ^= np.uint64(low)
        np.right_shift(first, _HALF, out=c2)
        c2 ^= c3
        c2 ^= np.uint64(high)
        np.bitwise_and(second, _LOW, out=c1)
        np.bitwise_and(first, _LOW, out=c3)
        low, high = (low + _WEYL[0]) & 0xFFFFFFFF, (high + _WEYL[1]) & 0xFFFFFFFF


def words_with_numpy(
    low: int,
    high: int,
    op: int,
    rows: NDArray[np.uint64],
    views: NDArray[np.uint64],
    first_block: int,
    blocks: int,
    words: NDArray[np.uint32],
) -> None:
    """Fill `words`, uint32 [N, 4 * blocks], under the key (low, high); what the C module does."""
    for begin in range(0, len(words), _AT_ONCE):
        part = slice(begin, begin + _AT_ONCE)
        samples = rows[part]
        middle = views[part] << np.uint64(16) | np.uint64(op)
        for block in range(blocks):
            first = np.full(len(samples), first_block + block, np.uint64)
            columns = [first, middle.copy(), samples & _LOW, samples >> _HALF]
            _rounds((low, high), columns)
            for number, column in enumerate(columns):
                words[part, 4 * block + number] = column


@dataclass(frozen=True)
class Stream:
    """The words of one (seed, epoch) in one domain.

    Attributes:
        seed: Seed of the loader or plan, in [0, 2^53).
        epoch: Epoch; 0 in builds. Seed and epoch are hashed, so (s, 1) is not (s + 1, 0).
        domain: AUGMENT, CHOICE or MONITOR while training, CALIBRATION, or that of a view set
            (`of_view_set`).
    """

    seed: int
    epoch: int = 0
    domain: bytes = AUGMENT

    @classmethod
    def of_view_set(cls, seed: int, view_set: str, round: int = 1) -> Stream:
        """Return the stream of the draws of a view set.

        Name and round salt it: two view sets of one seed must not be the same pictures.
        """
        return cls(seed, 0, BUILD + f"/{view_set}/{round}".encode())

    @property
    def key(self) -> tuple[int, int]:
        """The two words of the Philox key."""
        text = self.domain + self.seed.to_bytes(8, "little") + self.epoch.to_bytes(8, "little")
        digest = hashlib.sha256(text).digest()
        return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")

    def words(
        self,
        op: Op,
        index: Integers,
        view: Integers,
        *,
        blocks: int = 1,
        first_block: int = 0,
    ) -> NDArray[np.uint32]:
        """Return the words of blocks [first_block, first_block + blocks), [..., 4 * blocks].

        `index` (rows of the store) and `view` (slots, below 65536) are broadcast together.
        """
        rows, views = np.broadcast_arrays(
            np.asarray(index, dtype=np.uint64), np.asarray(view, dtype=np.uint64)
        )
        flat = np.ascontiguousarray(rows.reshape(-1)), np.ascontiguousarray(views.reshape(-1))
        words = np.empty((len(flat[0]), 4 * blocks), np.uint32)
        fill = words_with_numpy if compiled is None else compiled.words
        fill(*self.key, int(op), *flat, first_block, blocks, words)
        return words.reshape(*rows.shape, 4 * blocks)

    def uniform(
        self,
        op: Op,
        index: Integers,
        view: Integers,
        *,
        blocks: int = 1,
        first_block: int = 0,
    ) -> NDArray[np.float64]:
        """Return the same words as numbers in [0, 1): word * 2^-32."""
        words = self.words(op, index, view, blocks=blocks, first_block=first_block)
        return words.astype(np.float64) * 2.0**-32

    def floats(self, op: Op, index: Integers, view: Integers, count: int) -> NDArray[np.float32]:
        """Return the upper 24 bits of the first words as numbers in [0, 1), float32 [..., count].

        They are multiples of 2^-24, which float32 holds exactly.
        """
        words = self.words(op, index, view, blocks=-(-count // 4))[..., :count]
        return (words >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)

    def seed_word(self, index: Integers, view: Integers) -> NDArray[np.uint64]:
        """Return 64-bit seeds [...] for generators that are not counter based."""
        words = self.words(Op.SEQUENTIAL, index, view).astype(np.uint64)
        return np.asarray(words[..., 0] | words[..., 1] << _HALF)


def integers(uniform: NDArray[np.float64], bound: Integers) -> NDArray[np.int64]:
    """Return floor(u * bound): integers in [0, bound) from numbers in [0, 1)."""
    return np.floor(uniform * bound).astype(np.int64)


def normal(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return standard normal numbers from two uniform ones, by Box and Muller.

    1 - u lies in (0, 1], where the logarithm is finite.
    """
    return np.asarray(np.sqrt(-2.0 * np.log1p(-first)) * np.cos(2.0 * np.pi * second))
