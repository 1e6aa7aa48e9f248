"""Builds whose units take their time, and leave a trace of every execution."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tests.viewstore.small_stores import build_small
from viewstore.build.garbage import collect_garbage
from viewstore.shards.builder import BuilderFactory, RendersViews, ShardBuilder, Watch
from viewstore.shards.engine import Executor, Job
from viewstore.shards.engine_ray import run_ray
from viewstore.shards.place import Place
from viewstore.shards.unit import Outcome, Rendered, Sample
from viewstore.store.store import open_store
from viewstore.store.verify import verify

ROWS, SHARD_ROWS, UNITS = 32, 4, 8
DEADLINE_SECONDS = 300  # of waits; never a measure of speed


@dataclass
class Slow:
    """A generator that takes `seconds` for each unit, and leaves a file for each execution."""

    inner: RendersViews
    trace: Path
    seconds: float

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        (self.trace / f"{os.getpid()}.{uuid.uuid4().hex}").touch()
        time.sleep(self.seconds)
        return self.inner.render(samples)


def make_slow(
    make: BuilderFactory, trace: Path, seconds: float, watch: Watch, place: Place
) -> ShardBuilder:
    builder = make(watch, place)
    builder.generator = Slow(builder.generator, trace, seconds)
    return builder


def slow(trace: Path, *, seconds: float = 0.5) -> Executor:
    """Return run_ray with slow units, whose executions leave files in `trace`."""
    trace.mkdir()

    def run(job: Job) -> Iterator[Outcome]:
        job = replace(job, make=partial(make_slow, job.make, trace, seconds))
        with contextlib.closing(run_ray(job)) as outcomes:
            yield from outcomes

    return run  # type: ignore[return-value]


def executions(trace: Path) -> list[int]:
    """Return the processes of all executions so far, one for each."""
    return [int(path.name.partition(".")[0]) for path in trace.glob("*.*")]


@contextlib.contextmanager
def when(happened: Callable[[], object], act: Callable[[], object]) -> Iterator[None]:
    """Call `act` beside the block, as soon as `happened`; and see that it was called."""
    acted = threading.Event()

    def wait() -> None:
        until = time.monotonic() + DEADLINE_SECONDS
        while not happened():
            if time.monotonic() > until:
                return
            time.sleep(0.02)
        act()
        acted.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    yield
    thread.join()
    assert acted.is_set()


def build(store: Path, source: str, executor: Executor) -> str:
    """Build all units; return the id of the store, which is whole and without orphans."""
    build_all(store, source, executor)
    return checked(store)


def build_all(store: Path, source: str, executor: Executor) -> None:
    build_small(store, source, executor=executor, shard_rows=SHARD_ROWS, workers=0)


def checked(store: Path) -> str:
    """Return the id of a store, after its garbage was taken out and it was verified."""
    collect_garbage(store, older_seconds=0, dry_run=False)
    assert list(verify(store)) == []
    return open_store(store).store_id
