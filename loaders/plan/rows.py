"""Which rows a loader goes through: those of a row filter, and those of several stores."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike, NDArray

from viewstore.errors import ConfigError
from viewstore.loaders.plan.order import Order, Permutation
from viewstore.store.matching import matching_rows
from viewstore.store.store import Store

Rows = NDArray[np.int64]


def selected_rows(
    store: Store, rows: ArrayLike | None, where: str | None, view_sets: Sequence[str]
) -> NDArray[np.int64] | None:
    """Return the rows in `rows` that match `where`, int64 ascending; None if neither is given.

    `view_sets` are those that the loader reads: a bare column name in `where` means them.

    Raises:
        ConfigError: `rows` is no selection of the store's rows, `where` is not a
            filter, or no row is selected.
    """
    listed = None if rows is None else _listed(rows, store.num_samples)
    if where is None:
        return listed
    found = matching_rows(store, where, view_sets)
    if listed is None:
        return found
    both = np.intersect1d(listed, found, assume_unique=True)
    if not len(both):
        raise ConfigError(f"rows and where must have a row in common, got where {where!r}")
    return both


def _listed(rows: ArrayLike, num_samples: int) -> NDArray[np.int64]:
    try:
        listed = np.asarray(rows)
    except ValueError as error:  # lists of several lengths
        raise ConfigError(f"rows must be row numbers or a mask: {error}") from error
    if listed.dtype.kind == "b" and listed.shape == (num_samples,):
        listed = np.flatnonzero(listed)
    if listed.ndim != 1 or not len(listed) or listed.dtype.kind not in "iu":
        raise ConfigError(
            "rows must be a non-empty, one-dimensional array of row numbers, or a mask of "
            f"{num_samples} booleans that keeps some, got {listed.dtype} {list(listed.shape)}"
        )
    if listed.min() < 0 or listed.max() >= num_samples:
        raise ConfigError(
            f"rows must be in [0, {num_samples}), got {listed.min()} to {listed.max()}"
        )
    listed = np.sort(listed.astype(np.int64))
    twice = listed[:-1][np.diff(listed) == 0]
    if len(twice):
        raise ConfigError(f"rows must be distinct, row {twice[0]} stands twice")
    return listed


STORE_STREAM = 1 << 40  # of the permutations, beyond those of any block shuffle
SEED_BITS = 53


@dataclass(frozen=True)
class SeveralRows:
    """Which rows an epoch takes from several stores, and at which positions they stand.

    An epoch has m = floor(rate * n) of the n rows of a store, the next m of an endless sequence:
    one permutation of the store's rows after another. A permutation is a turn, so each turn has
    every row exactly once, whatever the rate.

    Attributes:
        order: Order of the elements of an epoch, sum of m.
        rates: Rate of each store.
        selected: Rows of each store that are gone through; None: all.
        counts: Rows of each store.
    """

    order: Order
    rates: tuple[float, ...]
    selected: tuple[NDArray[np.int64] | None, ...]
    counts: tuple[int, ...]

    @property
    def per_epoch(self) -> list[int]:
        """Rows that an epoch takes from each store, m."""
        return [rows_per_epoch(n, rate) for n, rate in zip(self.sizes, self.rates, strict=True)]

    @property
    def sizes(self) -> list[int]:
        """Rows of each store that are gone through, n."""
        pairs = zip(self.counts, self.selected, strict=True)
        return [count if rows is None else len(rows) for count, rows in pairs]

    def rows(self, positions: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """Return for each position of an epoch turn * sum(counts) + row, int64 [B].

        `row` counts through the rows of all stores, those of the first store first.
        """
        elements = self.order.rows(positions, epoch)
        bounds = np.cumsum([0, *self.per_epoch])
        stores = np.searchsorted(bounds, elements, side="right") - 1
        found = np.empty(elements.shape, np.int64)
        for number, size in enumerate(self.sizes):
            mine = stores == number
            passed = epoch * self.per_epoch[number] + elements[mine] - bounds[number]
            found[mine] = self._of_store(number, *divmod(passed, size))
        return found

    def _of_store(
        self, number: int, turns: NDArray[np.int64], offsets: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return turn * sum(counts) + row for offsets into the permutations of turns."""
        rows = offsets.copy()
        if self.order.shuffle == "global":
            for turn in np.unique(turns).tolist():
                mine = turns == turn
                size, stream = self.sizes[number], STORE_STREAM + number
                rows[mine] = Permutation(size, self.order.seed, turn, stream)(offsets[mine])
        selected = self.selected[number]
        rows = rows if selected is None else selected[rows]
        return turns * sum(self.counts) + sum(self.counts[:number]) + rows


def rows_per_epoch(size: int, rate: float) -> int:
    """Return how many of `size` rows an epoch has.

    Raises:
        ConfigError: It has none, or `rate` is not a finite number above 0.
    """
    if not (isinstance(rate, Real) and math.isfinite(rate) and rate > 0):
        raise ConfigError(f"rates must be above 0, got {rate}")
    count = math.floor(rate * size)
    if not count:
        raise ConfigError(f"rate {rate} leaves none of the {size} rows of a store in an epoch")
    return count


def check_rates(rates: Sequence[float] | None, stores: int, shuffle: str) -> tuple[float, ...]:
    """Return the rate of each of several stores, 1 where `rates` is None.

    Raises:
        ConfigError: The rates are not one for each store, or `shuffle` is for one store only.
    """
    rates = (1.0,) * stores if rates is None else tuple(rates)
    rates = tuple(float(rate) if isinstance(rate, Real) else rate for rate in rates)
    if len(rates) != stores:
        raise ConfigError(f"rates must be one for each of {stores} stores, got {len(rates)}")
    if shuffle.startswith("block"):
        raise ConfigError(f"several stores must be shuffled global or none, got {shuffle!r}")
    return rates


def store_seed(seed: int, number: int) -> int:
    """Return the seed of draws and schedules of store `number`: the loader's for store 0.

    Rows of the same number in two stores must not be augmented alike.
    """
    if number == 0:
        return seed
    text = b"viewstore/store/1" + seed.to_bytes(8, "little") + number.to_bytes(8, "little")
    word = int.from_bytes(hashlib.sha256(text).digest()[:8], "little")
    return word % (1 << SEED_BITS)
