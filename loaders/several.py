"""Several stores as one: what part of each an epoch has, and how their batches become one.

Rows of several stores are counted through: those of the first store, then those of the second.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.loaders.ahead import Ahead, Decided
from viewstore.loaders.buffers import Buffer, BufferPool
from viewstore.loaders.clock import Clock
from viewstore.loaders.maker import BatchMaker, Draft
from viewstore.loaders.order import Cut, Order, Permutation
from viewstore.loaders.state import State

if TYPE_CHECKING:
    from viewstore.loaders.batch import Batch

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


@dataclass(kw_only=True)
class JoinedDraft:
    """A batch of several stores in the making.

    Attributes:
        rows: Rows counted through, [B].
        places: Where each sample belongs, by the order of the parts, [B].
        parts: For each store and turn that the batch meets its number and draft.
        buffers: Memory of each slot, uint8 [B, H, W, C], one part after another.
    """

    epoch: int
    step: int
    rows: NDArray[np.int64]
    places: NDArray[np.int64]
    parts: list[tuple[int, Draft]]
    buffers: list[Buffer]


@dataclass(kw_only=True)
class SeveralMaker:
    """Makes batches of several stores, each store's part by a maker of its own.

    A row's draws and its place in the schedule go by its turn, that is how often it was used, in
    place of the epoch: it looks different each time, however often an epoch takes it.
    """

    several: SeveralRows
    cut: Cut
    makers: list[BatchMaker]
    state: State
    pool: BufferPool
    clock: Clock

    def __post_init__(self) -> None:
        self._shapes = self.makers[0].slot_shapes()
        for number, maker in enumerate(self.makers):
            if maker.slot_shapes() != self._shapes:
                raise ConfigError(
                    f"the stores must show views of the same sizes, store 0 has {self._shapes}, "
                    f"store {number} has {maker.slot_shapes()}",
                    fix="give Online views a size, or cached ones a then=... and a size",
                )
        self._ahead = Ahead(self.several, self.cut, None, _rows_alone, weight=1)

    def slot_shapes(self) -> list[tuple[int, int, int]]:
        """Return height, width and channels of each slot's views."""
        return self._shapes

    @property
    def together(self) -> int:
        """One: what is decided of a step depends on the turns of its rows."""
        return 1

    def slices(self, size: int, threads: int) -> list[tuple[int, int]]:
        """Return the parts of `size` samples that `threads` threads fill."""
        return self.makers[0].slices(size, threads)

    def chores(self, epoch: int, step: int) -> list[Callable[[], object]]:
        """Return nothing: what is decided depends on turns, and is decided for each batch."""
        return []

    def copies(self) -> list[Callable[[], bool]]:
        """Return what brings view sets into memory; each is called again while it is True."""
        return [copy for maker in self.makers for copy in maker.copies()]

    def plan(self, epoch: int, steps: range) -> JoinedDraft:
        """Return the draft of one step."""
        began = time.perf_counter()
        (step,) = steps
        counts = self.several.counts
        turns, rows = np.divmod(self._ahead.steps(epoch, steps).rows, sum(counts))
        valid = self.cut.positions(step)[1]
        bounds = np.cumsum([0, *counts])
        stores = np.searchsorted(bounds, rows, side="right") - 1
        self._prefetch(epoch, step, rows)
        places = np.lexsort([turns, stores])
        draft = JoinedDraft(
            epoch=epoch,
            step=step,
            rows=rows,
            places=places,
            parts=[],
            buffers=self._take(len(rows), len(self._shapes)),
        )
        met = np.stack([stores[places], turns[places]])
        ends = [*np.flatnonzero(np.diff(met).any(axis=0)) + 1, len(rows)]
        for begin, end in zip([0, *ends[:-1]], ends, strict=True):
            number, turn = met[:, begin].tolist() if len(rows) else (0, epoch)
            mine = places[begin:end]
            decided = self.makers[number].decide(rows[mine] - bounds[number], turn)
            buffers = [buffer[begin:end] for buffer in draft.buffers]
            part = self.makers[number].draft(
                turn, steps, [end - begin], decided, valid[mine], buffers
            )
            draft.parts.append((number, part))
        self.clock.add(plan_seconds=time.perf_counter() - began)
        return draft

    def fill(self, draft: JoinedDraft, begin: int, end: int) -> None:
        """Read and render samples [begin, end), by the order of the parts."""
        first = 0
        for number, part in draft.parts:
            low, high = max(begin - first, 0), min(end - first, len(part.rows))
            if low < high:
                self.makers[number].fill(part, low, high)
            first += len(part.rows)

    def ready(self) -> None:
        """Have at hand what `finish` needs."""
        for maker in self.makers:
            maker.ready()

    def finish(self, draft: JoinedDraft) -> list[Batch]:
        """Return the batch of a filled draft, its samples back in their places."""
        from viewstore.loaders.join import join  # not before: BatchMaker.ready says why

        finished = [self.makers[number].finish(part) for number, part in draft.parts]
        batches = list(itertools.chain.from_iterable(finished))
        order = np.argsort(draft.places)
        began = time.perf_counter()
        buffers = self._take(len(draft.rows), 0)
        for buffer, stored in zip(buffers, draft.buffers, strict=True):
            np.take(stored, order, axis=0, out=buffer, mode="clip")
        self.clock.add(copy_seconds=time.perf_counter() - began)
        batch = replace(
            join(batches, draft.rows, order, buffers),
            weight=self.cut.weight(draft.step),
            epoch=draft.epoch,
            step=draft.step,
            state=self.state.at(draft.epoch, draft.step + 1, steps=self.cut.steps).to_json(),
        )
        return [batch]

    def _prefetch(self, epoch: int, step: int, now: NDArray[np.int64]) -> None:
        """Have the shards fetched that the steps after this one read, where they are remote."""
        later: NDArray[np.int64] | None = None
        ends = np.cumsum(self.several.counts).tolist()
        for maker, begin, end in zip(self.makers, [0, *ends[:-1]], ends, strict=True):
            if maker.awaits:
                if later is None:
                    later = self._ahead.rows_after(epoch, step) % ends[-1]
                parts = [rows[(begin <= rows) & (rows < end)] - begin for rows in (now, later)]
                maker.prefetch(*parts)

    def _take(self, size: int, first_slot: int) -> list[Buffer]:
        numbered = enumerate(self._shapes, first_slot)
        return [self.pool.take((size, *shape), slot) for slot, shape in numbered]


def _rows_alone(rows: NDArray[np.int64], epoch: int) -> Decided:
    return Decided(rows=rows, shown=[], drawn=[], then=[])
