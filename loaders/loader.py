"""ViewLoader: batches of cached and online views in a keyed order, resumable anywhere."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

import numpy as np

from viewstore.errors import ConfigError
from viewstore.loaders.assemble import assemble
from viewstore.loaders.batches.store_views import StoreOrPath
from viewstore.loaders.plan.asked import AnyViews
from viewstore.loaders.plan.cut import check_found_rank
from viewstore.loaders.plan.numbers import PLACES, whole_number
from viewstore.loaders.plan.slots import Slot
from viewstore.loaders.plan.state import State
from viewstore.loaders.settings import LoaderArguments, LoaderSettings

if TYPE_CHECKING:
    from torch import Tensor

    from viewstore.loaders.batches.batch import Batch

DISPLACEMENT_SAMPLES = 16_384


class ViewLoader:
    """Iterates over one epoch at a time; `for batch in loader` goes on where the loader stands.

    The batches are a function of store, views, seed, epoch and batch_size: threads, prefetch
    and the number of ranks change nothing but who reads what. Use it as a context manager, or
    close it, to join its threads.
    """

    def __init__(
        self,
        store: StoreOrPath | Sequence[StoreOrPath],
        views: AnyViews,
        **settings: Unpack[LoaderArguments],
    ) -> None:
        """Prepare to read `store`; no pixel is touched yet.

        Args:
            store: The store, or its path or URL, or several in a list: batch.index counts through
                their rows, `store_rows` turns it into stores and rows.
            views: Cached, Online and Mix views, or their short form, "simclr,simclr,w-search".
            settings: The attributes of `LoaderSettings`, which says what each one does;
                batch_size must be given.

        Raises:
            ConfigError: Settings that contradict each other or the store.
            UnavailableError: Pinned memory or a device that this machine does not have.
        """
        self._assembly = assemble(store, views, LoaderSettings(**settings))
        self._settings = self._assembly.settings
        self._cut = self._assembly.cut
        self._clock = self._assembly.clock
        self._slots = self._assembly.slots
        self._pid = os.getpid()
        self._closed = False
        self._epoch = self._step = 0
        self._moves = 0
        self._run = self._assembly.run(self._settings.seed)

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to, or that is being iterated."""
        return self._epoch

    @property
    def step(self) -> int:
        """The next step of that epoch."""
        return self._step

    @property
    def slots(self) -> tuple[Slot, ...]:
        """What each view of a batch is: where it comes from, its role, size and params."""
        return self._slots

    @property
    def roles(self) -> tuple[str, ...]:
        """Role of each slot's views."""
        return tuple(slot.role for slot in self._slots)

    @property
    def num_rows(self) -> int:
        """Rows of an epoch over all ranks: those that a filter selects and that can be shown."""
        return self._cut.num_rows

    def store_rows(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the number of the store of each entry of batch.index, and its row there; [B]."""
        import torch

        counts = [each.store.num_samples for each in self._assembly.stores]
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
        delivered_at = 0.0
        for _ in range(self._step, self._cut.steps):
            if move != self._moves:
                raise ConfigError("loader was moved while it was iterated; begin a new loop")
            self._check_usable()
            began = time.perf_counter()
            away = began - delivered_at if delivered_at else 0.0
            batch = self._run.stream.next(self._epoch, self._step)
            self._step = batch.step + 1
            delivered = self._delivered(batch)
            delivered_at = time.perf_counter()
            self._clock.add(wait_seconds=delivered_at - began, away_seconds=away)
            yield delivered
        self._clock.add(away_seconds=time.perf_counter() - delivered_at)
        self._settle()

    def positions(self, step: int) -> range:
        """Return the positions of a step that this rank reads; those past the epoch are padding."""
        return self._cut.span(step)

    def batch(self, epoch: int, step: int) -> Batch:
        """Make the batch of any step; the loader stays where it stands."""
        self._check_usable()
        epoch, step = self._checked_place(epoch, step, self._cut.steps - 1)
        (batch,) = self._run.pipeline.run([(epoch, step)])
        return self._delivered(batch)

    def _delivered(self, batch: Batch) -> Batch:
        size = len(batch) * self._run.sample_bytes
        if self._settings.wants is not None:
            size = sum(view.pixels.nbytes for view in batch.views)
        self._clock.add(samples=len(batch), bytes=size)
        if self._settings.on_corrupt == "quarantine":
            sound = int(np.count_nonzero(batch.valid.numpy()))
            due = int(np.count_nonzero(self._cut.positions(batch.step)[1]))
            self._clock.add(corrupt_samples=due - sound)
        device, colours = self._assembly.device, self._settings.photometric == "device"
        if device is None and not colours:
            return batch
        return batch.to(device or "cpu", colours=colours)

    def state_dict(self) -> dict[str, Any]:
        """Return what resumes after the last batch that was delivered; < 200 bytes of JSON."""
        state = self._run.start.at(self._epoch, self._step, steps=self._cut.steps)
        return state.to_json()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, of any number of ranks and threads; its seed is taken over.

        Raises:
            ConfigError: It is of another store, order, batch_size, tail or row filter.
        """
        saved = State.from_json(state)
        self._run.start.check_resumes(saved)
        if saved.step > self._cut.steps:  # equal: the next epoch, as a sampler may have it
            raise ConfigError(
                f"loader state is at step {saved.step}, an epoch has {self._cut.steps}"
            )
        self.seek(saved.epoch, saved.step)
        if saved.seed != self._run.start.seed:
            self._run.pipeline.close()
            self._run = self._assembly.run(saved.seed)

    def seek(self, epoch: int, step: int = 0) -> None:
        """Make (epoch, step) the next batch. Raises ConfigError: there is no such step."""
        epoch, step = self._checked_place(epoch, step, self._cut.steps)
        self._move()
        self._epoch, self._step = epoch, step
        self._settle()

    def set_epoch(self, epoch: int) -> None:
        """Begin `epoch`; a loader within it stays where it stands, so that a resume holds."""
        if self._checked_place(epoch, 0, 0)[0] != self._epoch:
            self.seek(epoch)

    def stats(self) -> dict[str, float]:
        """Return totals since the loader was made: seconds by kind, samples, bytes.

        The seconds of work add up over threads, batches made ahead included:

        - `plan_seconds`: deciding what a batch shows.
        - `fetch_seconds`: until bytes are read and checked: opening shards, waiting for their
          download, reading ranges and source files, first checks of members.
        - `decode_seconds`: of encoded cached views and of source images.
        - `copy_seconds`: gathering raw views, with their flips; joining those of a Mix or of
          several stores.
        - `render_seconds`: crops, flips and colours of online views and of `then`.

        `wait_seconds` is what loops over the loader waited for batches, `away_seconds` what they
        did between them, `wait_share` the share of both that was waiting. `samples`, `bytes` (of
        pixels) and `corrupt_samples` count what was delivered. `displacement` is the mean distance
        of a row from its position without shuffling, as a share of the epoch; 1/3 is ideal.
        `left_out` counts the rows that no epoch has, for every view of theirs failed, or their
        source image was unreadable, when the store was built.

        For remote stores `cache_hits` counts the shards that were opened from the cache,
        `cache_misses` those that were downloaded, `fetched_bytes` the bytes of all files: since
        the store was opened, by every loader of this process that reads the same object.
        """
        positions = np.linspace(0, self._cut.num_rows - 1, DISPLACEMENT_SAMPLES).astype(np.int64)
        moved = np.abs(self._run.order.rows(positions, self._epoch) - positions)
        return {
            **self._clock.totals,
            "wait_share": self._clock.wait_share,
            **self._traffic(),
            "threads": self._assembly.threads,
            "prefetch": self._run.prefetch,
            "left_out": sum(each.left_out for each in self._assembly.stores),
            "displacement": float(moved.mean() / self._cut.num_rows),
        }

    def _traffic(self) -> dict[str, float]:
        caches = [each.store.files.cache for each in self._assembly.stores]
        remote = {cache.traffic for cache in caches if cache is not None}
        if not remote:
            return {}
        return {
            "cache_hits": sum(each.hits for each in remote),
            "cache_misses": sum(each.misses for each in remote),
            "fetched_bytes": sum(each.fetched_bytes for each in remote),
        }

    def close(self) -> None:
        """Drop what is under way and join the threads; the loader cannot be iterated after that."""
        self._closed = True
        self._move()
        self._run.pipeline.close()
        self._assembly.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _move(self) -> None:
        """Drop what was made ahead; an iterator in use raises at its next batch."""
        self._moves += 1
        self._run.stream.drop()

    def _settle(self) -> None:
        """Turn the end of an epoch into the start of the next one."""
        if self._step >= self._cut.steps:
            self._epoch, self._step = self._epoch + 1, 0

    def _checked_place(self, epoch: int, step: int, last: int) -> tuple[int, int]:
        """Return epoch and step as plain ints. Raises ConfigError: there is no such place."""
        epoch = whole_number("epoch", epoch, least=0)
        step = whole_number("step", step, least=0)
        if epoch >= PLACES or step > last:
            raise ConfigError(
                f"a place must be an epoch >= 0 and a step in [0, {last}], got ({epoch}, {step})"
            )
        return epoch, step

    def _check_usable(self) -> None:
        if self._closed:
            raise ConfigError("loader was closed; make a new one")
        if os.getpid() != self._pid:
            raise ConfigError(
                "loader was made in another process: its threads are not in this one; "
                "make the loader after the fork"
            )
        if self._settings.rank is None:
            check_found_rank(self._cut.rank, self._cut.world_size)


# What help() and editors show: the settings with their defaults, which are written once.
_PARAMETERS = (
    *list(inspect.signature(ViewLoader).parameters.values())[:2],
    *inspect.signature(LoaderSettings).parameters.values(),
)
ViewLoader.__signature__ = inspect.Signature(_PARAMETERS)  # type: ignore[attr-defined]
