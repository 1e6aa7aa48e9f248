"""How one batch is made: decided ahead, filled in slices by any thread, handed over."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from viewstore.images.colours import COLOUR_COLUMNS
from viewstore.images.policies import Drawn
from viewstore.loaders.batches.draft import Draft
from viewstore.loaders.pipeline.buffers import Buffer, BufferPool, Scratch
from viewstore.loaders.pipeline.clock import Clock
from viewstore.loaders.plan.ahead import Ahead, Decided
from viewstore.loaders.plan.cut import Cut
from viewstore.loaders.plan.mixed import schedule_of
from viewstore.loaders.plan.order import RowOrder
from viewstore.loaders.plan.schedule import Missing
from viewstore.loaders.plan.slots import CachedSlots
from viewstore.loaders.plan.state import State
from viewstore.loaders.read.reader import AnyReader, parts_of, shown_views
from viewstore.loaders.read.stored import Damage
from viewstore.loaders.render.layered import Mirrored, only_flips, render_cached
from viewstore.loaders.render.online import OnlineViews, draw_slots
from viewstore.randomness import AUGMENT, Stream

if TYPE_CHECKING:
    from viewstore.loaders.batches.batch import Batch
    from viewstore.loaders.batches.deliver import Delivery

from collections.abc import Sequence
from typing import Any, TypedDict

from numpy.typing import ArrayLike

from viewstore.errors import ConfigError
from viewstore.files.crc_checks import Verify
from viewstore.loaders.plan.asked import Views, parse_views
from viewstore.loaders.plan.mixed import MixedViews
from viewstore.loaders.plan.order import Order
from viewstore.loaders.plan.rows import kept_rows
from viewstore.loaders.plan.slots import OnlineSlot, resolve
from viewstore.loaders.read.ranged import ranged_shards
from viewstore.loaders.read.reader import CachedReader, reader_of
from viewstore.loaders.render.layered import mirrored_by_view
from viewstore.sources.reader import SourceReader
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

OnCorrupt = Literal["raise", "quarantine"]
Photometric = Literal["cpu", "device"]

# Below this, handing a slice to another thread costs more than it saves.
LEAST_SAMPLES = 16
LEAST_COPIED_BYTES = 4 << 20  # the same for samples that are copied as they are stored
MOST_TOGETHER = 8  # batches that are smaller than that and made at once, by one thread


@dataclass(kw_only=True)
class BatchMaker:
    """Makes the batches of a loader, whichever thread asks.

    Attributes:
        order: Which row stands where.
        cut: The cut of the steps.
        kept: The sorted rows of a filter, or None.
        seed: Seed of draws and of the view schedule.
        cached: Slots of each view set, with their reader.
        mirrored: Says for each of them which views show their box from right to left, if any.
        online: The slots that are rendered.
        labels: Label of each row.
        missing: What to do about views that were not made.
        on_corrupt: What to do about damaged samples.
        announces: Whether to have the system fetch what will be read.
        pool: Memory for pixels.
        photometric: Whether colours are made here, on the "cpu", or are left to `Batch.to`.
        state: The loader's state, at whatever step.
        clock: Takes the seconds.
    """

    order: RowOrder
    cut: Cut
    kept: NDArray[np.int64] | None
    seed: int
    cached: list[tuple[CachedSlots, AnyReader]]
    mirrored: list[Mirrored | None]
    online: OnlineViews
    labels: NDArray[np.int32]
    missing: Missing
    on_corrupt: OnCorrupt
    announces: bool
    pool: BufferPool
    photometric: Photometric
    state: State
    clock: Clock

    def __post_init__(self) -> None:
        drawn = [*self.online.slots, *(t for group, _ in self.cached for t in group.then if t)]
        self._scratch = Scratch()
        self._readers = [one for _, reader in self.cached for one in parts_of(reader)]
        self._schedules = [
            schedule_of(group.view_set, seed=self.seed, slots=group.slots, pick=group.pick)
            for group, _ in self.cached
        ]
        self._shapes = self.slot_shapes()
        self._sample_bytes = sum(height * width * chans for height, width, chans in self._shapes)
        here = not any(one.by_ranges for one in self._readers)
        self._copies = (
            here
            and not self.online.slots
            and all(
                reader.strided is not None
                and all(only_flips(t, reader.shape[:2]) for t in group.then)
                for group, reader in self.cached
            )
        )
        self._ahead = Ahead(
            self.order,
            self.cut,
            self.kept,
            self.decide,
            weight=len(drawn),
            together=self.together,
        )

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

    @property
    def together(self) -> int:
        """How many steps a thread makes at once: several where each is a short copy."""
        share = -(-self.cut.global_batch // self.cut.world_size)
        room = MOST_TOGETHER * LEAST_COPIED_BYTES // max(1, share * self._sample_bytes)
        return max(1, min(MOST_TOGETHER, room)) if self._copies else 1

    def slices(self, size: int, threads: int) -> list[tuple[int, int]]:
        """Return the parts of `size` samples that threads fill: as few as keep them busy."""
        least = LEAST_SAMPLES
        if self._copies:
            least = max(1, LEAST_COPIED_BYTES // self._sample_bytes)
        count = max(1, min(threads, size // least))
        return [(size * part // count, size * (part + 1) // count) for part in range(count)]

    def chores(self, epoch: int, step: int) -> list[Callable[[], object]]:
        """Return what may be done beside a step."""
        following = self._ahead.follows(epoch, step)
        return [] if following is None else [partial(self._ahead.prepare, *following)]

    def copies(self) -> list[Callable[[], bool]]:
        """Return what brings view sets into memory; each is called again while it is True."""
        residents = (one.resident for one in self._readers)
        return [resident.copy_some for resident in residents if resident is not None]

    def plan(self, epoch: int, steps: range) -> Draft:
        """Return the draft of steps: all that is decided before pixels are touched."""
        began = time.perf_counter()
        decided = self._ahead.steps(epoch, steps)
        if self.awaits:
            self.prefetch(decided.rows, self._ahead.rows_after(epoch, steps[-1]))
        valid = [self.cut.positions(step)[1] for step in steps]
        size = len(decided.rows)
        buffers = [self.pool.take((size, *shape), slot) for slot, shape in enumerate(self._shapes)]
        sizes = [len(each) for each in valid]
        draft = self.draft(epoch, steps, sizes, decided, np.concatenate(valid), buffers)
        self.clock.add(plan_seconds=time.perf_counter() - began)
        return draft

    @property
    def awaits(self) -> bool:
        """Whether there are remote shards to fetch before they are read."""
        return any(one.awaits for one in self._readers)

    def prefetch(self, now: NDArray[np.int64], later: NDArray[np.int64]) -> None:
        """Have the shards of `later` rows fetched while those of the rows `now` are read."""
        for one in self._readers:
            if one.awaits:
                shard_rows = one.view_set.plan.shard_rows
                numbers, first = np.unique(later // shard_rows, return_index=True)
                shards = numbers[np.argsort(first)]
                one.prefetch(shards[~np.isin(shards, now // shard_rows)].tolist())

    def draft(
        self,
        epoch: int,
        steps: range,
        sizes: list[int],
        decided: Decided,
        valid: NDArray[np.bool_],
        buffers: list[Buffer],
    ) -> Draft:
        """Return the draft of samples that were decided, which are to fill `buffers`."""
        if self.announces:
            for (_, reader), shown in zip(self.cached, decided.shown, strict=True):
                reader.announce(decided.rows, shown)
        return Draft(
            epoch=epoch, steps=steps, sizes=sizes, decided=decided, valid=valid, buffers=buffers
        )

    def fill(self, draft: Draft, begin: int, end: int) -> None:
        """Read and render samples [begin, end) of a draft."""
        damaged: Damage | None = None if self.on_corrupt == "raise" else {}
        part = draft.decided if end - begin == len(draft.rows) else draft.decided.part(begin, end)
        part = self._rendered_here(part)
        out = [buffer[begin:end] for buffer in draft.buffers]
        for number in range(len(self.cached)):
            self._fill_cached(number, part, out, damaged)
        if self.online.slots:
            mine = [out[slot.slot] for slot in self.online.slots]
            self.online.render(part.rows, part.drawn, mine, damaged)
        if damaged:
            places = np.array(list(damaged))
            draft.valid[begin + places] = False
            for buffer in out:
                buffer[places] = 0

    def _rendered_here(self, part: Decided) -> Decided:
        """Return a part without the params of colours that are left to the batch."""
        drawn = [self._placed(params) for params in part.drawn]
        then = [[self._placed(params) for params in group] for group in part.then]
        return replace(part, drawn=drawn, then=then)

    def _placed(self, drawn: Drawn) -> Drawn:
        if not self._colourless(drawn):
            return drawn
        return {name: drawn[name] for name in drawn.keys() - set(COLOUR_COLUMNS)}

    def _colourless(self, drawn: Drawn) -> bool:
        return self.photometric == "device" and "jitter" in drawn

    def ready(self) -> None:
        """Have at hand what `finish` needs, which takes a while the first time."""
        self._delivery  # noqa: B018

    @cached_property
    def _delivery(self) -> Delivery:
        # Torch takes longer to import than anything else up to the first batch, so that nothing
        # before this needs it: the threads fill the batch meanwhile.
        from viewstore.loaders.batches.deliver import CachedDelivery, Delivery

        return Delivery(
            cached=[
                [
                    CachedDelivery(group, number, reader, mirrored, self.online.sizes)
                    for number in range(len(group.slots))
                ]
                for (group, reader), mirrored in zip(self.cached, self.mirrored, strict=True)
            ],
            online=self.online.slots,
            labels=self.labels,
            cut=self.cut,
            state=self.state,
            colourless=self._colourless,
        )

    def finish(self, draft: Draft) -> list[Batch]:
        """Return the batches of a filled draft."""
        return self._delivery.batches(draft)

    def decide(self, rows: NDArray[np.int64], epoch: int) -> Decided:
        """Return the views and draws of rows."""
        stream = Stream(self.seed, epoch, AUGMENT)
        return Decided(
            rows=rows,
            shown=[self._shown(number, rows, epoch) for number in range(len(self.cached))],
            drawn=self.online.draw(stream, rows),
            then=[self._then(group, stream, rows) for group, _ in self.cached],
        )

    def _then(self, group: CachedSlots, stream: Stream, rows: NDArray[np.int64]) -> list[Drawn]:
        slots = [then for then in group.then if then is not None]
        drawn = iter(draw_slots(slots, stream, rows, group.view_set.height, group.view_set.width))
        return [{} if then is None else next(drawn) for then in group.then]

    def _shown(self, number: int, rows: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        group, reader = self.cached[number]
        if reader.all_usable:
            return self._schedules[number].views(epoch, rows)
        return shown_views(
            reader,
            rows,
            seed=self.seed,
            epoch=epoch,
            slots=group.slots,
            pick=group.pick,
            missing=self.missing,
        )

    def _fill_cached(
        self, number: int, part: Decided, out: list[Buffer], damaged: Damage | None
    ) -> None:
        group, reader = self.cached[number]
        shown, drawn = part.shown[number], part.then[number]
        stored, flips, places = [], [], []
        for place, (slot, then) in enumerate(zip(group.slots, group.then, strict=True)):
            if only_flips(then, reader.shape[:2]):
                places.append(place)
                stored.append(out[slot])
                flips.append(drawn[place]["flip"].view(np.bool_) if then else None)
            else:
                assert then is not None
                mine = shown[:, place], drawn[place], out[slot]
                render_cached(then, reader, part.rows, *mine, self._scratch, self.clock, damaged)
        if places:
            views = shown if len(places) == len(group.slots) else shown[:, places]
            reader.read(part.rows, views, stored, flips, damaged)


MakeReader = Callable[[ViewSet], CachedReader]


class Common(TypedDict):
    """What the makers of all stores share; the meaning is that of BatchMaker."""

    cut: Cut
    missing: Missing
    on_corrupt: OnCorrupt
    announces: bool
    photometric: Photometric
    pool: BufferPool
    state: State
    clock: Clock


@dataclass(frozen=True, kw_only=True)
class StoreShare:
    """What a loader shows of one store.

    Attributes:
        store: The store.
        kept: The rows it goes through, ascending; None: all.
        source: Reads the images of the online slots.
        cached, online: The slots.
        readers: What reads each cached group.
        mirrored: Says for each cached group which views show their box from right to left.
    """

    store: Store
    kept: NDArray[np.int64] | None
    source: SourceReader
    cached: Sequence[CachedSlots]
    online: Sequence[OnlineSlot]
    readers: Sequence[AnyReader]
    mirrored: Sequence[Mirrored | None]

    @classmethod
    def of(
        cls,
        store: Store,
        views: str | Views,
        *,
        rows: ArrayLike | None,
        where: str | None,
        verify: Verify,
        make: MakeReader,
    ) -> StoreShare:
        """Return the share of `store` for `views`. Raises ConfigError: they do not fit it."""
        if isinstance(views, str):
            views = parse_views(views, list(store.view_sets))
        cached, online = resolve(views, store)
        shown = [each.name for group in cached for each in group.view_sets]
        return cls(
            store=store,
            kept=kept_rows(store, rows, where, shown),
            source=SourceReader(store.table, verify=verify),
            cached=cached,
            online=online,
            readers=[reader_of(group.view_set, make) for group in cached],
            mirrored=[
                mirrored_by_view(store, group.view_set) if any(group.then) else None
                for group in cached
            ],
        )

    @property
    def num_rows(self) -> int:
        """Rows it goes through."""
        return self.store.num_samples if self.kept is None else len(self.kept)

    def flipped_readers(self) -> list[tuple[CachedReader, bool]]:
        """Return the readers of single view sets, and whether flips of their views are asked."""
        pairs = zip(self.cached, self.readers, strict=True)
        return [(one, any(group.then)) for group, reader in pairs for one in parts_of(reader)]

    @property
    def roles(self) -> tuple[str, ...]:
        """Role of each slot's views."""
        roles = {slot.slot: slot.policy.role for slot in self.online}
        for group in self.cached:
            roles |= dict(zip(group.slots, group.roles, strict=True))
        return tuple(roles[slot] for slot in range(len(roles)))

    def maker(self, *, seed: int, order: RowOrder, scaled: bool, common: Common) -> BatchMaker:
        """Return what makes its batches."""
        table = self.store.table
        return BatchMaker(
            order=order,
            kept=self.kept,
            seed=seed,
            cached=list(zip(self.cached, self.readers, strict=True)),
            mirrored=list(self.mirrored),
            online=OnlineViews(
                self.online,
                self.source,
                table.height,
                table.width,
                scaled=scaled,
                clock=common["clock"],
            ),
            labels=self.store.labels,
            **common,
        )

    def close(self) -> None:
        """Forget what is mapped."""
        for reader in self.readers:
            reader.close()


def shares_of(
    stores: Sequence[Store],
    views: str | Views,
    *,
    rows: Any,  # noqa: ANN401
    where: str | None,
    verify: Verify,
    make: MakeReader,
) -> list[StoreShare]:
    """Return the share of each store; `rows` are those of each, or None.

    Raises:
        ConfigError: There is no store, the views do not fit one, or there are rows for another
            number of stores.
    """
    if not stores:
        raise ConfigError("there must be at least one store")
    rows = [None] * len(stores) if rows is None else list(rows)
    if len(rows) != len(stores):
        raise ConfigError(f"rows must be one for each of {len(stores)} stores, got {len(rows)}")
    return [
        StoreShare.of(store, views, rows=mine, where=where, verify=verify, make=make)
        for store, mine in zip(stores, rows, strict=True)
    ]


def share_caches(
    shares: Sequence[StoreShare],
    order: Order,
    *,
    world_size: int,
    rates: Sequence[float] | None,
) -> None:
    """Share the cache between remote view sets, and have shards read by ranges where it is better.

    `rates` are as ViewLoader has them.
    """
    sharing = sum(one.view_set.remote for share in shares for one, _ in share.flipped_readers())
    for share, rate in zip(shares, rates or [1.0], strict=True):
        for group, reader in zip(share.cached, share.readers, strict=True):
            weights = group.view_set.weights if isinstance(group.view_set, MixedViews) else (1.0,)
            for one, weight in zip(parts_of(reader), weights, strict=True):
                if not one.view_set.remote:
                    continue
                ranged = ranged_shards(
                    one.view_set,
                    order,
                    share.kept,
                    slots=weight * len(group.slots),
                    world_size=world_size,
                    rate=rate,
                    sharing=sharing,
                )
                one.share_cache(sharing, ranged=ranged)
