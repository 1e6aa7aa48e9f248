"""The threads: batches are planned ahead, filled in slices, and handed over in order."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import cv2

from viewstore.loaders.batch import Batch
from viewstore.loaders.maker import BatchMaker, Draft


class Pipeline:
    """Runs a maker on a pool of threads, at most `prefetch` batches ahead."""

    def __init__(self, maker: BatchMaker, *, threads: int, prefetch: int) -> None:
        """Start no thread yet; with `threads` 0 batches are made as they are asked for."""
        self._maker = maker
        self._threads = threads
        self._prefetch = prefetch
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False
        self._begun = False

    def run(self, steps: Iterable[tuple[int, int]]) -> Iterator[Batch]:
        """Yield the batch of each (epoch, step). An error surfaces at its batch.

        Closing the iterator drops the batches that are under way.
        """
        if self._threads == 0:
            for copy in self._copies():
                while copy():
                    pass
            for epoch, step in steps:
                yield self._make(epoch, step)
            return
        pool = self._started()
        ahead: deque[_Job] = deque()
        try:
            for epoch, step in steps:
                ahead.append(_Job(self._maker, pool, self._threads, epoch, step))
                for chore in self._maker.chores(epoch, step):
                    pool.submit(_do, weakref.ref(self), chore)
                if len(ahead) >= self._prefetch:
                    yield self._wait(ahead.popleft())
                    for copy in self._copies():  # after the first batch: it must not wait
                        pool.submit(_do, weakref.ref(self), copy)
            while ahead:
                yield self._wait(ahead.popleft())
        finally:
            for job in ahead:
                job.dropped = True

    def close(self) -> None:
        """Drop what is under way and join the threads."""
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _copies(self) -> list[Callable[[], bool]]:
        """Return the copying that was not begun yet."""
        begun, self._begun = self._begun, True
        return [] if begun else self._maker.copies()

    def go_on(self, chore: Callable[[], bool]) -> None:
        """Put a chore behind the work that waits, unless the pipeline was closed."""
        pool = self._pool
        if pool is not None and not self._closed:
            with suppress(RuntimeError):  # closed just now
                pool.submit(_do, weakref.ref(self), chore)

    def _started(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(
                self._threads,
                thread_name_prefix="viewstore-loader",
                # Our threads are the parallelism; OpenCV's own would only contend with them.
                initializer=cv2.setNumThreads,
                initargs=(1,),
            )
        return self._pool

    def _make(self, epoch: int, step: int) -> Batch:
        draft = self._maker.plan(epoch, step)
        self._maker.fill(draft, 0, len(draft.rows))
        return self._maker.finish(draft)

    def _wait(self, job: _Job) -> Batch:
        began = time.perf_counter()
        try:
            return job.done.result()
        finally:
            self._maker.clock.add(wait_seconds=time.perf_counter() - began)


def _do(owner: weakref.ref[Pipeline], chore: Callable[[], bool]) -> None:
    """Do a part of a chore, and put the rest behind what waits; a dropped pipeline ends it."""
    more = chore()
    pipeline = owner()
    if more and pipeline is not None:
        pipeline.go_on(chore)


class _Job:
    """One batch under way. No thread ever waits for another: the last slice finishes it."""

    def __init__(
        self, maker: BatchMaker, pool: ThreadPoolExecutor, threads: int, epoch: int, step: int
    ) -> None:
        self.done: Future[Batch] = Future()
        self.dropped = False
        self._maker, self._pool, self._threads = maker, pool, threads
        self._lock = threading.Lock()
        self._left = 0
        pool.submit(self._plan, epoch, step)

    def _plan(self, epoch: int, step: int) -> None:
        if self.dropped:
            return
        try:
            draft = self._maker.plan(epoch, step)
            first, *others = self._maker.slices(draft, self._threads)
            self._left = 1 + len(others)
            for begin, end in others:
                self._pool.submit(self._fill, draft, begin, end)
            self._fill(draft, *first)
        except BaseException as error:
            self._fail(error)

    def _fill(self, draft: Draft, begin: int, end: int) -> None:
        if self.dropped:
            return
        try:
            self._maker.fill(draft, begin, end)
            with self._lock:
                self._left -= 1
                last = self._left == 0
            if last:
                self.done.set_result(self._maker.finish(draft))
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self.dropped = True
            if not self.done.done():
                self.done.set_exception(error)
