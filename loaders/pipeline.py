"""The threads: batches are planned ahead, filled in slices, and handed over in order."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol

from viewstore.loaders.batch import Batch
from viewstore.loaders.crew import Crew
from viewstore.loaders.maker import Clock


class Maker(Protocol):
    """Plans batches, fills them in slices, and hands them over."""

    clock: Clock

    def slices(self, size: int, threads: int) -> list[tuple[int, int]]:
        """Return the parts of `size` samples that threads fill."""

    def chores(self, epoch: int, step: int) -> list[Callable[[], bool]]:
        """Return what may be done beside a step; each is called again while it returns True."""

    def copies(self) -> list[Callable[[], bool]]:
        """Return the chores that bring view sets into memory."""

    def plan(self, epoch: int, step: int) -> Any:  # noqa: ANN401
        """Return the draft of a step; its `rows` are as many as its samples."""

    def fill(self, draft: Any, begin: int, end: int) -> None:  # noqa: ANN401
        """Read and render samples [begin, end) of a draft."""

    def finish(self, draft: Any) -> Batch:  # noqa: ANN401
        """Return the batch of a filled draft."""


class Pipeline:
    """Runs a maker on a crew of threads, at most `prefetch` batches ahead."""

    def __init__(self, maker: Maker, *, threads: int, prefetch: int) -> None:
        """Start no thread yet; with `threads` 0 batches are made as they are asked for."""
        self._maker = maker
        self._threads = threads
        self._prefetch = prefetch
        self._crew: Crew | None = None
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
        crew = self._crew = self._crew or Crew(self._threads, "viewstore-loader")
        ahead: deque[_Job] = deque()
        try:
            for epoch, step in steps:
                ahead.append(_Job(self._maker, crew, self._threads, epoch, step))
                for chore in self._maker.chores(epoch, step):
                    crew.do(partial(_do_some, weakref.ref(crew), chore))
                if len(ahead) >= self._prefetch:
                    yield self._wait(ahead.popleft())
                    for copy in self._copies():  # after the first batch: it must not wait
                        crew.do(partial(_do_some, weakref.ref(crew), copy))
            while ahead:
                yield self._wait(ahead.popleft())
        finally:
            for job in ahead:
                job.dropped = True

    def close(self) -> None:
        """Drop what is under way and join the threads."""
        if self._crew is not None:
            self._crew.close()
            self._crew = None

    def _copies(self) -> list[Callable[[], bool]]:
        """Return the copying that was not begun yet."""
        begun, self._begun = self._begun, True
        return [] if begun else self._maker.copies()

    def _make(self, epoch: int, step: int) -> Batch:
        draft = self._maker.plan(epoch, step)
        self._maker.fill(draft, 0, len(draft.rows))
        return self._maker.finish(draft)

    def _wait(self, job: _Job) -> Batch:
        began = time.perf_counter()
        try:
            found = job.done.get()
        finally:
            self._maker.clock.add(wait_seconds=time.perf_counter() - began)
        if isinstance(found, BaseException):
            raise found
        return found


def _do_some(owner: weakref.ref[Crew], chore: Callable[[], bool]) -> None:
    """Do a part of a chore, and put the rest behind what waits."""
    try:
        more = chore()
    except Exception:  # the batch that needs what was not done will raise the same
        return
    crew = owner()
    if more and crew is not None:
        crew.do(partial(_do_some, owner, chore))


class _Job:
    """One batch under way. No thread ever waits for another: the last slice finishes it."""

    def __init__(self, maker: Maker, crew: Crew, threads: int, epoch: int, step: int) -> None:
        self.done: SimpleQueue[Batch | BaseException] = SimpleQueue()
        self.dropped = False
        self._maker, self._threads = maker, threads
        self._crew = weakref.ref(crew)  # a thread that held it could be the one to end it
        self._lock = threading.Lock()
        self._left = 0
        crew.do(partial(self._plan, epoch, step))

    def _plan(self, epoch: int, step: int) -> None:
        crew = self._crew()
        if self.dropped or crew is None:
            return
        try:
            draft = self._maker.plan(epoch, step)
            first, *others = self._maker.slices(len(draft.rows), self._threads)
            self._left = 1 + len(others)
            for part in others:
                crew.do(partial(self._fill, draft, *part))
        except BaseException as error:
            self._fail(error)
            return
        self._fill(draft, *first)

    def _fill(self, draft: Any, begin: int, end: int) -> None:  # noqa: ANN401
        if self.dropped:
            return
        try:
            self._maker.fill(draft, begin, end)
            with self._lock:
                self._left -= 1
                last = self._left == 0
            if last:
                self.done.put(self._maker.finish(draft))
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            failed, self.dropped = self.dropped, True
        if not failed:
            self.done.put(error)
