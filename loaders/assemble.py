"""What a loader is wired from: the views of its stores, order, cut, makers and threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from viewstore.cores import usable_cores
from viewstore.errors import ConfigError
from viewstore.loaders.batches.maker import BatchMaker
from viewstore.loaders.batches.several import SeveralMaker
from viewstore.loaders.batches.store_views import StoreOrPath, StoreViews, opened
from viewstore.loaders.pipeline.buffers import BufferPool
from viewstore.loaders.pipeline.clock import Clock
from viewstore.loaders.pipeline.pipeline import EpochStream, Pipeline
from viewstore.loaders.plan.asked import AnyViews
from viewstore.loaders.plan.cut import Cut, find_rank, local_ranks
from viewstore.loaders.plan.order import Order
from viewstore.loaders.plan.rows import SeveralRows, check_rates, rows_per_epoch, store_seed
from viewstore.loaders.plan.slots import Slot, merged_slots, views_digest
from viewstore.loaders.plan.state import State, rows_digest, rows_id, stores_digest
from viewstore.loaders.read.memory import MEMORY_SHARE, keep_resident, machine_bytes
from viewstore.loaders.read.ranged import ranged_shards
from viewstore.loaders.read.set_reader import ViewSetReader
from viewstore.loaders.settings import LoaderSettings
from viewstore.store.store import Store

if TYPE_CHECKING:
    import torch

    from viewstore.loaders.batches.batch import Batch

PREFETCH_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Run:
    """What makes the batches of one seed.

    Attributes:
        order: Which row stands at which position.
        start: The loader's state at the start of epoch 0.
        maker: Makes batches.
        pipeline: Runs the maker on threads.
        stream: The batches of the pipeline, one epoch after another.
        prefetch: How many are made ahead, in groups of `maker.steps_at_once`.
        sample_bytes: Bytes of the pixels of a sample.
    """

    order: Order
    start: State
    maker: BatchMaker | SeveralMaker
    pipeline: Pipeline[Batch]
    stream: EpochStream[Batch]
    prefetch: int
    sample_bytes: int


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """What a loader is wired from, whatever its seed.

    Attributes:
        settings: The settings.
        stores: The views of each store.
        rates: Rate of each of several stores; None for one store.
        cut: The cut of an epoch into steps and ranks.
        threads: Threads of the pool.
        announce: Whether to have the operating system load what will be read.
        device: Where batches go; None: they stay on the CPU.
        clock: Totals of the loader.
    """

    settings: LoaderSettings
    stores: tuple[StoreViews, ...]
    rates: tuple[float, ...] | None
    cut: Cut
    threads: int
    announce: bool
    device: torch.device | None
    clock: Clock

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots of the loader."""
        slots = merged_slots([each.slots for each in self.stores])
        if self.settings.photometric != "caller":
            return slots
        return tuple(replace(slot, colourless=slot.number in self.late) for slot in slots)

    @property
    def late(self) -> frozenset[int]:
        """The slots whose colours the threads of the loader do not make."""
        if self.settings.photometric == "cpu":
            return frozenset()
        return frozenset.intersection(*(each.late for each in self.stores))

    def order(self, seed: int) -> Order:
        """Return the order of a seed."""
        (first, *_) = self.stores
        shard_rows = first.store.shard_rows
        sizes = None
        if first.selected is not None and self.rates is None:
            sizes = np.unique(first.selected // shard_rows, return_counts=True)[1]
        return Order(
            shuffle=self.settings.shuffle,
            num_rows=self.cut.num_rows,
            seed=seed,
            shard_rows=shard_rows,
            shard_sizes=sizes,
        )

    def run(self, seed: int) -> Run:
        """Return what makes the batches of a seed; no thread is started yet.

        Raises:
            ConfigError: Several stores show views of several sizes.
        """
        order = self.order(seed)
        start = self._start(order)
        pool = BufferPool(pin=self.settings.pin)
        maker = self._maker(order, start, pool)
        share = -(-self.cut.global_batch // self.cut.world_size)
        sample_bytes = sum(height * width * chans for height, width, chans in maker.shapes)
        group_bytes = share * sample_bytes * maker.steps_at_once
        prefetch = max(1, min(self.settings.prefetch, PREFETCH_BYTES // max(1, group_bytes)))
        pool.expect(prefetch)
        pipeline = Pipeline(maker, threads=self.threads, prefetch=prefetch)
        return Run(
            order=order,
            start=start,
            maker=maker,
            pipeline=pipeline,
            stream=EpochStream(
                pipeline, steps=self.cut.steps, ahead=prefetch * maker.steps_at_once
            ),
            prefetch=prefetch,
            sample_bytes=sample_bytes,
        )

    def close(self) -> None:
        """Close what is open of the stores."""
        for each in self.stores:
            each.close()

    def _start(self, order: Order) -> State:
        """Return the state of a loader at the start of epoch 0."""
        return State(
            store=stores_digest(
                [rows_id(each.store.table, each.store.shard_rows) for each in self.stores]
            ),
            order=order.name,
            seed=order.seed,
            epoch=0,
            step=0,
            G=self.cut.global_batch,
            tail=self.cut.tail,
            rows=rows_digest([each.selected for each in self.stores], self.rates),
            views=views_digest(
                [(each.cached, each.rendered) for each in self.stores],
                scaled=self.settings.scaled_decode,
            ),
        )

    def _maker(self, order: Order, start: State, pool: BufferPool) -> BatchMaker | SeveralMaker:
        make = partial(
            BatchMaker,
            order=order,
            cut=self.cut,
            missing=self.settings.missing,
            on_corrupt=self.settings.on_corrupt,
            announce=self.announce,
            pool=pool,
            late=self.late,
            wants=self.settings.wants,
            state=start,
            clock=self.clock,
        )
        if self.rates is None:
            return make(views=self.stores[0], seed=order.seed)
        return SeveralMaker(
            several=SeveralRows(
                order=order,
                rates=self.rates,
                selected=tuple(each.selected for each in self.stores),
                counts=tuple(each.store.num_samples for each in self.stores),
            ),
            cut=self.cut,
            makers=[
                make(views=each, seed=store_seed(order.seed, number))
                for number, each in enumerate(self.stores)
            ],
            state=start,
            pool=pool,
            clock=self.clock,
        )


def assemble(
    store: StoreOrPath | Sequence[StoreOrPath], views: AnyViews, settings: LoaderSettings
) -> Assembly:
    """Return what a loader over one store, or several, is wired from; no pixel is read.

    Raises:
        ConfigError: Settings that contradict each other or the stores, or there is no store.
        UnavailableError: Pinned memory or a device that this machine does not have.
    """
    stores, several = opened(store)
    rates = check_rates(settings.rates, len(stores), settings.shuffle) if several else None
    if settings.rates is not None and not several:
        raise ConfigError(f"rates are for several stores, got {list(settings.rates)} for one")
    rank, world_size = find_rank(settings.rank, settings.world_size)
    memory = machine_bytes()
    clock = Clock()
    store_views = _open(
        stores, views, settings.rows if several else [settings.rows], settings, memory, clock
    )
    _check_links(store_views, settings)
    sizes = [each.num_rows for each in store_views]
    cut = Cut(
        num_rows=sum(sizes if rates is None else map(rows_per_epoch, sizes, rates)),
        global_batch=settings.batch_size,
        tail=settings.tail,
        rank=rank,
        world_size=world_size,
        uneven=settings.uneven,
    )
    threads = settings.num_threads
    found = Assembly(
        settings=settings,
        stores=tuple(store_views),
        rates=rates,
        cut=cut,
        threads=usable_cores() if threads is None else threads,
        announce=False,
        device=_find_device(settings.device, pin=settings.pin),
        clock=clock,
    )
    _divide_cache(found)
    readers = [
        (part, any(slots.then))
        for each in store_views
        for slots, part, _ in each.set_readers
        if isinstance(part, ViewSetReader)  # others render their views
    ]
    if settings.resident != "auto" or found.threads:  # without threads the caller would wait for it
        keep_resident(readers, settings.resident, ranks=local_ranks(world_size))
    announce = any(
        part.resident is None and part.view_set.num_bytes > memory * MEMORY_SHARE
        for part, _ in readers
    )
    return replace(found, announce=announce)


def _open(
    stores: Sequence[Store],
    views: AnyViews,
    rows: Any,  # noqa: ANN401
    settings: LoaderSettings,
    memory: int,
    clock: Clock,
) -> list[StoreViews]:
    """Return the views of each store; `rows` are those of each, or None.

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
        StoreViews.open(
            store,
            views,
            rows=selected,
            where=settings.where,
            verify=settings.verify,
            scaled_decode=settings.scaled_decode,
            # A read call for each view is faster where the set is larger than the memory.
            make_reader=lambda each: ViewSetReader(
                each, verify=settings.verify, mapped=each.num_bytes < memory, clock=clock
            ),
            clock=clock,
        )
        for store, selected in zip(stores, rows, strict=True)
    ]


def _check_links(store_views: Sequence[StoreViews], settings: LoaderSettings) -> None:
    """Raise ConfigError if views are to be rendered on pixels that have no colours yet."""
    for slot in (slot for each in store_views for slot in each.linked):
        if settings.photometric == "device":
            raise ConfigError(
                f"on={slot.on} needs photometric='cpu'",
                why="on the device the colours of a slot come after all that is rendered on it",
            )


def _divide_cache(assembly: Assembly) -> None:
    """Divide the cache between remote view sets, and choose their shards to read by ranges."""
    remote = [
        (store, rate, *found)
        for store, rate in zip(
            assembly.stores, assembly.rates or [1.0] * len(assembly.stores), strict=True
        )
        for found in store.set_readers
        if found[1].view_set.remote and isinstance(found[1], ViewSetReader)
    ]
    order = assembly.order(assembly.settings.seed)
    for store, rate, slots, part, weight in remote:
        assert isinstance(part, ViewSetReader), "others were left out"
        ranged = ranged_shards(
            part.view_set,
            order,
            store.selected,
            slots=weight * len(slots.slots),
            world_size=assembly.cut.world_size,
            rate=rate,
            remote_sets=len(remote),
        )
        part.divide_cache(len(remote), ranged=ranged)


def _find_device(name: str | torch.device, *, pin: bool) -> torch.device | None:
    """Return the device that batches go to, None if they stay on the CPU."""
    if name == "cpu" and not pin:  # known without torch: BatchMaker says why that counts
        return None
    from viewstore.loaders.batches.batch import check_device

    device = check_device(name, pin=pin)
    return None if device.type == "cpu" else device
