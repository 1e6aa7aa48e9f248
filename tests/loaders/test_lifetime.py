"""A loader that is dropped ends: its memory, its threads, and what it changed in the process."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from viewstore.errors import ConfigError
from viewstore.loaders import Mix, ViewLoader
from viewstore.store.store import Store

PATIENCE_SECONDS = 300.0


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Without the collector of cycles: only the last reference frees."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def wait_for(fulfilled: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not fulfilled():
        assert time.monotonic() < until
        time.sleep(0.01)


def our_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("viewstore")]


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(
    ("store", "views"),
    [
        ("digits", "hard"),
        ("digits", "hard+flip,digits+crop,online:simclr"),
        ("digits", [Mix({"hard": 1, "digits": 1}, n=2)]),
        ("photos", "cached:jpg,online:moco"),
    ],
)
def test_a_dropped_loader_is_freed_at_once(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    store: str,
    views: Any,  # noqa: ANN401
    ranks: int,
) -> None:
    """Left in mid epoch, whether its copies are its own or shared with other ranks."""
    monkeypatch.setenv("VIEWSTORE_CACHE__DIRECTORY", str(tmp_path))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    opened: Store = request.getfixturevalue(store)
    for stores in (opened, [opened, opened]):
        loader = ViewLoader(stores, views, batch_size=4, num_threads=2)
        batches = iter(loader)
        for _ in range(5):
            next(batches)
        run, assembly = loader._run, loader._assembly
        watched = [weakref.ref(each) for each in (loader, run, run.maker, run.pipeline, run.stream)]
        for part in (part for each in assembly.stores for _, part, _ in each.set_readers):
            watched.append(weakref.ref(part))
            if part.resident is not None:
                watched.append(weakref.ref(part.resident))
        del batches, loader, run, assembly, part
        wait_for(lambda: not our_threads())  # the one that held something last lets go of it
        assert [each() for each in watched if each() is not None] == []


@pytest.mark.parametrize("threads", [1, 3])
def test_a_loader_leaves_the_threads_of_others_as_they_were(digits: Store, threads: int) -> None:
    before = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(2)
    try:
        with (
            ViewLoader(digits, "hard", batch_size=16, num_threads=threads) as one,
            ViewLoader(digits, "online:simclr", batch_size=16, num_threads=1) as other,
        ):
            list(one)
            assert cv2.getNumThreads() == 1
            list(other)
            one.close()
            assert cv2.getNumThreads() == 1
        assert (cv2.getNumThreads(), torch.get_num_threads()) == (2, before[1])
        with ViewLoader(digits, "hard", batch_size=16, num_threads=threads) as loader:
            list(loader)
            cv2.setNumThreads(3)
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before[0])


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_an_iterator_that_was_begun_before_a_fork_raises_in_the_child(digits: Store) -> None:
    with ViewLoader(digits, "hard", batch_size=4, num_threads=2) as loader:
        batches = iter(loader)
        next(batches)
        child = os.fork()
        if not child:
            try:
                next(batches)
            except ConfigError as error:
                os._exit(7 if "made in another process" in str(error) else 8)
            os._exit(9)
        found = (0, 0)
        until = time.monotonic() + PATIENCE_SECONDS
        while not found[0] and time.monotonic() < until:
            found = os.waitpid(child, os.WNOHANG)
            time.sleep(0.01)
        if not found[0]:
            os.kill(child, signal.SIGKILL)
            found = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(found[1]) == 7
        assert len(list(batches)) == 16
