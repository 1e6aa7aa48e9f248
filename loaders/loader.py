"""ViewLoader: batches of cached and online views in a keyed order, resumable anywhere."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from viewstore.errors import ConfigError, UnavailableError
from viewstore.loaders.batch import Batch
from viewstore.loaders.choose import Missing
from viewstore.loaders.maker import BatchMaker, EpochRows
from viewstore.loaders.order import Cut, Order, Tail
from viewstore.loaders.pipeline import Pipeline
from viewstore.loaders.ranges import ranged_shards
from viewstore.loaders.reader import CachedReader, Verify
from viewstore.loaders.state import STORE_DIGITS, State, rows_digest
from viewstore.loaders.transform import OnlineViews
from viewstore.loaders.views import Views, parse_views, resolve, views_digest
from viewstore.store import Store

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
        store: Store,
        views: str | Views,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: str = "global",
        rows: ArrayLike | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        uneven: bool = False,
        num_threads: int | None = None,
        prefetch: int = 3,
        verify: Verify = "first",
        missing: Missing = "raise",
        tail: Tail = "drop",
        pin: bool = False,
        device: str | torch.device = "cpu",
    ) -> None:
        """Prepare to read `store`; no pixel is touched yet.

        Args:
            store: The store, of viewstore.open.
            views: Cached and Online views, or their short form, "simclr,simclr,w-search".
            batch_size: Samples per step over ALL ranks.
            seed: Seed of order, draws and view schedule, below 2^53.
            shuffle: "global", "block:B" (windows of B shards) or "none".
            rows: Only these rows, ascending; None means all.
            rank: This rank. None: RANK of the environment, else of torch.distributed, else 0.
            world_size: Ranks; None as for `rank`. Giving one of the two is an error.
            uneven: Let the first ranks take one sample more; batch.weight makes up for it.
            num_threads: Threads of the pool; 0 works in the caller's thread, None takes the
                CPUs that the process may use.
            prefetch: Batches made ahead, at most 1 GiB.
            verify: Check a member's CRC at its "first" touch, "always", or "off".
            missing: Views that were not made: "raise", "fallback" (show what is stored) or
                "resample" (another view of the sample).
            tail: A short last step: "drop", "pad" or "keep" (evaluation).
            pin: Put pixels into pinned memory.
            device: Where pixels, index, label and valid are handed over.

        Raises:
            ConfigError: Settings that contradict each other or the store.
            UnavailableError: Pinned memory or a device that this machine does not have.
        """
        _check_choice("missing", missing, ("raise", "fallback", "resample"))
        if not 0 <= seed < SEEDS:
            raise ConfigError(f"seed must be in [0, 2^53), got {seed}")
        if prefetch < 1:
            raise ConfigError(f"prefetch must be at least 1, got {prefetch}")
        if isinstance(views, str):
            views = parse_views(views, list(store.view_sets))
        rank, world_size = find_rank(rank, world_size)
        self._store = store
        self._kept = _kept_rows(rows, store.num_samples)
        num_rows = store.num_samples if self._kept is None else len(self._kept)
        self._order = Order(
            shuffle=shuffle, num_rows=num_rows, seed=seed, shard_rows=store.shard_rows
        )
        self._cut = Cut(
            num_rows=num_rows,
            global_batch=batch_size,
            tail=tail,
            rank=rank,
            world_size=world_size,
            uneven=uneven,
        )
        self._cached, self._online = resolve(views, store)
        self._readers = [
            CachedReader(
                group.view_set,
                verify=verify,
                ranged=ranged_shards(
                    group.view_set,
                    self._order,
                    self._kept,
                    slots=len(group.slots),
                    world_size=world_size,
                ),
            )
            for group in self._cached
        ]
        self._views_digest = views_digest(self._cached, self._online)
        self._missing, self._pin = missing, pin
        self._device = _check_device(device, pin=pin)
        self._threads = len(os.sched_getaffinity(0)) if num_threads is None else num_threads
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
    def roles(self) -> tuple[str, ...]:
        """Role of each slot's views."""
        roles = {slot.slot: slot.policy.role for slot in self._online}
        for group in self._cached:
            common = set(group.view_set.roles)
            role = common.pop() if len(common) == 1 else "mixed"
            roles |= dict.fromkeys(group.slots, role)
        return tuple(roles[slot] for slot in range(len(roles)))

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
        steps = ((self._epoch, step) for step in range(self._step, self._cut.steps))
        batches = self._pipeline.run(steps)
        try:
            for batch in batches:
                if move != self._moves:
                    raise ConfigError("loader was moved while it was iterated; begin a new loop")
                self._step = batch.step + 1
                yield batch if self._device.type == "cpu" else batch.to(self._device)
        finally:
            batches.close()  # type: ignore[attr-defined]
        self._settle()

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
        if saved.seed != self._order.seed:
            self._pipeline.close()
            self._restart(saved.seed)
        self.seek(saved.epoch, saved.step)

    def seek(self, epoch: int, step: int = 0) -> None:
        """Make (epoch, step) the next batch. Costs nothing, wherever it is."""
        if epoch < 0 or not 0 <= step <= self._cut.steps:
            raise ConfigError(
                f"seek must go to an epoch >= 0 and a step in [0, {self._cut.steps}], "
                f"got ({epoch}, {step})"
            )
        self._moves += 1
        self._epoch, self._step = epoch, step
        self._settle()

    def set_epoch(self, epoch: int) -> None:
        """Begin `epoch`; within it already, stay where it stands, so that a resume is kept."""
        if epoch != self._epoch:
            self.seek(epoch)

    def stats(self) -> dict[str, float]:
        """Return totals since the loader was made: seconds by kind, samples, bytes.

        Seconds of planning, reading and rendering add up over threads; `wait_seconds` is the
        caller's. `displacement` is the mean way of a row from its place, 1/3 is ideal.
        """
        positions = np.linspace(0, self._cut.num_rows - 1, DISPLACEMENT_SAMPLES).astype(np.int64)
        moved = np.abs(self._order.rows(positions, self._epoch) - positions)
        return {
            **self._maker.clock.totals,
            "threads": self._threads,
            "prefetch": self._prefetch,
            "displacement": float(moved.mean() / self._cut.num_rows),
        }

    def close(self) -> None:
        """Drop what is under way and join the threads; the loader is of no use after that."""
        self._closed = True
        self._moves += 1
        self._pipeline.close()
        for reader in self._readers:
            reader.close()

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
        table = self._store.table
        self._maker = BatchMaker(
            rows=EpochRows(self._order, self._cut, self._kept),
            cut=self._cut,
            seed=seed,
            cached=list(zip(self._cached, self._readers, strict=True)),
            online=OnlineViews(
                self._online, partial(_read_source, self._store), table.height, table.width
            ),
            labels=self._store.labels,
            missing=self._missing,
            pin=self._pin,
            state=self._state(),
        )
        share = -(-self._cut.global_batch // self._cut.world_size)
        batch_bytes = share * sum(h * w * c for h, w, c in self._maker.slot_shapes())
        self._prefetch = max(1, min(self._most_ahead, PREFETCH_BYTES // max(1, batch_bytes)))
        self._pipeline = Pipeline(self._maker, threads=self._threads, prefetch=self._prefetch)

    def _settle(self) -> None:
        """The end of an epoch is the start of the next one."""
        if self._step >= self._cut.steps:
            self._epoch, self._step = self._epoch + 1, 0

    def _state(self) -> State:
        """Return the state at the start of epoch 0."""
        return State(
            store=self._store.store_id[:STORE_DIGITS],
            order=self._order.name,
            seed=self._order.seed,
            epoch=0,
            step=0,
            G=self._cut.global_batch,
            tail=self._cut.tail,
            rows=rows_digest(self._kept),
            views=self._views_digest,
        )

    def _check_usable(self) -> None:
        if self._closed:
            raise ConfigError("loader was closed; make a new one")
        if os.getpid() != self._pid:
            raise ConfigError(
                "loader was made in another process: its threads are not in this one; "
                "make the loader after the fork"
            )


def find_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return rank and world size: as given, else RANK and WORLD_SIZE, else torch.distributed.

    Raises:
        ConfigError: One of the two is there without the other, or is no number.
    """
    if rank is not None and world_size is not None:
        return rank, world_size
    if rank is not None or world_size is not None:
        raise ConfigError(
            "rank and world_size must be given together, "
            f"got rank {rank} and world_size {world_size}"
        )
    given = [os.environ.get("RANK"), os.environ.get("WORLD_SIZE")]
    if given == [None, None]:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1
    values = [int(text) for text in given if text is not None and text.isdecimal()]
    if len(values) != 2:
        raise ConfigError(
            "the environment must have RANK and WORLD_SIZE as numbers, or neither, "
            f"got RANK {given[0]!r} and WORLD_SIZE {given[1]!r}"
        )
    return values[0], values[1]


def _read_source(store: Store, row: int) -> NDArray[np.uint8]:
    return store.source.image(row)


def _kept_rows(rows: ArrayLike | None, num_samples: int) -> NDArray[np.int64] | None:
    if rows is None:
        return None
    kept = np.asarray(rows)
    if kept.ndim != 1 or not len(kept) or kept.dtype.kind not in "iu":
        raise ConfigError("rows must be a non-empty, one-dimensional array of row numbers")
    kept = kept.astype(np.int64)
    if (np.diff(kept) <= 0).any() or kept[0] < 0 or kept[-1] >= num_samples:
        raise ConfigError(f"rows must be ascending, distinct and in [0, {num_samples})")
    return kept


def _check_device(name: str | torch.device, *, pin: bool) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device must be one that torch knows, got {name!r}") from error
    if (pin or device.type == "cuda") and not torch.cuda.is_available():
        wanted = "pin=True" if pin else f"device {name}"
        raise UnavailableError(
            f"{wanted} needs a CUDA device, torch finds none", fix="pass device='cpu', pin=False"
        )
    return device


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
