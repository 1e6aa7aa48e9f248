"""What is decided before pixels are touched, for many steps at once: rows, views, draws."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ViewStoreError
from viewstore.images.policies import Drawn
from viewstore.loaders.plan.cut import Cut
from viewstore.loaders.plan.order import RowOrder

# The order, the schedule and the draws cost the same for few samples as for many.
SAMPLES_AT_ONCE = 65_536
KEPT_BLOCKS = 3  # prefetch crosses into the next block, and the one behind may still be asked for


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What is decided of some samples.

    Attributes:
        rows: Rows of the store, int64 [B].
        shown: View numbers for each cached group, [B, n].
        drawn: Params of each online slot, [B, ...].
        then: For each cached group, params of each slot; none where its views are shown as
            they are stored.
    """

    rows: NDArray[np.int64]
    shown: list[NDArray[np.int64]]
    drawn: list[Drawn]
    then: list[list[Drawn]]

    def part(self, begin: int, end: int) -> Decided:
        """Return what is decided of samples [begin, end)."""
        return Decided(
            rows=self.rows[begin:end],
            shown=[each[begin:end] for each in self.shown],
            drawn=[part_of(each, begin, end) for each in self.drawn],
            then=[[part_of(each, begin, end) for each in group] for group in self.then],
        )


def part_of(drawn: Drawn, begin: int, end: int) -> Drawn:
    """Return the params of samples [begin, end)."""
    return {name: column[begin:end] for name, column in drawn.items()}


Decide = Callable[[NDArray[np.int64], int], Decided]


class Ahead:
    """What is decided of each step of this rank, a block of steps at a time."""

    def __init__(
        self,
        order: RowOrder,
        cut: Cut,
        kept: NDArray[np.int64] | None,
        decide: Decide,
        *,
        weight: int,
        together: int = 1,
    ) -> None:
        """Plan the steps of `cut`.

        Args:
            order: Which row stands where.
            cut: Which positions this rank reads.
            kept: The sorted rows of a filter, or None.
            decide: Decides about rows of an epoch.
            weight: Slots that are drawn for a sample: more of them, fewer samples at once.
            together: How many steps are asked for at once, from a multiple of it on.
        """
        self._order, self._cut, self._kept, self._decide = order, cut, kept, decide
        share = max(1, cut.global_batch // cut.world_size)
        span = SAMPLES_AT_ONCE // max(1, weight) // share
        self._span = max(1, span // together) * together
        self._blocks: dict[tuple[int, int], _Block] = {}
        self._lock = threading.Lock()

    def steps(self, epoch: int, steps: range) -> Decided:
        """Return what is decided of some steps. Raises what `decide` raises of their rows."""
        number = steps.start // self._span
        block = self._block(epoch, number)
        with block.lock:
            if block.decided is None and not block.broken:
                self._fill(block, epoch, number)
            if block.decided is not None:
                first, last = (
                    block.bounds[step - number * self._span] for step in (steps[0], steps[-1])
                )
                return block.decided.part(first[0], last[1])
        return self._decide(self._rows(steps, epoch), epoch)

    def follows(self, epoch: int, step: int) -> tuple[int, int] | None:
        """Return a place in the block after that of a step, once a block: at its first step."""
        if step % self._span:
            return None
        following = step + self._span
        return (epoch, following) if following < self._cut.steps else (epoch + 1, 0)

    def prepare(self, epoch: int, step: int) -> None:
        """Decide about the block of a step, unless that was done."""
        block = self._block(epoch, step // self._span)
        with block.lock:
            if block.decided is None and not block.broken:
                self._fill(block, epoch, step // self._span)

    def rows_after(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Return the rows of later steps, in order, as far as they are decided."""
        number = step // self._span
        block = self._block(epoch, number)
        following = self.follows(epoch, number * self._span)
        assert following is not None
        with self._lock:
            after = self._blocks.get((following[0], following[1] // self._span))
        found = [np.empty(0, np.int64)]
        if block.decided is not None:
            found.append(block.decided.rows[block.bounds[step % self._span][1] :])
            if after is not None and after.decided is not None:
                found.append(after.decided.rows)
        return np.concatenate(found)

    def _block(self, epoch: int, number: int) -> _Block:
        with self._lock:
            if (epoch, number) not in self._blocks:
                while len(self._blocks) >= KEPT_BLOCKS:
                    del self._blocks[next(iter(self._blocks))]
                self._blocks[epoch, number] = _Block()
            return self._blocks[epoch, number]

    def _fill(self, block: _Block, epoch: int, number: int) -> None:
        last = min(self._cut.steps, (number + 1) * self._span)
        steps = range(number * self._span, last)
        sizes = [len(self._cut.positions(step)[0]) for step in steps]
        ends = np.cumsum(sizes).tolist()
        block.bounds = [(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        try:
            block.decided = self._decide(self._rows(steps, epoch), epoch)
        except ViewStoreError:  # of some step: each one is decided alone, and raises its own
            block.broken = True

    def _rows(self, steps: range, epoch: int) -> NDArray[np.int64]:
        positions = np.concatenate([self._cut.positions(step)[0] for step in steps])
        rows = self._order.rows(positions, epoch)
        return rows if self._kept is None else self._kept[rows]


class _Block:
    """Steps that are decided together."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.bounds: list[tuple[int, int]] = []
        self.decided: Decided | None = None
        self.broken = False
