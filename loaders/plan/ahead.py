"""Plans many steps at once, before pixels are touched: rows, view numbers, draws."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ViewStoreError
from viewstore.images.policies import Drawn
from viewstore.loaders.plan.cut import Cut
from viewstore.loaders.plan.order import RowOrder

# The order, the schedule and the draws cost the same for few samples as for many.
SAMPLES_AT_ONCE = 65_536
BLOCKS = 3  # prefetch crosses into the next block, and the one before may still be used


@dataclass(frozen=True, kw_only=True)
class SamplePlan:
    """What some samples show.

    Attributes:
        rows: Rows of the store, int64 [B].
        views: View numbers of each cached group, int64 [B, n].
        online: Params of each online slot, [B, ...].
        then: For each cached group the params of each slot; {} where its views are shown as
            they are stored.
        on: Params of each slot that is rendered on another one, [B, ...].
        recorded: Params of each slot that shows a recipe set, [B, ...].
        made: Which views of those slots were made, [B] each.
    """

    rows: NDArray[np.int64]
    views: list[NDArray[np.int64]]
    online: list[Drawn]
    then: list[list[Drawn]]
    on: list[Drawn] = field(default_factory=list)
    recorded: list[Drawn] = field(default_factory=list)
    made: list[NDArray[np.bool_]] = field(default_factory=list)

    def part(self, begin: int, end: int) -> SamplePlan:
        """Return the plan of samples [begin, end)."""
        return SamplePlan(
            rows=self.rows[begin:end],
            views=[each[begin:end] for each in self.views],
            online=[part_of(each, begin, end) for each in self.online],
            then=[[part_of(each, begin, end) for each in group] for group in self.then],
            on=[part_of(each, begin, end) for each in self.on],
            recorded=[part_of(each, begin, end) for each in self.recorded],
            made=[each[begin:end] for each in self.made],
        )


def part_of(drawn: Drawn, begin: int, end: int) -> Drawn:
    """Return the params of samples [begin, end)."""
    return {name: column[begin:end] for name, column in drawn.items()}


PlanSamples = Callable[[NDArray[np.int64], int], SamplePlan]  # rows [B] and epoch


class StepPlanner:
    """The plans of this rank's steps, made a block of steps at a time.

    A maker asks it for each batch. Safe to call from several threads.
    """

    def __init__(
        self,
        order: RowOrder,
        cut: Cut,
        selected: NDArray[np.int64] | None,
        plan_samples: PlanSamples,
        *,
        drawn_slots: int,
        steps_at_once: int = 1,
    ) -> None:
        """Plan the steps of `cut`.

        Args:
            order: Which row stands at which position; of `selected` rows, which of them.
            cut: Which positions this rank reads.
            selected: The ascending rows of a filter, or None.
            plan_samples: Plans rows of an epoch.
            drawn_slots: Slots that are drawn for a sample: more of them, fewer samples a block.
            steps_at_once: How many steps `steps` is asked for, from a multiple of it on.
        """
        self._order, self._cut, self._selected = order, cut, selected
        self._plan_samples = plan_samples
        share = max(1, cut.global_batch // cut.world_size)
        span = SAMPLES_AT_ONCE // max(1, drawn_slots) // share
        self._span = max(1, span // steps_at_once) * steps_at_once
        self._blocks: dict[tuple[int, int], _Block] = {}
        self._lock = threading.Lock()

    def steps(self, epoch: int, steps: range) -> SamplePlan:
        """Return the plan of some steps. Raises what `plan_samples` raises of their rows."""
        number = steps.start // self._span
        block = self._block(epoch, number)
        with block.lock:
            if block.plan is None and not block.failed:
                self._fill(block, epoch, number)
            if block.plan is not None:
                first, last = (
                    block.bounds[step - number * self._span] for step in (steps[0], steps[-1])
                )
                return block.plan.part(first[0], last[1])
        return self._plan_samples(self._rows(steps, epoch), epoch)

    def next_block(self, epoch: int, step: int) -> tuple[int, int] | None:
        """Return the first (epoch, step) of the next block; None unless `step` begins a block."""
        if step % self._span:
            return None
        following = step + self._span
        return (epoch, following) if following < self._cut.steps else (epoch + 1, 0)

    def prepare(self, epoch: int, step: int) -> None:
        """Plan the block of a step, unless that was done."""
        block = self._block(epoch, step // self._span)
        with block.lock:
            if block.plan is None and not block.failed:
                self._fill(block, epoch, step // self._span)

    def rows_after(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Return the rows of later steps, in order, as far as they are planned; int64."""
        number = step // self._span
        block = self._block(epoch, number)
        following = self.next_block(epoch, number * self._span)
        assert following is not None
        with self._lock:
            after = self._blocks.get((following[0], following[1] // self._span))
        found = [np.empty(0, np.int64)]
        if block.plan is not None:
            found.append(block.plan.rows[block.bounds[step % self._span][1] :])
            if after is not None and after.plan is not None:
                found.append(after.plan.rows)
        return np.concatenate(found)

    def _block(self, epoch: int, number: int) -> _Block:
        with self._lock:
            if (epoch, number) not in self._blocks:
                while len(self._blocks) >= BLOCKS:
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
            block.plan = self._plan_samples(self._rows(steps, epoch), epoch)
        except ViewStoreError:  # of some step: each is planned alone then, and raises its own
            block.failed = True

    def _rows(self, steps: range, epoch: int) -> NDArray[np.int64]:
        positions = np.concatenate([self._cut.positions(step)[0] for step in steps])
        rows = self._order.rows(positions, epoch)
        return rows if self._selected is None else self._selected[rows]


class _Block:
    """Steps that are planned together: `plan` is None until then, or for good if it `failed`."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.bounds: list[tuple[int, int]] = []
        self.plan: SamplePlan | None = None
        self.failed = False
