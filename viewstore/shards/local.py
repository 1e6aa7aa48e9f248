"""The executor of one machine: units run in this process, or in spawned workers."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import Any

from viewstore.cores import usable_cores
from viewstore.errors import ConfigError, ViewStoreError
from viewstore.shards.builder import (
    HUNG_SECONDS,
    BuilderFactory,
    ShardBuilder,
    hung,
    made_builder,
    no_builder,
)
from viewstore.shards.engine import Job
from viewstore.shards.place import (
    AUTO,
    CPU,
    Place,
    local_devices,
    local_places,
    warn_of_no_gpu,
)
from viewstore.shards.signals import STOP_SIGNALS, check_deadline, stop_signals_blocked
from viewstore.shards.threads import threads_restored
from viewstore.shards.unit import Outcome, Unit

POLL_SECONDS = 0.25
JOIN_SECONDS = 10.0  # until a process that broke its pool has ended
UNGUARDED = 79  # exit code of a worker whose script builds when it is imported


def run_local(job: Job) -> Generator[Outcome]:
    """Run a job on the devices and cores of this machine; one worker runs in this process.

    Raises:
        UnavailableError: A device is not here, or the disk has no room.
    """
    device = CPU if job.device == AUTO and not job.networks else job.device
    places = local_places(
        local_devices(device),
        workers=job.workers,
        units=len(job.queue.todo),
        cores=usable_cores(),
        networks=job.networks,
    )
    warn_of_no_gpu(job.progress, job.device, places[0], networks=job.networks)
    job.check_room(len(places), False)
    return run_here(job, places[0]) if len(places) == 1 else LocalPool(job, places).run()


def run_here(job: Job, place: Place) -> Generator[Outcome]:
    """Run a job in this process, whose numbers of threads are given back afterwards."""
    with threads_restored(torch=job.networks):
        builder = made_builder(job.make, _Here(job), place)
        if isinstance(builder, ViewStoreError):
            raise builder
        while not job.stop.requested and (unit := job.queue.take()) is not None:
            outcome = builder.run(unit)
            if job.queue.settle(unit, outcome):
                yield outcome


class _Here:
    """The Watch of a builder in the process of its executor."""

    def __init__(self, job: Job) -> None:
        self.rendered, self.check = job.progress.advance, job.stop.check


class LocalPool:
    """Runs units in spawned processes, each with its own builder.

    A worker is a pool of one, so that a killed process breaks only itself: its unit goes back
    into the queue and a new worker takes over.
    """

    def __init__(self, job: Job, places: Sequence[Place]) -> None:
        """Start nothing yet; there will be a worker at each place."""
        self.job, self.places = job, places
        self.context = multiprocessing.get_context("spawn")
        self.pools: dict[int, ProcessPoolExecutor] = {}
        self.busy: dict[Future[Outcome], tuple[int, Unit]] = {}
        self.idle: list[int] = []

    def run(self) -> Generator[Outcome]:
        """Run the job. Raises ConfigError within a worker, StoppedError if workers keep dying."""
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise SystemExit(UNGUARDED)  # a worker, while it runs the calling script again
        if multiprocessing.parent_process() is not None:
            raise _within_a_worker()
        job = self.job
        # The resource tracker starts with the first shared value.
        with stop_signals_blocked(signal.SIGINT):
            shared = _Shared(self.context)
        self.idle = list(range(len(self.places)))
        self.pools = {number: self._pool(number, shared) for number in self.idle}
        try:
            while self.busy or (job.queue.todo and not job.stop.requested):
                self._submit(shared)
                done, _ = concurrent.futures.wait(
                    self.busy, timeout=POLL_SECONDS, return_when=concurrent.futures.FIRST_COMPLETED
                )
                shared.deadline.value = job.stop.deadline
                if count := shared.newly_rendered():
                    job.progress.advance(count)
                for future in done:
                    yield from self._finished(future, shared)
                yield from self._end_hung()
        except BaseException:
            for pool in self.pools.values():
                _kill(pool)
            raise
        finally:
            for pool in self.pools.values():
                pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, shared: _Shared) -> None:
        """Give every idle worker a unit, as long as there are any."""
        job = self.job
        while self.idle and not job.stop.requested and (unit := job.queue.take()) is not None:
            number = self.idle.pop()
            try:
                with stop_signals_blocked(signal.SIGINT):
                    self.busy[self.pools[number].submit(_run, unit)] = (number, unit)
            except BrokenProcessPool:  # killed while it had nothing to do
                self.idle.append(number)
                self._lost(number, unit, shared)

    def _finished(self, future: Future[Outcome], shared: _Shared) -> Generator[Outcome]:
        number, unit = self.busy.pop(future)
        self.idle.append(number)
        try:
            outcome = future.result()
        except BrokenProcessPool:
            self._lost(number, unit, shared)
        else:
            if self.job.queue.settle(unit, outcome):
                yield outcome

    def _end_hung(self) -> Generator[Outcome]:
        """End the workers whose units do not answer a stop, and count those as stopped."""
        if not self.job.stop.is_over_by(HUNG_SECONDS):
            return
        for number, unit in self.busy.values():
            _kill(self.pools[number])
            yield hung(unit)
        self.busy.clear()

    def _lost(self, number: int, unit: Unit, shared: _Shared) -> None:
        for process in _processes(self.pools[number]):
            process.join(JOIN_SECONDS)
            if process.exitcode == UNGUARDED:
                raise _within_a_worker() from None
        self.pools[number].shutdown(wait=False)
        self.pools[number] = self._pool(number, shared)
        self.job.queue.lost(unit)

    def _pool(self, number: int, shared: _Shared) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            1,
            mp_context=self.context,
            initializer=_start,
            initargs=(self.job.make, shared, self.places[number]),
        )


class _Shared:
    """Memory that workers and their parent share: samples rendered, and the stop's deadline.

    In a worker it is the Watch of the builder.
    """

    def __init__(self, context: Any) -> None:  # noqa: ANN401
        self.samples = context.Value("Q", 0)
        self.deadline = context.Value("d", 0.0)
        self.counted = 0

    def rendered(self) -> None:
        with self.samples.get_lock():
            self.samples.value += 1

    def check(self) -> None:
        check_deadline(self.deadline.value)

    def newly_rendered(self) -> int:
        """Return the samples rendered since the last call; for the parent."""
        before, self.counted = self.counted, int(self.samples.value)
        return self.counted - before


_builder: ShardBuilder | ViewStoreError | None = None  # of this worker, or why it has none


def _start(make: BuilderFactory, shared: _Shared, place: Place) -> None:
    """Make the worker's builder; end with the parent, and leave signals to it.

    A scheduler signals the whole group: the parent alone decides how long a unit may go on.
    """
    global _builder
    for number in (signal.SIGINT, *STOP_SIGNALS):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _builder = made_builder(make, shared, place)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(unit: Unit) -> Outcome:
    if isinstance(_builder, ShardBuilder):
        return _builder.run(unit)
    return no_builder(unit, _builder or ViewStoreError("worker has no builder"))


def _processes(pool: ProcessPoolExecutor) -> list[BaseProcess]:
    return list((getattr(pool, "_processes", None) or {}).values())


def _kill(pool: ProcessPoolExecutor) -> None:
    for process in _processes(pool):
        process.kill()


def _within_a_worker() -> ConfigError:
    return ConfigError(
        "a build with several workers cannot start inside a worker process",
        why="each worker runs the calling script again, which would build again",
        fix="put the build under `if __name__ == '__main__':`, or use workers=1",
    )
