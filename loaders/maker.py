"""How one batch is made: planned with numpy, filled in slices by any thread, handed over."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewstore.loaders.batch import Batch, View
from viewstore.loaders.choose import Missing, preference, replace_missing
from viewstore.loaders.order import Cut, Order
from viewstore.loaders.reader import CachedReader
from viewstore.loaders.state import State
from viewstore.loaders.transform import OnlineViews, delivered_params, draw_slots, render_cached
from viewstore.loaders.views import CachedSlots, OnlineSlot
from viewstore.policies import Drawn
from viewstore.randomness import AUGMENT, Stream

# Evaluating the order costs the same for few positions as for many.
POSITIONS_AT_ONCE = 16_384


@dataclass(kw_only=True)
class Draft:
    """A batch in the making.

    Attributes:
        rows, valid: Rows of the store, and which are no padding, [B].
        shown: View numbers for each cached group, [B, n].
        drawn: Params of each online slot.
        then: For each cached group, params of each slot; none where its views are shown as
            they are stored.
        pixels: A tensor for each slot, uint8 [B, H, W, C].
        buffers: The same memory, as arrays.
    """

    epoch: int
    step: int
    rows: NDArray[np.int64]
    valid: NDArray[np.bool_]
    shown: list[NDArray[np.int64]]
    drawn: list[Drawn]
    then: list[list[Drawn]]
    pixels: list[Tensor]
    buffers: list[NDArray[np.uint8]]


@dataclass
class Clock:
    """Seconds and counts of the threads, by what they were spent on."""

    totals: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, amount: float) -> None:
        """Add to a total."""
        with self._lock:
            self.totals[name] = self.totals.get(name, 0.0) + amount


class EpochRows:
    """The rows of each step of this rank, computed for many steps at once."""

    def __init__(self, order: Order, cut: Cut, kept: NDArray[np.int64] | None) -> None:
        """Take the order and its cut; `kept` are the sorted rows of a filter, or None."""
        self._order, self._cut, self._kept = order, cut, kept
        share = max(1, cut.global_batch // cut.world_size)
        self._span = max(1, POSITIONS_AT_ONCE // share)
        self._blocks: dict[tuple[int, int], list[NDArray[np.int64]]] = {}
        self._lock = threading.Lock()

    def step(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Return the rows of a step, int64 [B]."""
        key = (epoch, step // self._span)
        with self._lock:
            if key not in self._blocks:
                while len(self._blocks) > 1:  # prefetch crosses into the next block, not further
                    del self._blocks[next(iter(self._blocks))]
                self._blocks[key] = self._block(*key)
            return self._blocks[key][step % self._span]

    def _block(self, epoch: int, block: int) -> list[NDArray[np.int64]]:
        steps = range(block * self._span, min(self._cut.steps, (block + 1) * self._span))
        positions = [self._cut.positions(step)[0] for step in steps]
        rows = self._order.rows(np.concatenate(positions), epoch)
        if self._kept is not None:
            rows = self._kept[rows]
        return np.split(rows, np.cumsum([len(each) for each in positions])[:-1])


@dataclass(kw_only=True)
class BatchMaker:
    """Makes the batches of a loader, whichever thread asks.

    Attributes:
        rows: Rows of each step.
        cut: The cut of the steps.
        seed: Seed of draws and of the view schedule.
        cached: Slots of each view set, with their reader.
        mirrored: For each of them which views show their box from right to left, [N, V], if any.
        online: The slots that are rendered.
        labels: Label of each row.
        missing: What to do about views that were not made.
        pin: Whether pixels lie in pinned memory.
        state: The loader's state, at whatever step.
    """

    rows: EpochRows
    cut: Cut
    seed: int
    cached: list[tuple[CachedSlots, CachedReader]]
    mirrored: list[NDArray[np.bool_] | None]
    online: OnlineViews
    labels: NDArray[np.int32]
    missing: Missing
    pin: bool
    state: State
    clock: Clock = field(default_factory=Clock)

    @property
    def num_slots(self) -> int:
        """Views per sample."""
        return sum(len(group.slots) for group, _ in self.cached) + len(self.online.slots)

    def slot_shapes(self) -> list[tuple[int, int, int]]:
        """Return height, width and channels of each slot's views."""
        shapes: dict[int, tuple[int, int, int]] = {}
        for group, _ in self.cached:
            shapes |= dict(zip(group.slots, group.shapes, strict=True))
        for slot in self.online.slots:
            shapes[slot.slot] = (*slot.size, 3)
        return [shapes[slot] for slot in range(self.num_slots)]

    def plan(self, epoch: int, step: int) -> Draft:
        """Return the draft of a step: all that is decided before pixels are touched."""
        began = time.perf_counter()
        rows = self.rows.step(epoch, step)
        stream = Stream(self.seed, epoch, AUGMENT)
        pixels = [
            torch.empty((len(rows), *shape), dtype=torch.uint8, pin_memory=self.pin)
            for shape in self.slot_shapes()
        ]
        draft = Draft(
            epoch=epoch,
            step=step,
            rows=rows,
            valid=self.cut.positions(step)[1],
            shown=[self._shown(group, reader, rows, epoch) for group, reader in self.cached],
            drawn=self.online.draw(stream, rows),
            then=[self._then(group, stream, rows) for group, _ in self.cached],
            pixels=pixels,
            buffers=[tensor.numpy() for tensor in pixels],
        )
        self.clock.add("plan_seconds", time.perf_counter() - began)
        return draft

    def fill(self, draft: Draft, begin: int, end: int) -> None:
        """Read and render samples [begin, end) of a draft."""
        part = slice(begin, end)
        began = time.perf_counter()
        for number, (group, reader) in enumerate(self.cached):
            out = [draft.buffers[slot][part] for slot in group.slots]
            stored = [
                buffer if then is None else np.empty((end - begin, *reader.shape), np.uint8)
                for buffer, then in zip(out, group.then, strict=True)
            ]
            reader.read(draft.rows[part], draft.shown[number][part], stored)
            for place, then in enumerate(group.then):
                if then is not None:
                    params = {n: each[part] for n, each in draft.then[number][place].items()}
                    render_cached(then, stored[place], params, out[place])
        read = time.perf_counter()
        self.clock.add("read_seconds", read - began)
        if self.online.slots:
            drawn = [{n: column[part] for n, column in each.items()} for each in draft.drawn]
            out = [draft.buffers[slot.slot][part] for slot in self.online.slots]
            self.online.render(draft.rows[part], drawn, out)
            self.clock.add("render_seconds", time.perf_counter() - read)

    def finish(self, draft: Draft) -> Batch:
        """Return the batch of a filled draft."""
        views: dict[int, View] = {}
        for number in range(len(self.cached)):
            views |= self._cached_views(number, draft)
        for slot, drawn in zip(self.online.slots, draft.drawn, strict=True):
            size = len(draft.rows)
            views[slot.slot] = View(
                pixels=draft.pixels[slot.slot].permute(0, 3, 1, 2),
                params={name: torch.from_numpy(column) for name, column in drawn.items()},
                status=torch.ones(size, dtype=torch.uint8),
                role=slot.policy.role,
                parent=torch.full((size,), -1),
                view=torch.full((size,), slot.slot),
                source=f"online:{slot.policy.name}",
            )
        self.clock.add("samples", len(draft.rows))
        self.clock.add("bytes", sum(tensor.numel() for tensor in draft.pixels))
        return Batch(
            views=tuple(views[slot] for slot in range(self.num_slots)),
            index=torch.from_numpy(draft.rows.copy()),
            label=torch.from_numpy(self.labels[draft.rows].astype(np.int64)),
            valid=torch.from_numpy(draft.valid),
            weight=self.cut.weight(draft.step),
            epoch=draft.epoch,
            step=draft.step,
            state=self.state.at(draft.epoch, draft.step + 1, steps=self.cut.steps).to_json(),
        )

    def _then(self, group: CachedSlots, stream: Stream, rows: NDArray[np.int64]) -> list[Drawn]:
        slots = [then for then in group.then if then is not None]
        drawn = iter(draw_slots(slots, stream, rows, group.view_set.height, group.view_set.width))
        return [{} if then is None else next(drawn) for then in group.then]

    def _shown(
        self, group: CachedSlots, reader: CachedReader, rows: NDArray[np.int64], epoch: int
    ) -> NDArray[np.int64]:
        cached, wanted = group.view_set.num_views, len(group.slots)
        order = preference(self.seed, epoch, rows, cached=cached, wanted=wanted, pick=group.pick)
        every = np.broadcast_to(np.arange(cached), (len(rows), cached))
        return replace_missing(
            order[:, :wanted],
            order,
            reader.params("status", rows, every),
            rows,
            name=group.view_set.name,
            missing=self.missing,
        )

    def _cached_views(self, place: int, draft: Draft) -> dict[int, View]:
        group, reader = self.cached[place]
        shown = draft.shown[place]
        columns = {name: reader.params(name, draft.rows, shown) for name in group.params}
        status = reader.params("status", draft.rows, shown)
        parent = columns.get("parent", np.full(shown.shape, -1))
        views = {}
        for number, slot in enumerate(group.slots):
            params = {
                name: np.ascontiguousarray(column[:, number]) if reader.per_view(name) else column
                for name, column in columns.items()
            }
            source = f"cached:{group.view_set.name}"
            then = group.then[number]
            if then is not None:
                params |= self._composed(place, number, then, draft)
                source += f"+{then.policy.name}"
            views[slot] = View(
                pixels=draft.pixels[slot].permute(0, 3, 1, 2),
                params={name: torch.from_numpy(column) for name, column in params.items()},
                status=torch.from_numpy(np.ascontiguousarray(status[:, number])),
                role=group.roles[number],
                parent=torch.from_numpy(parent[:, number].astype(np.int64)),
                view=torch.from_numpy(np.ascontiguousarray(shown[:, number])),
                source=source,
            )
        return views

    def _composed(self, place: int, number: int, then: OnlineSlot, draft: Draft) -> Drawn:
        group, reader = self.cached[place]
        shown = draft.shown[place][:, number : number + 1]
        if "crop_box" in group.view_set.params:
            box = reader.params("crop_box", draft.rows, shown)[:, 0]
        else:  # such views show the whole source image
            box = np.zeros((len(shown), 4))
            box[:, 2], box[:, 3] = self.online.sizes(draft.rows)
        mirrored = self.mirrored[place]
        flipped = (
            np.zeros(len(shown), np.bool_)
            if mirrored is None
            else mirrored[draft.rows, shown[:, 0]]
        )
        size = group.view_set.height, group.view_set.width
        return delivered_params(then, draft.then[place][number], box, flipped, size)
