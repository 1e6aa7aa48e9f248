"""Where units run: in this process, or in spawned workers of this machine.

An engine decides where, never what. Only the commit gives exactly-once, so a unit may run
twice, or at once in two places, and no harm is done.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Protocol

from viewstore import errors
from viewstore.errors import ConfigError, StoppedError, ViewStoreError
from viewstore.shards.builder import BuilderFactory, ShardBuilder, bug_of, error_facts
from viewstore.shards.signals import STOP_SIGNALS, held_back
from viewstore.shards.unit import Outcome, Unit

POLL_SECONDS = 0.25
Report = Callable[[Outcome], None]
Progressed = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How often a unit is tried.

    Attributes:
        app_attempts: Tries of a unit whose builder failed in a way that may pass.
        infra_attempts: Tries of a unit whose worker was lost.
        grace_seconds: How long a running unit may go on after a request to stop.
    """

    app_attempts: int = 3
    infra_attempts: int = 20
    grace_seconds: float = 25.0


@dataclass
class Queue:
    """The units that are left and their budgets; knows no engine."""

    policy: Policy
    todo: list[Unit]
    tries: dict[int, int] = field(default_factory=dict)
    losses: dict[int, int] = field(default_factory=dict)

    def take(self) -> Unit | None:
        """Return the next unit, or None if none is left."""
        return self.todo.pop(0) if self.todo else None

    def settle(self, unit: Unit, outcome: Outcome) -> bool:
        """Take an outcome; false if the unit goes back into the queue."""
        self.tries[unit.shard] = self.tries.get(unit.shard, 0) + 1
        if outcome.again and self.tries[unit.shard] < self.policy.app_attempts:
            self.todo.append(unit)
            return False
        return True

    def lost(self, unit: Unit) -> None:
        """Put back a unit whose worker is gone. Raises StoppedError when its budget is used up."""
        self.losses[unit.shard] = self.losses.get(unit.shard, 0) + 1
        if self.losses[unit.shard] >= self.policy.infra_attempts:
            raise StoppedError(
                f"workers were lost {self.losses[unit.shard]} times at shard {unit.shard}",
                why="the system may be killing them for memory",
                fix="use fewer --workers and run the same command again",
            )
        self.todo.insert(0, unit)


class Executor(Protocol):
    """Runs the units of a queue and reports each outcome once it is settled."""

    def run(self, queue: Queue, report: Report, progressed: Progressed) -> None:
        """Run until the queue is empty or a stop was requested."""


class StopRequest:
    """SIGTERM and SIGUSR1 mean: take no new unit, finish the running ones within the grace."""

    def __init__(self, grace_seconds: float) -> None:
        self.grace_seconds = grace_seconds
        self.deadline = 0.0

    @property
    def requested(self) -> bool:
        return self.deadline > 0

    def request(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Signal handler; repeats are one request."""
        self.deadline = self.deadline or time.monotonic() + self.grace_seconds

    def request_now(self) -> None:
        """Take no new unit and drop the running ones."""
        self.deadline = time.monotonic()

    def check(self, outcomes: Sequence[Outcome]) -> None:
        """Raise StoppedError if a signal stopped the work before an outcome says why."""
        if self.requested and all(o.status not in ("failed", "stopped") for o in outcomes):
            _check(-1.0)


def raise_outcome(outcome: Outcome) -> None:
    """Raise the error of a failed or stopped outcome."""
    facts = dict(outcome.error or {})
    kind = getattr(errors, str(facts.pop("kind", "")), ViewStoreError)
    message = facts.pop("message", None) or f"shard {outcome.shard} {outcome.status}"
    raise kind(message, **facts)


@dataclass
class _OwnWatch:
    stop: StopRequest
    progressed: Progressed

    def rendered(self) -> None:
        self.progressed(1)

    def check(self) -> None:
        _check(self.stop.deadline)


def _check(deadline: float) -> None:
    if deadline and time.monotonic() > deadline:
        raise StoppedError(
            "stopped on request",
            why="every committed shard is kept; the unfinished one was dropped",
            fix="run the same command again",
        )


@dataclass
class InProcess:
    """Runs units one after another in this process."""

    make: BuilderFactory
    stop: StopRequest

    def run(self, queue: Queue, report: Report, progressed: Progressed) -> None:
        builder = self.make(_OwnWatch(self.stop, progressed))
        while not self.stop.requested and (unit := queue.take()) is not None:
            outcome = builder.run(unit)
            if queue.settle(unit, outcome):
                report(outcome)


@dataclass
class LocalPool:
    """Runs units in `workers` spawned processes, each with its own builder.

    A worker is a pool of one, so that a killed process breaks only itself: its unit goes back
    into the queue and a new worker takes its place.
    """

    make: BuilderFactory
    stop: StopRequest
    workers: int

    def run(self, queue: Queue, report: Report, progressed: Progressed) -> None:
        if multiprocessing.parent_process() is not None:
            raise ConfigError(
                "a build with several workers cannot start inside a worker process",
                why="each worker runs the calling script again, which would build again",
                fix="put the build under `if __name__ == '__main__':`, or use workers=1",
            )
        context = multiprocessing.get_context("spawn")
        with held_back():  # the resource tracker starts with the first shared value
            shared = _Shared(context)
        pools = {number: self._pool(context, shared) for number in range(self.workers)}
        busy: dict[Future[Outcome], tuple[int, Unit]] = {}
        idle = list(pools)
        seen = 0
        try:
            while busy or (queue.todo and not self.stop.requested):
                while idle and not self.stop.requested and (unit := queue.take()) is not None:
                    number = idle.pop()
                    try:
                        with held_back():
                            busy[pools[number].submit(_run, unit)] = (number, unit)
                    except BrokenProcessPool:  # killed while it had nothing to do
                        pools[number] = self._renewed(pools[number], context, shared)
                        idle.append(number)
                        queue.lost(unit)
                done, _ = concurrent.futures.wait(
                    busy, timeout=POLL_SECONDS, return_when=concurrent.futures.FIRST_COMPLETED
                )
                shared.deadline.value = self.stop.deadline
                seen = _advance(shared, seen, progressed)
                for future in done:
                    number, unit = busy.pop(future)
                    idle.append(number)
                    try:
                        outcome = future.result()
                    except BrokenProcessPool:
                        pools[number] = self._renewed(pools[number], context, shared)
                        queue.lost(unit)
                    else:
                        if queue.settle(unit, outcome):
                            report(outcome)
        except BaseException:
            for pool in pools.values():
                _kill(pool)
            raise
        finally:
            for pool in pools.values():
                pool.shutdown(wait=True, cancel_futures=True)

    def _renewed(
        self,
        broken: ProcessPoolExecutor,
        context: Any,  # noqa: ANN401
        shared: _Shared,
    ) -> ProcessPoolExecutor:
        broken.shutdown(wait=False)
        return self._pool(context, shared)

    def _pool(self, context: Any, shared: _Shared) -> ProcessPoolExecutor:  # noqa: ANN401
        return ProcessPoolExecutor(
            1, mp_context=context, initializer=_start, initargs=(self.make, shared)
        )


class _Shared:
    """What workers and their parent tell each other without messages."""

    def __init__(self, context: Any) -> None:  # noqa: ANN401
        self.samples = context.Value("Q", 0)
        self.deadline = context.Value("d", 0.0)

    def rendered(self) -> None:
        with self.samples.get_lock():
            self.samples.value += 1

    def check(self) -> None:
        _check(self.deadline.value)


_builder: ShardBuilder | ViewStoreError | None = None  # of this worker, or why it has none


def _start(make: BuilderFactory, shared: _Shared) -> None:
    """Make the worker's builder; end with the parent, and leave signals to it.

    A scheduler signals the whole group: the parent alone decides how long a unit may go on.
    """
    global _builder
    for number in (signal.SIGINT, *STOP_SIGNALS):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _builder = make(shared)
    except ViewStoreError as error:  # a worker that cannot start is no lost worker
        _builder = error
    except Exception as error:
        _builder = bug_of(error)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(unit: Unit) -> Outcome:
    if isinstance(_builder, ShardBuilder):
        return _builder.run(unit)
    error = _builder or ViewStoreError("worker has no builder")
    return Outcome(
        shard=unit.shard, attempt="", status="failed", seconds=0.0, error=error_facts(error)
    )


def _advance(shared: _Shared, seen: int, progressed: Progressed) -> int:
    now = int(shared.samples.value)
    if now > seen:
        progressed(now - seen)
    return now


def _kill(pool: ProcessPoolExecutor) -> None:
    for process in list((getattr(pool, "_processes", None) or {}).values()):
        process.kill()


def executor(make: BuilderFactory, stop: StopRequest, workers: int) -> Executor:
    """Return the engine for a number of workers; one runs here, without a spawned process."""
    return InProcess(make, stop) if workers == 1 else LocalPool(make, stop, workers)


def check_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Raise the error of the first outcome that failed or stopped, if there is one."""
    for status in ("failed", "stopped"):
        for outcome in outcomes:
            if outcome.status == status:
                raise_outcome(outcome)
