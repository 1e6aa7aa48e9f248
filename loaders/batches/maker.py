"""Makes the batches of one store: planned ahead, filled in slices by any thread, handed over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from viewstore.images.colours import COLOUR_COLUMNS
from viewstore.images.policies import Drawn
from viewstore.loaders.batches.draft import Draft
from viewstore.loaders.batches.samples import SamplePlanner
from viewstore.loaders.batches.store_views import StoreViews
from viewstore.loaders.pipeline.buffers import Buffer, BufferPool, Scratch, Shape
from viewstore.loaders.pipeline.clock import Clock
from viewstore.loaders.plan.ahead import SamplePlan, StepPlanner
from viewstore.loaders.plan.cut import Cut
from viewstore.loaders.plan.order import RowOrder
from viewstore.loaders.plan.schedule import Missing
from viewstore.loaders.plan.slots import OnlineSlot
from viewstore.loaders.plan.state import State
from viewstore.loaders.plan.wants import WantedSlots, Wants
from viewstore.loaders.read.stored import Damage
from viewstore.loaders.render.layered import only_flips, render_cached, render_linked
from viewstore.loaders.render.recipe_reader import render_recorded

if TYPE_CHECKING:
    from viewstore.loaders.batches.batch import Batch
    from viewstore.loaders.batches.deliver import Delivery

AnySlot = TypeVar("AnySlot", bound=OnlineSlot)
OnCorrupt = Literal["raise", "quarantine"]

# Below this, handing a slice to another thread costs more than it saves.
LEAST_SAMPLES = 16
LEAST_COPIED_BYTES = 4 << 20  # the same for samples that are copied as they are stored
MOST_STEPS_AT_ONCE = 8  # batches smaller than that, made at once by one thread


@dataclass(kw_only=True)
class BatchMaker:
    """The `Maker` of a loader over one store, or of the part of one among several.

    Nothing that it holds holds it, so that it ends with the loader.

    Attributes:
        views: The views of the store.
        order: Which row stands at which position.
        cut: The cut of an epoch into steps.
        seed: Seed of draws and of the view schedule.
        missing: What to do about views that were not made.
        on_corrupt: What to do about damaged samples.
        announce: Whether to have the operating system load what will be read.
        pool: Memory for pixels.
        late: Slots whose colours are not made here.
        wants: Says which slots a step over all epochs shows; None: all of them.
        state: The loader's state, at whatever step.
        clock: Takes the seconds.
    """

    views: StoreViews
    order: RowOrder
    cut: Cut
    seed: int
    missing: Missing
    on_corrupt: OnCorrupt
    announce: bool
    pool: BufferPool
    late: frozenset[int]
    wants: Wants | None
    state: State
    clock: Clock

    def __post_init__(self) -> None:
        self._cached = list(zip(self.views.cached, self.views.readers, strict=True))
        self._online = self.views.online
        places = [(place, slot) for place, slot in enumerate(self.views.recorded)]
        self._of_images = [each for each in places if each[1].on is None]
        self._of_views = [(place, slot, slot.on) for place, slot in places if slot.on is not None]
        self._recorded = {slot.slot for slot in self.views.recorded}
        self._parts = [part for _, part, _ in self.views.set_readers]
        self.plan_samples = SamplePlanner(self.views, seed=self.seed, missing=self.missing)
        self._scratch = Scratch()
        self.shapes = [(slot.height, slot.width, slot.channels) for slot in self.views.slots]
        self._sample_bytes = sum(height * width * chans for height, width, chans in self.shapes)
        self._only_copies = (
            not any(part.reads_ranges for part in self._parts)
            and not self.views.rendered
            and not self.views.recorded
            and all(
                reader.copies_rows and all(only_flips(t, reader.shape[:2]) for t in slots.then)
                for slots, reader in self._cached
            )
        )
        below = {slot.slot: slot.on for slot in self.views.linked}
        below |= {slot.slot: on for _, slot, on in self._of_views}
        count = len(self.shapes)
        self.wanted = WantedSlots(wants=self.wants, slots=count, cut=self.cut, below=below)
        self.wanted.absent(0, 0)  # what is wrong with it is said before anything is read
        layered = [then for slots, _ in self._cached for then in slots.then if then]
        self._planner = StepPlanner(
            self.order,
            self.cut,
            self.views.selected,
            self.plan_samples,
            drawn_slots=len(self.views.rendered) + len(layered),
            steps_at_once=self.steps_at_once,
        )

    @property
    def steps_at_once(self) -> int:
        """How many steps a thread makes at once: several where each is a short copy."""
        if self.wants is not None:  # each step may show other slots
            return 1
        share = -(-self.cut.global_batch // self.cut.world_size)
        fitting = MOST_STEPS_AT_ONCE * LEAST_COPIED_BYTES // max(1, share * self._sample_bytes)
        return max(1, min(MOST_STEPS_AT_ONCE, fitting)) if self._only_copies else 1

    def slices(self, size: int, threads: int) -> list[tuple[int, int]]:
        """Return the bounds of the slices of `size` samples: as few as keep the threads busy."""
        least = LEAST_SAMPLES
        if self._only_copies:
            least = max(1, LEAST_COPIED_BYTES // self._sample_bytes)
        count = max(1, min(threads, size // least))
        return [(size * part // count, size * (part + 1) // count) for part in range(count)]

    def background_tasks(self, epoch: int, step: int) -> list[Callable[[], object]]:
        """Return what plans the next block of steps, if `step` begins a block."""
        following = self._planner.next_block(epoch, step)
        return [] if following is None else [partial(self._planner.prepare, *following)]

    def copy_tasks(self) -> list[Callable[[], bool]]:
        """Return what copies view sets into memory; each is called again while it returns True."""
        residents = (part.resident for part in self._parts)
        return [resident.copy_some for resident in residents if resident is not None]

    def plan(self, epoch: int, steps: range) -> Draft:
        """Return the draft of steps: rows, views, draws and memory, no pixels yet."""
        began = time.perf_counter()
        plan = self._planner.steps(epoch, steps)
        if self.needs_shards:
            self.prefetch(plan.rows, self._planner.rows_after(epoch, steps[-1]))
        valid = [self.cut.positions(step)[1] for step in steps]
        absent = self.wanted.absent(epoch, steps.start)
        skipped = self.wanted.skipped(absent)
        buffers = take_buffers(self.pool, len(plan.rows), self.shapes, skipped)
        sizes = [len(each) for each in valid]
        draft = self.draft(
            epoch, steps, sizes, plan, np.concatenate(valid), buffers, absent, skipped
        )
        self.clock.add(plan_seconds=time.perf_counter() - began)
        return draft

    @property
    def needs_shards(self) -> bool:
        """Whether there are remote shards to download before they are read."""
        return any(part.needs_shards for part in self._parts)

    def prefetch(self, now: NDArray[np.int64], later: NDArray[np.int64]) -> None:
        """Download the shards of the rows `later` while those of the rows `now` are read."""
        shard_rows = self.views.store.shard_rows
        numbers, first = np.unique(later // shard_rows, return_index=True)
        numbers = numbers[np.argsort(first)]
        shards = numbers[~np.isin(numbers, now // shard_rows)].tolist()
        for part in self._parts:
            if part.needs_shards:
                part.prefetch(shards)
        for joined in (each for slots in self.views.cached for each in slots.joined):
            joined.prefetch(shards)

    def draft(
        self,
        epoch: int,
        steps: range,
        sizes: list[int],
        plan: SamplePlan,
        valid: NDArray[np.bool_],
        buffers: list[Buffer],
        absent: frozenset[int],
        skipped: frozenset[int],
    ) -> Draft:
        """Return the draft of samples that were planned, which are to fill `buffers`."""
        if self.announce:
            for (slots, reader), views in zip(self._cached, plan.views, strict=True):
                shown = [slot not in skipped for slot in slots.slots]
                if any(shown):
                    reader.announce(plan.rows, views if all(shown) else views[:, shown])
        return Draft(
            epoch=epoch,
            steps=steps,
            sizes=sizes,
            plan=plan,
            valid=valid,
            buffers=buffers,
            absent=absent,
            skipped=skipped,
        )

    def fill(self, draft: Draft, begin: int, end: int) -> None:
        """Read and render samples [begin, end) of a draft.

        Raises:
            FormatError: A view or a source image is damaged, and `on_corrupt` is "raise".
        """
        damaged: Damage | None = None if self.on_corrupt == "raise" else {}
        plan = draft.plan if end - begin == len(draft.rows) else draft.plan.part(begin, end)
        plan = self._without_late_colours(plan)
        out = [buffer[begin:end] for buffer in draft.buffers]
        skipped = draft.skipped
        for number in range(len(self._cached)):
            self._fill_cached(number, plan, out, damaged, skipped)
        self._fill_from_images(plan, out, damaged, skipped)
        for place, slot, on in self._of_views:
            if slot.slot not in skipped:
                drawn, made = plan.recorded[place], plan.made[place]
                render_recorded(slot, drawn, made, out[on], out[slot.slot], self.clock)
        if self.views.linked:
            linked, drawn_on = _but(skipped, self.views.linked, plan.on)
            render_linked(linked, drawn_on, out, self.clock)
        if damaged:
            indices = np.array(list(damaged))
            draft.valid[begin + indices] = False
            for slot_number, buffer in enumerate(out):
                if slot_number not in skipped:
                    buffer[indices] = 0

    def warm_up(self) -> None:
        """Import what `finish` needs, which takes a while the first time."""
        self._delivery  # noqa: B018

    @cached_property
    def _delivery(self) -> Delivery:
        # Torch takes longer to import than anything else up to the first batch, so that nothing
        # before this needs it: the threads fill the batch meanwhile.
        from viewstore.loaders.batches.cached import CachedDelivery
        from viewstore.loaders.batches.deliver import Delivery
        from viewstore.loaders.batches.linked import linked_deliveries

        sizes = self.views.images.sizes
        cached = [
            [
                CachedDelivery(slots, number, reader, mirrored, sizes)
                for number in range(len(slots.slots))
            ]
            for (slots, reader), mirrored in zip(self._cached, self.views.mirrored, strict=True)
        ]
        return Delivery(
            cached=cached,
            online=self._online,
            linked=linked_deliveries(self.views.linked, cached, self._online, sizes),
            labels=self.views.store.labels,
            cut=self.cut,
            state=self.state,
            late=self.late,
            slots=self.views.slots,
        )

    def finish(self, draft: Draft) -> list[Batch]:
        """Return the batches of a filled draft."""
        return self._delivery.batches(draft)

    def _without_late_colours(self, plan: SamplePlan) -> SamplePlan:
        """Return a plan without the params of colours that are made later."""
        if not self.late:
            return plan
        online = self._rendered_params([slot.slot for slot in self._online], plan.online)
        recorded = self._rendered_params([slot.slot for slot in self.views.recorded], plan.recorded)
        then = [
            self._rendered_params(slots.slots, drawn)
            for (slots, _), drawn in zip(self._cached, plan.then, strict=True)
        ]
        return replace(plan, online=online, recorded=recorded, then=then)

    def _rendered_params(self, slots: Iterable[int], drawn: Iterable[Drawn]) -> list[Drawn]:
        return [
            {name: params[name] for name in params.keys() - set(COLOUR_COLUMNS)}
            if slot in self.late
            else params
            for slot, params in zip(slots, drawn, strict=True)
        ]

    def _fill_from_images(
        self,
        plan: SamplePlan,
        out: list[Buffer],
        damaged: Damage | None,
        skipped: frozenset[int],
    ) -> None:
        """Render what starts from source images: of all slots, each image decoded once."""
        online, drawn = _but(skipped, self._online, plan.online)
        of_images = [(place, slot) for place, slot in self._of_images if slot.slot not in skipped]
        slots = [*online, *(slot for _, slot in of_images)]
        if slots:
            drawn = [*drawn, *(plan.recorded[place] for place, _ in of_images)]
            made = [plan.made[place] for place, _ in of_images]
            mine = [out[slot.slot] for slot in slots]
            self.views.images.render(slots, plan.rows, drawn, mine, damaged, made=made)

    def _fill_cached(
        self,
        number: int,
        plan: SamplePlan,
        out: list[Buffer],
        damaged: Damage | None,
        skipped: frozenset[int],
    ) -> None:
        slots, reader = self._cached[number]
        views, drawn = plan.views[number], plan.then[number]
        stored, flips, columns = [], [], []  # of the slots that are read into their buffer
        for column, (slot, then) in enumerate(zip(slots.slots, slots.then, strict=True)):
            if slot in self._recorded or slot in skipped:
                continue
            if only_flips(then, reader.shape[:2]):
                columns.append(column)
                stored.append(out[slot])
                flips.append(drawn[column]["flip"].view(np.bool_) if then else None)
            else:
                assert then is not None
                mine = views[:, column], drawn[column], out[slot]
                render_cached(then, reader, plan.rows, *mine, self._scratch, self.clock, damaged)
        if columns:
            views = views if len(columns) == len(slots.slots) else views[:, columns]
            reader.read(plan.rows, views, stored, flips, damaged)


def take_buffers(
    pool: BufferPool, size: int, shapes: Sequence[Shape], skipped: frozenset[int]
) -> list[Buffer]:
    """Return memory for `size` views of each slot, and for none of those that are skipped."""
    return [
        pool.take((0 if slot in skipped else size, *shape)) for slot, shape in enumerate(shapes)
    ]


def _but(
    skipped: frozenset[int], slots: Sequence[AnySlot], drawn: Sequence[Drawn]
) -> tuple[Sequence[AnySlot], Sequence[Drawn]]:
    """Return slots with their draws, without those that are skipped."""
    if not skipped:
        return slots, drawn
    kept = [each for each in zip(slots, drawn, strict=True) if each[0].slot not in skipped]
    return [slot for slot, _ in kept], [params for _, params in kept]
