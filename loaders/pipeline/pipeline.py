"""Batches made by threads: planned ahead, filled in slices, and handed over in order."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from functools import partial
from operator import itemgetter
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from viewstore.loaders.pipeline.threads import ThreadPool

Step = tuple[int, int]  # epoch and step
Batch = TypeVar("Batch")


class Maker(Protocol[Batch]):
    """Plans batches, fills them in slices, and hands them over. Several threads call it at once."""

    @property
    def steps_at_once(self) -> int:
        """How many steps one thread makes together."""

    def slices(self, size: int, threads: int) -> list[tuple[int, int]]:
        """Return the bounds (begin, end) of the slices of `size` samples that threads fill."""

    def background_tasks(self, epoch: int, step: int) -> list[Callable[[], object]]:
        """Return what may be done in the background once `step` is under way."""

    def copy_tasks(self) -> list[Callable[[], bool]]:
        """Return what copies view sets into memory; each is called again while it returns True."""

    def plan(self, epoch: int, steps: range) -> Any:  # noqa: ANN401
        """Return the draft of some steps; its `rows` are as many as their samples."""

    def fill(self, draft: Any, begin: int, end: int) -> None:  # noqa: ANN401
        """Read and render samples [begin, end) of a draft."""

    def warm_up(self) -> None:
        """Load what `finish` needs, such as imports, which takes a while the first time."""

    def finish(self, draft: Any) -> list[Batch]:  # noqa: ANN401
        """Return the batches of a filled draft."""


class Pipeline(Generic[Batch]):
    """Runs a maker on a pool of threads, at most `prefetch` groups of steps ahead.

    A group has the steps that one thread makes together; the first step is a group of its own, so
    that nothing delays the first batch.
    """

    def __init__(self, maker: Maker[Batch], *, threads: int, prefetch: int) -> None:
        """Start no thread yet; with `threads` 0 the caller's thread makes each batch on demand."""
        self._maker = maker
        self._threads = threads
        self._prefetch = prefetch
        self._pool: ThreadPool | None = None
        self._copying = False

    def run(self, steps: Iterable[Step]) -> Generator[Batch]:
        """Yield the batch of each (epoch, step). An error surfaces at its batch.

        Closing the iterator drops the batches that are under way.
        """
        if self._threads == 0:
            for copy in self._new_copy_tasks():
                while copy():
                    pass
            for epoch, step in steps:
                yield from _make(self._maker, epoch, range(step, step + 1))
            return
        pool = self._pool = self._pool or ThreadPool(self._threads, "viewstore-loader")
        ahead: deque[_Job[Batch]] = deque()
        tasks: list[Callable[[], object]] = []
        warm = False
        try:
            for epoch, group in _groups(steps, self._maker.steps_at_once):
                job = _Job(self._maker, pool, self._threads, epoch, group)
                ahead.append(job)
                pool.submit(job.start)
                if not warm:
                    self._maker.warm_up()
                    job.submitted.wait()  # all slices of the first batch go before other work
                warm = True
                for step in group:
                    tasks += self._maker.background_tasks(epoch, step)
                if len(ahead) >= self._prefetch:
                    yield from self._wait(ahead.popleft())
                    while tasks:
                        pool.submit(partial(_try, tasks.pop()))
                    if copies := self._new_copy_tasks():
                        pool.submit(partial(_copy, weakref.ref(pool), copies))
            while ahead:
                yield from self._wait(ahead.popleft())
        finally:
            for job in ahead:
                job.dropped = True

    def close(self) -> None:
        """Drop what is under way and join the threads."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _new_copy_tasks(self) -> list[Callable[[], bool]]:
        """Return the maker's copy tasks the first time, nothing after that."""
        copying, self._copying = self._copying, True
        return [] if copying else self._maker.copy_tasks()

    def _wait(self, job: _Job[Batch]) -> Iterator[Batch]:
        batches, error = job.result.get()
        batches.reverse()
        while batches:  # what was yielded belongs to the caller alone
            yield batches.pop()
        if error is not None:
            raise error


def _groups(steps: Iterable[Step], size: int) -> Iterator[tuple[int, range]]:
    """Yield an epoch and steps of it: the first one alone, then up to each multiple of `size`."""
    alone = True
    for epoch, pairs in itertools.groupby(steps, key=itemgetter(0)):
        first: int | None = None
        for _, step in pairs:
            first = step if first is None else first
            if alone or (step + 1) % size == 0:
                yield epoch, range(first, step + 1)
                alone, first = False, None
        if first is not None:
            yield epoch, range(first, step + 1)


def _make(maker: Maker[Batch], epoch: int, steps: range) -> list[Batch]:
    draft = maker.plan(epoch, steps)
    maker.fill(draft, 0, len(draft.rows))
    return maker.finish(draft)


def _try(task: Callable[[], object]) -> None:
    with suppress(Exception):  # the batch that needs what was not done will raise the same
        task()


def _copy(owner: weakref.ref[ThreadPool], copies: list[Callable[[], bool]]) -> None:
    """Copy view sets into memory, one after the other, on one thread, which makes no batches then.

    In a pool of one thread each part of the copying goes to the end of the queue.
    """
    while copies:
        more = False
        with suppress(Exception):
            more = copies[0]()
        if not more:
            del copies[0]
        pool = owner()
        if pool is None or not pool.close.alive:
            return
        if pool.size == 1:
            pool.submit(partial(_copy, owner, copies))
            return
        del pool


class _Job(Generic[Batch]):
    """Some batches under way. No thread ever waits for another: the one that fills the last slice
    finishes them.
    """

    def __init__(
        self, maker: Maker[Batch], pool: ThreadPool, threads: int, epoch: int, steps: range
    ) -> None:
        self.result: SimpleQueue[tuple[list[Batch], BaseException | None]] = SimpleQueue()
        self.dropped = False
        self.submitted = threading.Event()
        self._maker, self._threads = maker, threads
        self._pool = weakref.ref(pool)  # a thread that held it could be the one to end it
        self._lock = threading.Lock()
        self._unfilled = 0
        self._epoch, self._steps = epoch, steps

    def start(self) -> None:
        """Plan one step and submit its slices, or make several steps; then set `submitted`."""
        if len(self._steps) == 1:
            self._plan()
        else:
            self._make_together()
        self.submitted.set()

    def _make_together(self) -> None:
        if self.dropped:
            return
        try:
            self.result.put((_make(self._maker, self._epoch, self._steps), None))
        except BaseException:
            self._make_singly()

    def _make_singly(self) -> None:
        """Make batches one by one until one fails: the error then surfaces at its own batch."""
        batches: list[Batch] = []
        try:
            for step in self._steps:
                batches += _make(self._maker, self._epoch, range(step, step + 1))
        except BaseException as error:
            self.result.put((batches, error))
            return
        self.result.put((batches, None))

    def _plan(self) -> None:
        pool = self._pool()
        if self.dropped or pool is None:
            return
        try:
            draft = self._maker.plan(self._epoch, self._steps)
            slices = self._maker.slices(len(draft.rows), self._threads)
        except BaseException as error:
            self._fail(error)
            return
        self._unfilled = len(slices)
        if len(slices) == 1:
            self._fill(draft, *slices[0])
            return
        for each in slices:  # its own too: a batch planned before this one may still wait
            pool.submit(partial(self._fill, draft, *each))

    def _fill(self, draft: Any, begin: int, end: int) -> None:  # noqa: ANN401
        if self.dropped:
            return
        try:
            self._maker.fill(draft, begin, end)
            with self._lock:
                self._unfilled -= 1
                last = self._unfilled == 0
            if last:
                self.result.put((self._maker.finish(draft), None))
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            failed, self.dropped = self.dropped, True
        if not failed:
            self.result.put(([], error))


class EpochStream(Generic[Batch]):
    """One batch after another, over the ends of epochs: a loader's iteration asks it for each.

    The first batches of an epoch are made before the one before it ends. Where an epoch is no
    longer than what is made ahead, each epoch is a run of its own: else a whole one would be made
    in vain if no other is iterated.
    """

    def __init__(self, pipeline: Pipeline[Batch], *, steps: int, ahead: int) -> None:
        """Make nothing yet; an epoch has `steps` steps, of which `ahead` are made ahead."""
        self._pipeline = pipeline
        self._steps = steps
        self._crosses_epochs = steps > ahead
        self._run: Generator[Batch] | None = None

    def next(self, epoch: int, step: int) -> Batch:
        """Return the batch of (epoch, step), which follows the last one unless `drop` was called.

        Raises what making it raises, and begins a new run after that.
        """
        epochs: Iterable[int] = itertools.count(epoch) if self._crosses_epochs else [epoch]
        run = self._run or self._pipeline.run(_steps_from(epochs, step, self._steps))
        self._run = None  # an error, or an interrupt, ends it
        batch = next(run)
        if self._crosses_epochs or step + 1 < self._steps:
            self._run = run
        return batch

    def drop(self) -> None:
        """Drop what was made ahead."""
        if self._run is not None:
            self._run.close()
            self._run = None


def _steps_from(epochs: Iterable[int], step: int, steps: int) -> Iterator[Step]:
    """Yield (epoch, step) and all that follow it in `epochs`, of `steps` steps each."""
    # No method: a run that held its stream, which holds it, would not end with the loader.
    for epoch in epochs:
        yield from zip(itertools.repeat(epoch), range(step, steps), strict=False)
        step = 0
