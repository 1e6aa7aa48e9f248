"""ViewLoader: batches of cached and online views in a keyed order, resumable anywhere."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from viewstore.errors import ConfigError
from viewstore.files.crc_checks import Verify
from viewstore.loaders.batches.maker import (
    BatchMaker,
    Common,
    OnCorrupt,
    Photometric,
    StoreShare,
    share_caches,
    shares_of,
)
from viewstore.loaders.batches.several import SeveralMaker
from viewstore.loaders.pipeline.buffers import BufferPool
from viewstore.loaders.pipeline.clock import Clock
from viewstore.loaders.pipeline.pipeline import Course, Pipeline
from viewstore.loaders.plan.asked import Views
from viewstore.loaders.plan.cut import Cut, Tail, find_rank
from viewstore.loaders.plan.order import Order
from viewstore.loaders.plan.rows import SeveralRows, check_rates, per_epoch, store_seed
from viewstore.loaders.plan.schedule import Missing
from viewstore.loaders.plan.slots import views_digest
from viewstore.loaders.plan.state import State, rows_digest, stores_digest
from viewstore.loaders.read.reader import CachedReader
from viewstore.loaders.read.resident import MEMORY_SHARE, keep_resident, machine_bytes
from viewstore.store.store import Store

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from viewstore.loaders.batches.batch import Batch

PREFETCH_BYTES = 1 << 30
SEEDS = 1 << 53
DISPLACEMENT_SAMPLES = 16_384


class ViewLoader:
    """Iterates over one epoch at a time; `for batch in loader` goes on where the loader stands.

    The batches are a function of store, views, seed, epoch and batch_size: threads, prefetch
    and the number of ranks change nothing but who reads what. Use it as a context manager, or
    close it, to join its threads.
    """

    def __init__(
        self,
        store: Store | Sequence[Store],
        views: str | Views,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: str = "global",
        rates: Sequence[float] | None = None,
        rows: ArrayLike | Sequence[ArrayLike | None] | None = None,
        where: str | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        uneven: bool = False,
        num_threads: int | None = None,
        prefetch: int = 3,
        verify: Verify = "first",
        missing: Missing = "raise",
        tail: Tail = "drop",
        on_corrupt: OnCorrupt = "raise",
        resident: bool | Literal["auto"] = "auto",
        reuse: bool = False,
        scaled_decode: bool = False,
        pin: bool = False,
        device: str | torch.device = "cpu",
        photometric: Photometric = "cpu",
    ) -> None:
        """Prepare to read `store`; no pixel is touched yet.

        Args:
            store: The store, of viewstore.open, or several: batch.index counts through their
                rows, `store_rows` turns it into stores and rows.
            views: Cached, Online and Mix views, or their short form, "simclr,simclr,w-search".
            batch_size: Samples per step over ALL ranks.
            seed: Seed of order, draws and view schedule, below 2^53.
            shuffle: "global", "block:B" (windows of B shards) or "none".
            rates: Share of the rows of each of several stores that an epoch has; 1 where it is
                None. What an epoch leaves out, the next ones have.
            rows: Only these rows, ascending; None means all. One of each for several stores.
            where: Only rows that match, such as "distance < 0.35 and label in ['cat', 'dog']";
                the grammar is that of viewstore.store.where. With `rows`, those in both.
            rank: This rank. None: RANK of the environment, else of torch.distributed, else 0.
            world_size: Ranks; None as for `rank`. Giving one of the two is an error.
            uneven: Let the first ranks take one sample more; batch.weight makes up for it.
            num_threads: Threads of the pool; 0 works in the caller's thread, None takes the
                CPUs that the process may use.
            prefetch: Batches made ahead, at most 1 GiB; of small ones that are copied as they
                are stored, eight times as many, which share memory by eight.
            verify: Check CRCs, of source images too, at the "first" touch, "always", or "off".
            missing: Views that were not made: "raise", "fallback" (show what is stored) or
                "resample" (another view of the sample).
            tail: A short last step: "drop", "pad" or "keep" (evaluation).
            on_corrupt: "raise" at the batch of a damaged sample, or "quarantine" it: its views
                are black, it is not valid, and stats() counts it.
            resident: Copy raw view sets into memory: "auto" does, in the background, while they
                take no more than a quarter of it; several ranks of a host share one file in the
                cache.
            reuse: Fill the same few buffers again and again: pixels hold until the next batch
                is asked for. Else they belong to the caller for as long as he wants.
            scaled_decode: Decode a JPEG at a half, a quarter or an eighth where every crop of it
                is that much larger than its view; it changes pixels.
            pin: Put pixels into pinned memory.
            device: Where pixels, index, label and valid are handed over.
            photometric: Where colours of online views are made: on the "cpu" with Pillow, or for
                whole batches on the "device" from the same params. Both give the same pixels.

        Raises:
            ConfigError: Settings that contradict each other or the store.
            UnavailableError: Pinned memory or a device that this machine does not have.
        """
        _check_choice("missing", missing, ("raise", "fallback", "resample"))
        _check_choice("photometric", photometric, ("cpu", "device"))
        _check_choice("on_corrupt", on_corrupt, ("raise", "quarantine"))
        if not 0 <= seed < SEEDS:
            raise ConfigError(f"seed must be in [0, 2^53), got {seed}")
        if prefetch < 1:
            raise ConfigError(f"prefetch must be at least 1, got {prefetch}")
        several = isinstance(store, Sequence)
        stores: Sequence[Store] = store if isinstance(store, Sequence) else [store]
        self._rates = check_rates(rates, len(stores), shuffle) if several else None
        if rates is not None and not several:
            raise ConfigError(f"rates are for several stores, got {list(rates)} for one")
        rank, world_size = find_rank(rank, world_size)
        memory = machine_bytes()
        self._clock = clock = Clock()
        self._shares = shares_of(
            stores,
            views,
            rows=rows if several else [rows],
            where=where,
            verify=verify,
            make=lambda each: CachedReader(
                each, verify=verify, mapped=each.num_bytes < memory, clock=clock
            ),
        )
        sizes = [share.num_rows for share in self._shares]
        num_rows = sum(sizes if self._rates is None else map(per_epoch, sizes, self._rates))
        self._order = Order(
            shuffle=shuffle,
            num_rows=num_rows,
            seed=seed,
            shard_rows=self._shares[0].store.shard_rows,
        )
        self._cut = Cut(
            num_rows=num_rows,
            global_batch=batch_size,
            tail=tail,
            rank=rank,
            world_size=world_size,
            uneven=uneven,
        )
        self._threads = len(os.sched_getaffinity(0)) if num_threads is None else num_threads
        readers = [pair for share in self._shares for pair in share.flipped_readers()]
        share_caches(self._shares, self._order, world_size=world_size, rates=self._rates)
        if resident != "auto" or self._threads:  # without threads the caller would wait for it
            ranks = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
            keep_resident(readers, resident, ranks=ranks)
        self._announces = any(
            reader.resident is None and reader.view_set.num_bytes > memory * MEMORY_SHARE
            for reader, _ in readers
        )
        self._missing, self._on_corrupt = missing, on_corrupt
        self._photometric = photometric
        self._reuse, self._pin, self._scaled = reuse, pin, scaled_decode
        self._device = _find_device(device, pin=pin)
        self._most_ahead = prefetch
        self._pid = os.getpid()
        self._closed = False
        self._epoch = self._step = 0
        self._moves = 0
        self._restart(seed)

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to, or that is being iterated."""
        return self._epoch

    @property
    def step(self) -> int:
        """The next step of that epoch."""
        return self._step

    @property
    def roles(self) -> tuple[str, ...]:
        """Role of each slot's views."""
        by_store = [share.roles for share in self._shares]
        return tuple(
            roles[0] if len(set(roles)) == 1 else "mixed" for roles in zip(*by_store, strict=True)
        )

    def store_rows(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return for each entry of batch.index the number of its store and its row there."""
        import torch

        counts = [share.store.num_samples for share in self._shares]
        starts = torch.tensor([0, *counts[:-1]]).cumsum(0)
        store = torch.searchsorted(starts, index.cpu(), right=True) - 1
        return store, index.cpu() - starts[store]

    def __len__(self) -> int:
        """Return the steps of an epoch, the same on every rank."""
        return self._cut.steps

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over the rest of the current epoch: all of it, unless it was left early.

        Raises:
            ConfigError: The loader was closed, belongs to another process, or was moved or
                iterated anew while this iterator was in use.
            FormatError: A view or a source image is damaged; raised at its batch.
        """
        self._check_usable()
        self._settle()
        self._moves += 1
        return self._iterate(self._moves)

    def _iterate(self, move: int) -> Iterator[Batch]:
        given = 0.0
        for _ in range(self._step, self._cut.steps):
            if move != self._moves:
                raise ConfigError("loader was moved while it was iterated; begin a new loop")
            asked = time.perf_counter()
            away = asked - given if given else 0.0
            batch = self._course.next(self._epoch, self._step)
            self._step = batch.step + 1
            delivered = self._delivered(batch)
            given = time.perf_counter()
            self._clock.add(wait_seconds=given - asked, away_seconds=away)
            yield delivered
        self._clock.add(away_seconds=time.perf_counter() - given)
        self._settle()

    def positions(self, step: int) -> range:
        """Return the positions of a step that this rank reads; those from n on are padding."""
        return self._cut.span(step)

    def batch(self, epoch: int, step: int) -> Batch:
        """Make one batch, whatever its place; the loader stays where it stands."""
        self._check_usable()
        self._check_place(epoch, step, self._cut.steps - 1)
        (batch,) = self._pipeline.run([(epoch, step)])
        return self._delivered(batch)

    def _delivered(self, batch: Batch) -> Batch:
        self._clock.add(samples=len(batch), bytes=len(batch) * self._sample_bytes)
        if self._on_corrupt == "quarantine":
            sound = int(np.count_nonzero(batch.valid.numpy()))
            due = int(np.count_nonzero(self._cut.positions(batch.step)[1]))
            self._clock.add(corrupt_samples=due - sound)
        if self._device is None and self._photometric == "cpu":
            return batch
        return batch.to(self._device or "cpu")

    def state_dict(self) -> dict[str, Any]:
        """Return what resumes after the last batch that was handed over; < 200 bytes of JSON."""
        state = self._state().at(self._epoch, self._step, steps=self._cut.steps)
        return state.to_json()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, of any number of ranks and threads; its seed is taken over.

        Raises:
            ConfigError: It is of another store, order, batch_size, tail or row filter.
        """
        saved = State.from_json(state)
        self._state().check_resumes(saved)
        if saved.step >= self._cut.steps:
            raise ConfigError(
                f"loader state is at step {saved.step}, an epoch has {self._cut.steps}"
            )
        self.seek(saved.epoch, saved.step)
        if saved.seed != self._order.seed:
            self._pipeline.close()
            self._restart(saved.seed)

    def seek(self, epoch: int, step: int = 0) -> None:
        """Make (epoch, step) the next batch. Costs nothing, wherever it is."""
        self._check_place(epoch, step, self._cut.steps)
        self._move()
        self._epoch, self._step = epoch, step
        self._settle()

    def set_epoch(self, epoch: int) -> None:
        """Begin `epoch`; within it already, stay where it stands, so that a resume is kept."""
        if epoch != self._epoch:
            self.seek(epoch)

    def stats(self) -> dict[str, float]:
        """Return totals since the loader was made: seconds by kind, samples, bytes.

        The seconds of work add up over threads, batches made ahead included:

        - `plan_seconds`: deciding what a batch shows.
        - `fetch_seconds`: until bytes are at hand and checked: opening shards, waiting for their
          download, reading ranges and source files, first checks of members.
        - `decode_seconds`: of encoded cached views and of source images.
        - `copy_seconds`: gathering raw views, with their flips; joining those of a Mix or of
          several stores.
        - `render_seconds`: crops, flips and colours of online views and of `then`.

        `wait_seconds` is what loops over the loader waited for batches, `away_seconds` what they
        did between them, `wait_share` the share of both that was waiting. `samples`, `bytes` (of
        pixels) and `corrupt_samples` count what was handed over. `displacement` is the mean way
        of a row from its place, 1/3 is ideal.

        For remote stores `cache_hits` says how often a shard was opened that was in the cache,
        `cache_misses` how often one was fetched whole, `fetched_bytes` what came of all files:
        since the store was opened, for every loader of this process that reads the same object.
        """
        positions = np.linspace(0, self._cut.num_rows - 1, DISPLACEMENT_SAMPLES).astype(np.int64)
        moved = np.abs(self._order.rows(positions, self._epoch) - positions)
        return {
            **self._clock.totals,
            "wait_share": self._clock.wait_share,
            **self._traffic(),
            "threads": self._threads,
            "prefetch": self._prefetch,
            "displacement": float(moved.mean() / self._cut.num_rows),
        }

    def _traffic(self) -> dict[str, float]:
        caches = [share.store.files.cache for share in self._shares]
        remote = {cache.traffic for cache in caches if cache is not None}
        if not remote:
            return {}
        return {
            "cache_hits": sum(each.hits for each in remote),
            "cache_misses": sum(each.misses for each in remote),
            "fetched_bytes": sum(each.fetched_bytes for each in remote),
        }

    def close(self) -> None:
        """Drop what is under way and join the threads; the loader is of no use after that."""
        self._closed = True
        self._move()
        self._pipeline.close()
        for share in self._shares:
            share.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _restart(self, seed: int) -> None:
        """Set up the order, the maker and the threads for a seed."""
        self._order = replace(self._order, seed=seed)
        self._pool = BufferPool(reuse=self._reuse, pin=self._pin)
        self._maker = self._make_maker(seed)
        share = -(-self._cut.global_batch // self._cut.world_size)
        self._sample_bytes = sum(h * w * c for h, w, c in self._maker.slot_shapes())
        batch_bytes = share * self._sample_bytes * self._maker.together
        self._prefetch = max(1, min(self._most_ahead, PREFETCH_BYTES // max(1, batch_bytes)))
        self._pool.expect(self._prefetch)
        self._pipeline = Pipeline(self._maker, threads=self._threads, prefetch=self._prefetch)
        ahead = self._prefetch * self._maker.together
        self._course = Course(self._pipeline, steps=self._cut.steps, ahead=ahead)

    def _make_maker(self, seed: int) -> BatchMaker | SeveralMaker:
        common: Common = {
            "cut": self._cut,
            "missing": self._missing,
            "on_corrupt": self._on_corrupt,
            "announces": self._announces,
            "photometric": self._photometric,
            "pool": self._pool,
            "state": self._state(),
            "clock": self._clock,
        }
        make = partial(StoreShare.maker, order=self._order, scaled=self._scaled, common=common)
        if self._rates is None:
            return make(self._shares[0], seed=seed)
        return SeveralMaker(
            several=SeveralRows(
                order=self._order,
                rates=self._rates,
                kept=tuple(share.kept for share in self._shares),
                counts=tuple(share.store.num_samples for share in self._shares),
            ),
            cut=self._cut,
            makers=[
                make(share, seed=store_seed(seed, number))
                for number, share in enumerate(self._shares)
            ],
            state=common["state"],
            pool=common["pool"],
            clock=common["clock"],
        )

    def _move(self) -> None:
        """Drop what was made ahead, and whoever iterates."""
        self._moves += 1
        self._course.drop()

    def _settle(self) -> None:
        """The end of an epoch is the start of the next one."""
        if self._step >= self._cut.steps:
            self._epoch, self._step = self._epoch + 1, 0

    def _state(self) -> State:
        """Return the state at the start of epoch 0."""
        return State(
            store=stores_digest([share.store.store_id for share in self._shares]),
            order=self._order.name,
            seed=self._order.seed,
            epoch=0,
            step=0,
            G=self._cut.global_batch,
            tail=self._cut.tail,
            rows=rows_digest([share.kept for share in self._shares], self._rates),
            views=views_digest(
                [(share.cached, share.online) for share in self._shares], scaled=self._scaled
            ),
        )

    def _check_place(self, epoch: int, step: int, last: int) -> None:
        if epoch < 0 or not 0 <= step <= last:
            raise ConfigError(
                f"a place must be an epoch >= 0 and a step in [0, {last}], got ({epoch}, {step})"
            )

    def _check_usable(self) -> None:
        if self._closed:
            raise ConfigError("loader was closed; make a new one")
        if os.getpid() != self._pid:
            raise ConfigError(
                "loader was made in another process: its threads are not in this one; "
                "make the loader after the fork"
            )


def _find_device(name: str | torch.device, *, pin: bool) -> torch.device | None:
    """Return the device that batches go to, None if they stay on the CPU."""
    if name == "cpu" and not pin:  # known without torch: BatchMaker says why that counts
        return None
    from viewstore.loaders.batches.batch import check_device

    device = check_device(name, pin=pin)
    return None if device.type == "cpu" else device


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
