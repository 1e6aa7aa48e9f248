"""Which of its cached views each sample shows in which slot, epoch by epoch."""

from __future__ import annotations

import math
import threading
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, FormatError
from viewstore.format.columns import MADE
from viewstore.randomness import Op, Stream

Pick = Literal["schedule", "random"]
Missing = Literal["raise", "fallback", "resample"]

NOT_MADE_FIX = "pass missing='resample' or missing='fallback', or build the view set again"
TABLE_BYTES = 64 << 20  # permutations of more samples are drawn again in each epoch


def check_count(name: str, wanted: int, cached: int) -> None:
    """Raise ConfigError if more views are wanted than a sample has."""
    if wanted > cached:
        raise ConfigError(
            f"view set {name} has {cached} views a sample, got {wanted} slots for it; "
            f"ask for at most {cached}, or build a view set with more views"
        )


def choose_views(
    seed: int, epoch: int, index: NDArray[np.int64], *, cached: int, wanted: int, pick: Pick
) -> NDArray[np.int64]:
    """Return `wanted` distinct view numbers below `cached` of each sample, [B, wanted].

    They are the first columns of `preference`.
    """
    return preference(seed, epoch, index, cached=cached, wanted=wanted, pick=pick)[:, :wanted]


def preference(
    seed: int,
    epoch: int,
    index: NDArray[np.int64],
    *,
    cached: int,
    wanted: int,
    pick: Pick,
    slot: int = 0,
) -> NDArray[np.int64]:
    """Return all view numbers of each sample, those shown in this epoch first, [B, cached].

    "schedule" goes round a permutation of the sample's views, `wanted` an epoch, and draws
    another one when every view was shown equally often. "random" draws one each epoch. The
    permutation depends on the sample alone, so slots of two view sets show views of the same
    numbers. Views that follow another slot give the first of their slots, for permutations of
    their own: those of the slot that they follow would favour some children of its view.
    """
    period = cached // math.gcd(cached, wanted) if pick == "schedule" else 1
    cycle, turn = divmod(epoch, period)
    words = Stream(seed, cycle).words(Op.SCHEDULE, index, slot, blocks=-(-cached // 4))
    # Sorted with their numbers below them: half the time of argsort where rows are so short.
    numbered = words[:, :cached].astype(np.uint64) << np.uint64(32)
    numbered |= np.arange(cached, dtype=np.uint64)
    numbered.sort(axis=1)
    order = numbered.astype(np.uint32).astype(np.int64)
    return np.roll(order, -turn * wanted, axis=1)


class Schedule:
    """`choose_views` of every epoch, with the permutations of a cycle in memory if small.

    Safe to call from several threads.
    """

    def __init__(self, seed: int, num_rows: int, *, cached: int, wanted: int, pick: Pick) -> None:
        """Show `wanted` of `cached` views of `num_rows` rows as `preference` does."""
        self._seed, self._cached, self._wanted, self._pick = seed, cached, wanted, pick
        self._period = cached // math.gcd(cached, wanted) if pick == "schedule" else 1
        self._has_table = self._period > 1 and cached < 256 and num_rows * cached <= TABLE_BYTES
        self._num_rows = num_rows
        self._cycle = -1
        self._table: NDArray[np.uint8] | None = None
        self._known: NDArray[np.bool_] | None = None
        self._lock = threading.Lock()

    def views(self, epoch: int, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the view numbers of each slot, [B, wanted], those of `choose_views`."""
        cycle, turn = divmod(epoch, self._period)
        columns = (turn * self._wanted + np.arange(self._wanted)) % self._cached
        if not self._has_table:
            return choose_views(
                self._seed,
                epoch,
                index,
                cached=self._cached,
                wanted=self._wanted,
                pick=self._pick,
            )
        with self._lock:
            return self._of_cycle(cycle, index)[:, columns].astype(np.int64)

    def _of_cycle(self, cycle: int, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        if self._table is None or self._known is None or cycle != self._cycle:
            self._table = np.empty((self._num_rows, self._cached), np.uint8)
            self._known = np.zeros(self._num_rows, np.bool_)
            self._cycle = cycle
        unknown = index[~self._known[index]]
        if len(unknown):
            epoch = cycle * self._period  # whose turn is 0
            self._table[unknown] = preference(
                self._seed,
                epoch,
                unknown,
                cached=self._cached,
                wanted=self._wanted,
                pick=self._pick,
            )
            self._known[unknown] = True
        return self._table[index]


def replace_missing(
    views: NDArray[np.int64],
    order: NDArray[np.int64],
    status: NDArray[np.uint8],
    index: NDArray[np.int64],
    *,
    name: str,
    missing: Missing,
    needed: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Return the views to show instead of `views`, [B, n], where some were not made.

    Args:
        views: Chosen view numbers, [B, n].
        order: All view numbers of each sample by preference, [B, V].
        status: Status of all views of each sample, [B, V].
        index: Rows, for messages.
        name: View set, for messages.
        missing: "raise", "fallback" (show what is stored), or "resample" (the next usable view
            of the sample that no slot shows; else the first usable one).
        needed: Which of `views` will be shown, [B, n]; None: all.

    Raises:
        FormatError: A view was not made and `missing` is "raise", or no view of a sample was.
    """
    usable = np.isin(status, MADE)
    bad = ~np.take_along_axis(usable, views, axis=1)
    if needed is not None:
        bad &= needed
    if missing == "fallback" or not bad.any():
        return views
    first = int(np.flatnonzero(bad.any(axis=1))[0])
    if missing == "raise":
        view = int(views[first][bad[first]][0])
        raise FormatError(
            f"view {view} of row {index[first]} of {name} was not made: "
            f"its status is {status[first, view]}",
            why="0 never written, 3 failed, 4 source unreadable",
            fix=NOT_MADE_FIX,
        )
    replaced = views.copy()
    for row in np.flatnonzero(bad.any(axis=1)).tolist():
        spare = [view for view in order[row].tolist() if usable[row, view]]
        if not spare:
            raise FormatError(f"no view of row {index[row]} of {name} was made")
        used = set(views[row][~bad[row]].tolist())
        unused = iter([view for view in spare if view not in used])
        for slot in np.flatnonzero(bad[row]).tolist():
            replaced[row, slot] = next(unused, spare[0])
    return replaced
