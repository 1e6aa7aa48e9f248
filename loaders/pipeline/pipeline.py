"""The threads: batches are planned ahead, filled in slices, and handed over in order."""

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

from viewstore.loaders.pipeline.threads import Crew

Step = tuple[int, int]  # epoch and step
Batch = TypeVar("Batch")


class Maker(Protocol[Batch]):
    """Plans batches, fills them in slices, and hands them over."""

    @property
    def together(self) -> int:
        """How many steps a thread makes at once."""

    def slices(self, size: int, threads: int) -> list[tuple[int, int]]:
        """Return the parts of `size` samples that threads fill."""

    def chores(self, epoch: int, step: int) -> list[Callable[[], object]]:
        """Return what may be done beside a step."""

    def copies(self) -> list[Callable[[], bool]]:
        """Return what brings view sets into memory; each is called again while it is True."""

    def plan(self, epoch: int, steps: range) -> Any:  # noqa: ANN401
        """Return the draft of some steps; its `rows` are as many as their samples."""

    def fill(self, draft: Any, begin: int, end: int) -> None:  # noqa: ANN401
        """Read and render samples [begin, end) of a draft."""

    def ready(self) -> None:
        """Have at hand what `finish` needs, which takes a while the first time."""

    def finish(self, draft: Any) -> list[Batch]:  # noqa: ANN401
        """Return the batches of a filled draft."""


class Pipeline(Generic[Batch]):
    """Runs a maker on a crew of threads, at most `prefetch` batches ahead.

    Steps that are made together count as one, after the first: nothing waits for it longer than
    it takes.
    """

    def __init__(self, maker: Maker[Batch], *, threads: int, prefetch: int) -> None:
        """Start no thread yet; with `threads` 0 batches are made as they are asked for."""
        self._maker = maker
        self._threads = threads
        self._prefetch = prefetch
        self._crew: Crew | None = None
        self._begun = False

    def run(self, steps: Iterable[Step]) -> Generator[Batch]:
        """Yield the batch of each (epoch, step). An error surfaces at its batch.

        Closing the iterator drops the batches that are under way.
        """
        if self._threads == 0:
            for copy in self._copies():
                while copy():
                    pass
            for epoch, step in steps:
                yield from _made(self._maker, epoch, range(step, step + 1))
            return
        crew = self._crew = self._crew or Crew(self._threads, "viewstore-loader")
        ahead: deque[_Job[Batch]] = deque()
        chores: list[Callable[[], object]] = []
        begun = False
        try:
            for epoch, group in _groups(steps, self._maker.together):
                job = _Job(self._maker, crew, self._threads, epoch, group)
                ahead.append(job)
                crew.do(job.begin)
                if not begun:
                    self._maker.ready()
                    job.begun.wait()  # all that the caller waits for stands before what follows
                begun = True
                chores += [each for step in group for each in self._maker.chores(epoch, step)]
                if len(ahead) >= self._prefetch:
                    yield from self._wait(ahead.popleft())
                    while chores:
                        crew.do(partial(_try, chores.pop()))
                    if copies := self._copies():
                        crew.do(partial(_copy, weakref.ref(crew), copies))
            while ahead:
                yield from self._wait(ahead.popleft())
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

    def _wait(self, job: _Job[Batch]) -> Iterator[Batch]:
        made, error = job.done.get()
        made.reverse()
        while made:  # what was yielded belongs to the caller alone
            yield made.pop()
        if error is not None:
            raise error


def _groups(steps: Iterable[Step], size: int) -> Iterator[tuple[int, range]]:
    """Yield an epoch and steps of it: the first one alone, then up to each multiple of `size`."""
    alone = True
    for epoch, places in itertools.groupby(steps, key=itemgetter(0)):
        first: int | None = None
        for _, step in places:
            first = step if first is None else first
            if alone or (step + 1) % size == 0:
                yield epoch, range(first, step + 1)
                alone, first = False, None
        if first is not None:
            yield epoch, range(first, step + 1)


def _made(maker: Maker[Batch], epoch: int, steps: range) -> list[Batch]:
    draft = maker.plan(epoch, steps)
    maker.fill(draft, 0, len(draft.rows))
    return maker.finish(draft)


def _try(chore: Callable[[], object]) -> None:
    with suppress(Exception):  # the batch that needs what was not done will raise the same
        chore()


def _copy(owner: weakref.ref[Crew], copies: list[Callable[[], bool]]) -> None:
    """Bring view sets into memory, one after the other: one thread makes no batches meanwhile.

    Where there is no other, copying goes on behind the batches that wait.
    """
    while copies:
        more = False
        with suppress(Exception):
            more = copies[0]()
        if not more:
            del copies[0]
        crew = owner()
        if crew is None or not crew.close.alive:
            return
        if crew.size == 1:
            crew.do(partial(_copy, owner, copies))
            return
        del crew


class _Job(Generic[Batch]):
    """Some batches under way. No thread ever waits for another: the last slice finishes them."""

    def __init__(
        self, maker: Maker[Batch], crew: Crew, threads: int, epoch: int, steps: range
    ) -> None:
        self.done: SimpleQueue[tuple[list[Batch], BaseException | None]] = SimpleQueue()
        self.dropped = False
        self.begun = threading.Event()
        self._maker, self._threads = maker, threads
        self._crew = weakref.ref(crew)  # a thread that held it could be the one to end it
        self._lock = threading.Lock()
        self._left = 0
        self._epoch, self._steps = epoch, steps

    def begin(self) -> None:
        """Do what comes first, leave the rest to the crew, and say so."""
        if len(self._steps) == 1:
            self._plan()
        else:
            self._make()
        self.begun.set()

    def _make(self) -> None:
        if self.dropped:
            return
        try:
            self.done.put((_made(self._maker, self._epoch, self._steps), None))
        except BaseException:
            self._make_singly()

    def _make_singly(self) -> None:
        """Make batches until one fails: the error is its own."""
        made: list[Batch] = []
        try:
            for step in self._steps:
                made += _made(self._maker, self._epoch, range(step, step + 1))
        except BaseException as error:
            self.done.put((made, error))
            return
        self.done.put((made, None))

    def _plan(self) -> None:
        crew = self._crew()
        if self.dropped or crew is None:
            return
        try:
            draft = self._maker.plan(self._epoch, self._steps)
            parts = self._maker.slices(len(draft.rows), self._threads)
        except BaseException as error:
            self._fail(error)
            return
        self._left = len(parts)
        if len(parts) == 1:
            self._fill(draft, *parts[0])
            return
        for part in parts:  # its own too: a batch planned before this one may still wait
            crew.do(partial(self._fill, draft, *part))

    def _fill(self, draft: Any, begin: int, end: int) -> None:  # noqa: ANN401
        if self.dropped:
            return
        try:
            self._maker.fill(draft, begin, end)
            with self._lock:
                self._left -= 1
                last = self._left == 0
            if last:
                self.done.put((self._maker.finish(draft), None))
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            failed, self.dropped = self.dropped, True
        if not failed:
            self.done.put(([], error))


class Course(Generic[Batch]):
    """Goes on beyond the end of an epoch: the first batches of the next one are ready then.

    Epochs that are no longer than what is made ahead end it: one would be made in vain, if no
    other is asked for.
    """

    def __init__(self, pipeline: Pipeline[Batch], *, steps: int, ahead: int) -> None:
        """Begin nothing; an epoch has `steps` steps, of which `ahead` are made ahead."""
        self._pipeline = pipeline
        self._steps = steps
        self._goes_on = steps > ahead
        self._run: Generator[Batch] | None = None

    def next(self, epoch: int, step: int) -> Batch:
        """Return the batch of a place: that behind the last one, unless the course was dropped."""
        run = self._run or self._pipeline.run(self._places(epoch, step))
        self._run = None  # an error, or an interrupt, ends it
        batch = next(run)
        if self._goes_on or step + 1 < self._steps:
            self._run = run
        return batch

    def drop(self) -> None:
        """Drop what was made ahead."""
        if self._run is not None:
            self._run.close()
            self._run = None

    def _places(self, epoch: int, step: int) -> Iterator[Step]:
        """Yield a place and those behind it."""
        epochs: Iterable[int] = itertools.count(epoch) if self._goes_on else [epoch]
        for now in epochs:
            yield from zip(itertools.repeat(now), range(step, self._steps), strict=False)
            step = 0
