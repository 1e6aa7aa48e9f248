"""What stats() says: each kind of second where there is such work, and what was handed over."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import viewstore
from tests.loaders.stores import photograph_store, photographs
from viewstore.loaders import Mix, ViewLoader
from viewstore.loaders.pipeline.clock import Clock
from viewstore.store.store import Store

SLOW_SECONDS = 0.4
WORK = ("fetch_seconds", "decode_seconds", "copy_seconds", "render_seconds")


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize(
    ("store", "views", "resident", "expected"),
    [
        ("digits", "hard", True, {"copy"}),
        ("digits", "hard+flip", True, {"copy"}),
        ("digits", "hard", False, {"fetch", "copy"}),
        ("digits", "hard+crop", False, {"fetch", "copy", "render"}),
        ("digits", [Mix({"hard": 1, "digits": 1})], False, {"fetch", "copy"}),
        ("digits", "online:simclr", False, {"fetch", "decode", "render"}),
        ("photos", "cached:jpg", False, {"fetch", "decode"}),
        ("photos", "cached:jpg+flip", False, {"fetch", "decode"}),
        ("photos", "cached:jpg+crop", False, {"fetch", "decode", "render"}),
        ("photos", "online:moco,online:moco", False, {"fetch", "decode", "render"}),
    ],
)
def test_seconds_are_of_the_work_that_there_is(
    request: pytest.FixtureRequest,
    store: str,
    views: Any,  # noqa: ANN401
    resident: bool,
    expected: set[str],
    threads: int,
) -> None:
    opened: Store = request.getfixturevalue(store)
    settings: dict[str, Any] = {"batch_size": 4, "num_threads": threads}
    with ViewLoader(opened, views, resident=resident, **settings) as loader:
        if resident:  # in the caller's thread, so that no batch comes before it
            for copy in loader._run.maker.copy_tasks():
                while copy():
                    pass
        list(loader)
        found = loader.stats()
    assert {name.removesuffix("_seconds") for name in WORK if found[name]} == expected
    assert all(found[name] >= 0 for name in found)
    assert found["plan_seconds"] > 0
    assert found["wait_seconds"] > 0
    assert 0.2 < found["displacement"] < 0.5
    assert "fetched_bytes" not in found


@pytest.mark.parametrize("views", ["online:moco", "cached:jpg+crop"])
def test_work_within_work_counts_once(photos: Store, views: str) -> None:
    """What one thread did is within the time that it took."""
    with ViewLoader(photos, views, batch_size=11, num_threads=0) as loader:
        began = time.perf_counter()
        for _ in range(4):
            list(loader)
        spent = time.perf_counter() - began
        found = loader.stats()
    assert sum(found[name] for name in WORK) + found["plan_seconds"] < spent
    assert found["wait_seconds"] + found["away_seconds"] < spent


def test_batches_of_several_stores_are_joined_by_copying(digits: Store) -> None:
    settings: dict[str, Any] = {"batch_size": 16, "num_threads": 0, "tail": "keep"}
    with ViewLoader([digits, digits], "online:simclr", **settings) as loader:
        list(loader)
        found = loader.stats()
    assert found["samples"] == 140
    assert min(found[name] for name in (*WORK, "plan_seconds")) > 0


def test_what_was_made_ahead_is_not_counted(digits: Store) -> None:
    """Batches that are copies are made eight at once, and those of the next epoch too."""
    view_bytes = 12 * 12 * 3
    with ViewLoader(digits, "hard,hard", batch_size=2, num_threads=2) as loader:
        batches = iter(loader)
        next(batches), next(batches)
        assert loader._run.maker.steps_at_once == 8
        found = loader.stats()
        assert (found["samples"], found["bytes"]) == (4, 4 * 2 * view_bytes)
        assert len(list(batches)) == 33
        assert loader.stats()["samples"] == 70
        loader.batch(7, 3)
        assert loader.stats()["samples"] == 72


def test_padding_is_not_corrupt(digits: Store) -> None:
    settings: dict[str, Any] = {"tail": "pad", "on_corrupt": "quarantine", "num_threads": 0}
    with ViewLoader(digits, "hard", batch_size=16, **settings) as loader:
        list(loader)
        found = loader.stats()
    assert (found["samples"], found["corrupt_samples"]) == (80, 0)


def test_totals_outlive_a_state_of_another_seed(digits: Store) -> None:
    with ViewLoader(digits, "hard", batch_size=16, num_threads=0, seed=3) as other:
        state = other.state_dict()
    with ViewLoader(digits, "hard", batch_size=16, num_threads=0) as loader:
        list(loader)
        loader.load_state_dict(state)
        assert loader.stats()["samples"] == 64
        list(loader)
        assert loader.stats()["samples"] == 128


class FakeTime:
    """A clock that stands still unless it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    """The time of everything in this process that measures with perf_counter."""
    clock = FakeTime()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


@pytest.mark.parametrize("threads", [0, 1])
def test_a_caller_that_does_nothing_waits_for_a_slow_source(
    tmp_path: Path, fake_time: FakeTime, threads: int
) -> None:
    """One of the files of the first batch is a pipe, whose bytes come once it is read from."""
    folder = photographs(tmp_path / "images", count=8)
    store = photograph_store(tmp_path / "store", folder)
    slow = folder / "cats" / "04.jpg"
    content = slow.read_bytes()
    slow.unlink()
    os.mkfifo(slow)

    def write_late() -> None:
        with slow.open("wb") as file:  # once it is opened for reading, within the first batch
            fake_time.now += SLOW_SECONDS
            file.write(content)

    writer = threading.Thread(target=write_late)
    writer.start()
    settings: dict[str, Any] = {"num_threads": threads, "shuffle": "none"}
    with ViewLoader(viewstore.open(store.root), "online:moco", batch_size=4, **settings) as loader:
        list(loader)
        found = loader.stats()
    writer.join()
    assert found["fetch_seconds"] == pytest.approx(SLOW_SECONDS)
    assert found["wait_seconds"] == pytest.approx(SLOW_SECONDS)
    assert found["wait_share"] == 1


@pytest.mark.parametrize("threads", [0, 2])
def test_a_slow_caller_does_not_wait(digits: Store, fake_time: FakeTime, threads: int) -> None:
    with ViewLoader(digits, "hard", batch_size=16, num_threads=threads) as loader:
        for _ in loader:
            fake_time.now += SLOW_SECONDS
        found = loader.stats()
    assert found["away_seconds"] == pytest.approx(4 * SLOW_SECONDS)
    assert found["wait_seconds"] == 0
    assert found["wait_share"] == 0


def test_a_clock_knows_its_totals_and_no_others() -> None:
    clock = Clock()
    assert clock.wait_share == 0
    clock.add(wait_seconds=1, away_seconds=2.5)
    clock.add(wait_seconds=0.5)
    assert clock.wait_share == 1.5 / 4
    with pytest.raises(KeyError):
        clock.add(waiting=1)
