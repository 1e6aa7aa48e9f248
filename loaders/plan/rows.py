"""Which rows a loader goes through: those of a filter, and those of several stores."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from viewstore.errors import ConfigError
from viewstore.loaders.plan.order import Order, Permutation
from viewstore.store.matching import matching_rows
from viewstore.store.store import Store

Rows = NDArray[np.int64]


def kept_rows(
    store: Store, rows: ArrayLike | None, where: str | None, shown: Sequence[str]
) -> NDArray[np.int64] | None:
    """Return the rows in `rows` that match `where`, ascending; None if neither is given.

    `shown` are the view sets whose columns `where` means first.

    Raises:
        ConfigError: `rows` is no ascending selection of the store's rows, `where` is no filter,
            or nothing is kept.
    """
    listed = None if rows is None else _listed(rows, store.num_samples)
    if where is None:
        return listed
    found = matching_rows(store, where, shown)
    if listed is None:
        return found
    both = np.intersect1d(listed, found, assume_unique=True)
    if not len(both):
        raise ConfigError(f"rows and where must have a row in common, got where {where!r}")
    return both


def _listed(rows: ArrayLike, num_samples: int) -> NDArray[np.int64]:
    kept = np.asarray(rows)
    if kept.ndim != 1 or not len(kept) or kept.dtype.kind not in "iu":
        raise ConfigError("rows must be a non-empty, one-dimensional array of row numbers")
    kept = kept.astype(np.int64)
    if (np.diff(kept) <= 0).any() or kept[0] < 0 or kept[-1] >= num_samples:
        raise ConfigError(f"rows must be ascending, distinct and in [0, {num_samples})")
    return kept


STORE_STREAM = 1 << 40  # of the permutations, beyond those of any block shuffle
SEED_BITS = 53


@dataclass(frozen=True)
class SeveralRows:
    """Which rows an epoch takes from several stores, and where they stand.

    An epoch has m = floor(rate * n) of the n rows of a store. The epochs go on through one
    permutation of the store after another, so its rows are used up evenly: without replacement
    over epochs, and over the turn of a permutation exactly once.

    Attributes:
        order: Order of the elements of an epoch, sum of m.
        rates: Rate of each store.
        kept: Rows of each store that are gone through; None: all.
        counts: Rows of each store.
    """

    order: Order
    rates: tuple[float, ...]
    kept: tuple[NDArray[np.int64] | None, ...]
    counts: tuple[int, ...]

    @property
    def per_epoch(self) -> list[int]:
        """Rows that an epoch takes from each store, m."""
        return [per_epoch(n, rate) for n, rate in zip(self.sizes, self.rates, strict=True)]

    @property
    def sizes(self) -> list[int]:
        """Rows of each store that are gone through, n."""
        pairs = zip(self.counts, self.kept, strict=True)
        return [count if kept is None else len(kept) for count, kept in pairs]

    def rows(self, positions: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """Return for each position of an epoch turn * all rows + row, counted through."""
        elements = self.order.rows(positions, epoch)
        bounds = np.cumsum([0, *self.per_epoch])
        stores = np.searchsorted(bounds, elements, side="right") - 1
        found = np.empty(elements.shape, np.int64)
        for number, size in enumerate(self.sizes):
            here = stores == number
            passed = epoch * self.per_epoch[number] + elements[here] - bounds[number]
            found[here] = self._of_store(number, *divmod(passed, size))
        return found

    def _of_store(
        self, number: int, turns: NDArray[np.int64], places: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        rows = places.copy()
        if self.order.shuffle == "global":
            for turn in np.unique(turns).tolist():
                mine = turns == turn
                size, stream = self.sizes[number], STORE_STREAM + number
                rows[mine] = Permutation(size, self.order.seed, turn, stream)(places[mine])
        kept = self.kept[number]
        rows = rows if kept is None else kept[rows]
        return turns * sum(self.counts) + sum(self.counts[:number]) + rows


def per_epoch(size: int, rate: float) -> int:
    """Return how many of `size` rows an epoch has. Raises ConfigError: none, or no rate."""
    if not (math.isfinite(rate) and rate > 0):
        raise ConfigError(f"rates must be above 0, got {rate}")
    count = math.floor(rate * size)
    if not count:
        raise ConfigError(f"rate {rate} leaves none of the {size} rows of a store in an epoch")
    return count


def check_rates(rates: Sequence[float] | None, stores: int, shuffle: str) -> tuple[float, ...]:
    """Return the rate of each of several stores; None: 1. Raises ConfigError."""
    rates = (1.0,) * stores if rates is None else tuple(rates)
    if len(rates) != stores:
        raise ConfigError(f"rates must be one for each of {stores} stores, got {len(rates)}")
    if shuffle.startswith("block"):
        raise ConfigError(f"several stores must be shuffled global or none, got {shuffle!r}")
    return rates


def store_seed(seed: int, number: int) -> int:
    """Return the seed of draws and schedules of a store: the loader's for the first one.

    Rows of the same number in two stores must not be augmented alike.
    """
    if number == 0:
        return seed
    text = b"viewstore/store/1" + seed.to_bytes(8, "little") + number.to_bytes(8, "little")
    word = int.from_bytes(hashlib.sha256(text).digest()[:8], "little")
    return word % (1 << SEED_BITS)
