"""Makes the batches of several stores: each store's part by a maker of its own, then joined.

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
from viewstore.loaders.batches.maker import BatchMaker, take_buffers
from viewstore.loaders.pipeline.buffers import Buffer, BufferPool
from viewstore.loaders.pipeline.clock import Clock
from viewstore.loaders.plan.ahead import SamplePlan, StepPlanner
from viewstore.loaders.plan.cut import Cut
from viewstore.loaders.plan.rows import SeveralRows
from viewstore.loaders.plan.state import State

if TYPE_CHECKING:
    from viewstore.loaders.batches.batch import Batch


@dataclass(kw_only=True)
class JoinedDraft:
    """A batch of several stores that is being made.

    Attributes:
        epoch, step: Which batch.
        rows: Rows counted through the stores, [B].
        indices: Index in the batch of each sample, in the order of the parts, [B].
        parts: Number of the store and draft, for each store and turn that the batch has rows of.
        buffers: Memory of each slot, uint8 [B, H, W, C], one part after another.
        absent: Slots that the step does not show: no pixels of theirs are handed over.
    """

    epoch: int
    step: int
    rows: NDArray[np.int64]
    indices: NDArray[np.int64]
    parts: list[tuple[int, Draft]]
    buffers: list[Buffer]
    absent: frozenset[int]


@dataclass(kw_only=True)
class SeveralMaker:
    """The `Maker` of a loader over several stores.

    The turn of a row, that is how often it was used before, replaces the epoch in its draws and
    in its view schedule: it looks different each time, however often an epoch takes it.

    Attributes:
        several: Which rows an epoch takes from which store.
        cut: The cut of an epoch into steps.
        makers: What makes the part of each store.
        state: The loader's state, at whatever step.
        pool: Memory for pixels.
        clock: Takes the seconds.

    Raises:
        ConfigError: The stores show views of several sizes.
    """

    several: SeveralRows
    cut: Cut
    makers: list[BatchMaker]
    state: State
    pool: BufferPool
    clock: Clock

    def __post_init__(self) -> None:
        self.shapes = self.makers[0].shapes
        for number, maker in enumerate(self.makers):
            if maker.shapes != self.shapes:
                raise ConfigError(
                    f"the stores must show views of the same sizes, store 0 has {self.shapes}, "
                    f"store {number} has {maker.shapes}",
                    fix="give Online views a size, or cached ones a then=... and a size",
                )
        self._planner = StepPlanner(self.several, self.cut, None, _rows_alone, drawn_slots=1)

    @property
    def steps_at_once(self) -> int:
        """One: a step is planned by the turns of its rows."""
        return 1

    def slices(self, size: int, threads: int) -> list[tuple[int, int]]:
        """Return the bounds of the slices of `size` samples that threads fill."""
        return self.makers[0].slices(size, threads)

    def background_tasks(self, epoch: int, step: int) -> list[Callable[[], object]]:
        """Return nothing: each batch is planned alone, by the turns of its rows."""
        return []

    def copy_tasks(self) -> list[Callable[[], bool]]:
        """Return what copies view sets into memory; each is called again while it returns True."""
        return [copy for maker in self.makers for copy in maker.copy_tasks()]

    def plan(self, epoch: int, steps: range) -> JoinedDraft:
        """Return the draft of one step."""
        began = time.perf_counter()
        (step,) = steps
        counts = self.several.counts
        turns, rows = np.divmod(self._planner.steps(epoch, steps).rows, sum(counts))
        valid = self.cut.positions(step)[1]
        bounds = np.cumsum([0, *counts])
        stores = np.searchsorted(bounds, rows, side="right") - 1
        self._prefetch(epoch, step, rows)
        indices = np.lexsort([turns, stores])
        absent = self.makers[0].wanted.absent(epoch, step)
        # A slot that one store needs to render another one on is made of all of them.
        skipped = frozenset.intersection(*(each.wanted.skipped(absent) for each in self.makers))
        draft = JoinedDraft(
            epoch=epoch,
            step=step,
            rows=rows,
            indices=indices,
            parts=[],
            buffers=take_buffers(self.pool, len(rows), self.shapes, skipped),
            absent=absent,
        )
        found = np.stack([stores[indices], turns[indices]])
        ends = [*np.flatnonzero(np.diff(found).any(axis=0)) + 1, len(rows)]
        for begin, end in zip([0, *ends[:-1]], ends, strict=True):
            number, turn = found[:, begin].tolist() if len(rows) else (0, epoch)
            mine = indices[begin:end]
            plan = self.makers[number].plan_samples(rows[mine] - bounds[number], turn)
            buffers = [buffer[begin:end] for buffer in draft.buffers]
            part = self.makers[number].draft(
                turn, steps, [end - begin], plan, valid[mine], buffers, absent, skipped
            )
            draft.parts.append((number, part))
        self.clock.add(plan_seconds=time.perf_counter() - began)
        return draft

    def fill(self, draft: JoinedDraft, begin: int, end: int) -> None:
        """Read and render samples [begin, end), in the order of the parts."""
        first = 0
        for number, part in draft.parts:
            low, high = max(begin - first, 0), min(end - first, len(part.rows))
            if low < high:
                self.makers[number].fill(part, low, high)
            first += len(part.rows)

    def warm_up(self) -> None:
        """Import what `finish` needs."""
        for maker in self.makers:
            maker.warm_up()

    def finish(self, draft: JoinedDraft) -> list[Batch]:
        """Return the batch of a filled draft, its samples in the order of the step."""
        # Not before: BatchMaker says why.
        from viewstore.loaders.batches.concatenate import concatenate

        finished = [self.makers[number].finish(part) for number, part in draft.parts]
        batches = list(itertools.chain.from_iterable(finished))
        order = np.argsort(draft.indices)
        began = time.perf_counter()
        buffers = take_buffers(self.pool, len(draft.rows), self.shapes, draft.absent)
        for slot, (buffer, stored) in enumerate(zip(buffers, draft.buffers, strict=True)):
            if slot not in draft.absent:
                np.take(stored, order, axis=0, out=buffer, mode="clip")
        self.clock.add(copy_seconds=time.perf_counter() - began)
        batch = replace(
            concatenate(batches, draft.rows, order, buffers),
            weight=self.cut.weight(draft.step),
            epoch=draft.epoch,
            step=draft.step,
            state=self.state.at(draft.epoch, draft.step + 1, steps=self.cut.steps).to_json(),
        )
        return [batch]

    def _prefetch(self, epoch: int, step: int, now: NDArray[np.int64]) -> None:
        """Start to download the shards that later steps read, where they are remote."""
        later: NDArray[np.int64] | None = None
        ends = np.cumsum(self.several.counts).tolist()
        for maker, begin, end in zip(self.makers, [0, *ends[:-1]], ends, strict=True):
            if maker.needs_shards:
                if later is None:
                    later = self._planner.rows_after(epoch, step) % ends[-1]
                parts = [rows[(begin <= rows) & (rows < end)] - begin for rows in (now, later)]
                maker.prefetch(*parts)


def _rows_alone(rows: NDArray[np.int64], epoch: int) -> SamplePlan:
    return SamplePlan(rows=rows, views=[], online=[], then=[])
