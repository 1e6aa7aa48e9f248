"""Builds of the scripted generator on Ray, and what waits beside them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.scripted import marks
from tests.viewstore.small_stores import whole_id
from viewstore.build.request import BuildRequest
from viewstore.build.run import build as build_request
from viewstore.shards.engine import Executor

UNITS = 8  # of a sample each
DEADLINE_SECONDS = 300  # of waits; never a measure of speed


def executions(trace: Path) -> list[int]:
    """Return the processes of all executions so far, one for each."""
    return [mark.pid for mark in marks(trace, "begun")]


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
    return whole_id(store)


def build_all(store: Path, source: str, executor: Executor) -> None:
    request = BuildRequest(
        generator="scripted", out=store, source=source, shard_rows=1, workers=0, executor=executor
    )
    build_request(request)
