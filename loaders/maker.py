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
from viewstore.loaders.transform import OnlineViews
from viewstore.loaders.views import CachedSlots
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
        pixels: A tensor for each slot, uint8 [B, H, W, C].
        buffers: The same memory, as arrays.
    """

    epoch: int
    step: int
    rows: NDArray[np.int64]
    valid: NDArray[np.bool_]
    shown: list[NDArray[np.int64]]
    drawn: list[Drawn]
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

    def shards_ahead(self, epoch: int, step: int, shard_rows: int) -> list[int]:
        """Return the shards that are needed soon after a step, in the order of their first use."""
        rows = self.step(epoch, step)
        with self._lock:
            block = self._blocks.get((epoch, step // self._span), [rows])
        later = np.concatenate(block[step % self._span :]) // shard_rows
        numbers, first = np.unique(later, return_index=True)
        now = set((rows // shard_rows).tolist())
        return [number for number in numbers[np.argsort(first)].tolist() if number not in now]

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
        for group, reader in self.cached:
            shapes |= dict.fromkeys(group.slots, reader.shape)
        for slot in self.online.slots:
            shapes[slot.slot] = (*slot.size, 3)
        return [shapes[slot] for slot in range(self.num_slots)]

    def plan(self, epoch: int, step: int) -> Draft:
        """Return the draft of a step: all that is decided before pixels are touched."""
        began = time.perf_counter()
        rows = self.rows.step(epoch, step)
        self._prefetch(epoch, step)
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
            drawn=self.online.draw(Stream(self.seed, epoch, AUGMENT), rows),
            pixels=pixels,
            buffers=[tensor.numpy() for tensor in pixels],
        )
        self.clock.add("plan_seconds", time.perf_counter() - began)
        return draft

    def fill(self, draft: Draft, begin: int, end: int) -> None:
        """Read and render samples [begin, end) of a draft."""
        part = slice(begin, end)
        began = time.perf_counter()
        for (group, reader), shown in zip(self.cached, draft.shown, strict=True):
            out = [draft.buffers[slot][part] for slot in group.slots]
            reader.read(draft.rows[part], shown[part], out)
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
        for (group, reader), shown in zip(self.cached, draft.shown, strict=True):
            views |= self._cached_views(group, reader, shown, draft)
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

    def _prefetch(self, epoch: int, step: int) -> None:
        """Have the shards of the next steps fetched, where they are not on this machine."""
        remote = [reader for _, reader in self.cached if reader.view_set.remote]
        if remote:
            shard_rows = remote[0].view_set.plan.shard_rows
            shards = self.rows.shards_ahead(epoch, step, shard_rows)
            for reader in remote:
                reader.prefetch(shards)

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

    def _cached_views(
        self, group: CachedSlots, reader: CachedReader, shown: NDArray[np.int64], draft: Draft
    ) -> dict[int, View]:
        columns = {name: reader.params(name, draft.rows, shown) for name in group.params}
        status = reader.params("status", draft.rows, shown)
        parent = columns.get("parent", np.full(shown.shape, -1))
        roles = set(group.view_set.roles)
        views = {}
        for number, slot in enumerate(group.slots):
            params = {
                name: torch.from_numpy(
                    np.ascontiguousarray(column[:, number]) if reader.per_view(name) else column
                )
                for name, column in columns.items()
            }
            views[slot] = View(
                pixels=draft.pixels[slot].permute(0, 3, 1, 2),
                params=params,
                status=torch.from_numpy(np.ascontiguousarray(status[:, number])),
                role=roles.copy().pop() if len(roles) == 1 else "mixed",
                parent=torch.from_numpy(parent[:, number].astype(np.int64)),
                view=torch.from_numpy(np.ascontiguousarray(shown[:, number])),
                source=f"cached:{group.view_set.name}",
            )
        return views
