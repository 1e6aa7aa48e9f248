"""Several stores as one: what part of each an epoch has, and how their batches become one.

Rows of several stores are counted through: those of the first store, then those of the second.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.loaders.batches.draft import Draft
from viewstore.loaders.batches.maker import BatchMaker
from viewstore.loaders.pipeline.buffers import Buffer, BufferPool
from viewstore.loaders.pipeline.clock import Clock
from viewstore.loaders.plan.ahead import Ahead, Decided
from viewstore.loaders.plan.cut import Cut
from viewstore.loaders.plan.rows import SeveralRows
from viewstore.loaders.plan.state import State

if TYPE_CHECKING:
    from viewstore.loaders.batches.batch import Batch


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
        from viewstore.loaders.batches.concatenate import (
            join,  # not before: BatchMaker.ready says why
        )

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
