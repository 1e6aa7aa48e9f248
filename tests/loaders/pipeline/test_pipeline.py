"""Threads: bounded, joined, refused after a fork, ended by Ctrl-C; one decode per sample."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import viewstore
from tests.loaders.stores import batches_before_error
from viewstore.errors import ConfigError, ViewStoreError
from viewstore.loaders import Online, ViewLoader
from viewstore.loaders.pipeline.clock import Clock
from viewstore.loaders.pipeline.pipeline import Pipeline
from viewstore.loaders.plan.cut import find_rank
from viewstore.loaders.plan.resolve import resolve
from viewstore.loaders.render.online import SourceImages, draw_slots
from viewstore.randomness import Stream
from viewstore.sources.reader import SourceReader
from viewstore.store.store import Store

REPO = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _no_loader_of_another_test() -> None:
    gc.collect()  # a trainer and its loader hold each other


def loader_threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("viewstore-loader")]


def test_close_joins_the_threads_and_the_loader_is_of_no_use_then(digits: Store) -> None:
    gc.collect()  # other tests may have left loaders in a cycle
    loader = ViewLoader(digits, "hard,simclr", batch_size=16, num_threads=3)
    assert loader_threads() == []  # none before the first batch
    for _ in loader:
        assert len(loader_threads()) == 3
        break
    loader.close()
    assert loader_threads() == []
    with pytest.raises(ConfigError, match="loader was closed"):
        iter(loader)


def test_a_loader_that_nobody_holds_leaves_no_threads(digits: Store) -> None:
    loader = ViewLoader(digits, "hard", batch_size=16, num_threads=2)
    next(iter(loader))
    waiting = [t for t in threading.enumerate() if t.name.startswith("viewstore-loader")]
    del loader
    for thread in waiting:
        thread.join(timeout=300)
    assert loader_threads() == []


def test_an_iterator_ends_when_the_loader_was_moved(digits: Store) -> None:
    loader = ViewLoader(digits, "hard", batch_size=16, num_threads=0)
    first = iter(loader)
    next(first)
    loader.seek(3)
    with pytest.raises(ConfigError, match="moved while it was iterated"):
        next(first)
    second = iter(loader)
    assert next(second).epoch == 3


def test_a_forked_child_refuses_the_loader(digits: Store) -> None:
    loader = ViewLoader(digits, "hard", batch_size=16, num_threads=0)
    child = os.fork()
    if child == 0:
        try:
            iter(loader)
        except ConfigError as error:
            os._exit(7 if "made in another process" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_ctrl_c_ends_a_training_loop(digits: Store) -> None:
    program = (
        "import signal, sys, viewstore; from viewstore.loaders import ViewLoader\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have jobs ignore it\n"
        "loader = ViewLoader(viewstore.open(sys.argv[1]), 'hard,simclr', batch_size=8)\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for batch in loader: pass\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(digits.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors


class Counting:
    """Makes nothing, and counts how far it was planned ahead of what was taken."""

    def __init__(self, steps_at_once: int = 1) -> None:
        self.steps_at_once = steps_at_once
        self.planned = 0
        self.taken = 0
        self.most_ahead = 0
        self.done: list[tuple[str, int]] = []

    def plan(self, epoch: int, steps: range) -> Any:  # noqa: ANN401
        self.planned += len(steps)
        self.done.append(("plan", steps[0]))
        self.most_ahead = max(self.most_ahead, self.planned - self.taken)
        if 13 in steps:
            raise ViewStoreError("step 13")
        return type("Draft", (), {"rows": np.arange(40), "steps": steps})()

    def slices(self, draft: Any, threads: int) -> list[tuple[int, int]]:  # noqa: ANN401
        return [(0, 20), (20, 40)]

    def background_tasks(self, epoch: int, step: int) -> list[Any]:
        return [partial(self.done.append, ("task", step))] if step == 0 else []

    def copy_tasks(self) -> list[Any]:
        return [partial(self.done.append, ("copy", 0))]

    def fill(self, draft: Any, begin: int, end: int) -> None:  # noqa: ANN401
        """Fill nothing."""
        self.done.append(("fill", draft.steps[0]))

    def warm_up(self) -> None:
        """Need nothing."""

    def finish(self, draft: Any) -> list[int]:  # noqa: ANN401
        return list(draft.steps)


@pytest.mark.parametrize("threads", [0, 1, 4])
@pytest.mark.parametrize("prefetch", [1, 3])
@pytest.mark.parametrize("steps_at_once", [1, 4])
def test_no_more_than_prefetch_batches_are_made_ahead(
    threads: int, prefetch: int, steps_at_once: int
) -> None:
    maker = Counting(steps_at_once)
    pipeline = Pipeline(maker, threads=threads, prefetch=prefetch)  # type: ignore[arg-type]
    for expected, step in enumerate(pipeline.run((0, step) for step in range(13))):
        maker.taken += 1
        assert step == expected
    pipeline.close()
    assert maker.planned == 13
    assert maker.most_ahead <= prefetch * steps_at_once


def test_nothing_comes_before_the_first_batch() -> None:
    maker = Counting()
    pipeline = Pipeline(maker, threads=1, prefetch=3)  # type: ignore[arg-type]
    assert list(pipeline.run((0, step) for step in range(6))) == list(range(6))
    pipeline.close()
    assert maker.done[:4] == [("plan", 0), ("fill", 0), ("fill", 0), ("plan", 1)]
    assert maker.done.index(("task", 0)) > 3 < maker.done.index(("copy", 0))


def test_steps_are_made_together_up_to_each_multiple_but_never_over_the_end_of_an_epoch() -> None:
    maker = Counting(steps_at_once=4)
    planned: list[tuple[int, range]] = []
    plan = maker.plan
    maker.plan = lambda epoch, steps: (planned.append((epoch, steps)), plan(epoch, steps))[1]  # type: ignore[method-assign]
    pipeline = Pipeline(maker, threads=1, prefetch=1)  # type: ignore[arg-type]
    steps = [(0, step) for step in range(5, 11)] + [(1, step) for step in range(11)]
    assert list(pipeline.run(steps)) == [step for _, step in steps]
    pipeline.close()
    bounds = [(0, 5, 6), (0, 6, 8), (0, 8, 11), (1, 0, 4), (1, 4, 8), (1, 8, 11)]
    assert planned == [(epoch, range(first, last)) for epoch, first, last in bounds]


def test_torch_is_imported_beside_the_first_batch_and_not_before(digits: Store) -> None:
    """The import takes longer than the batch; the others are of no use to it at all."""
    code = (
        "import sys, viewstore; from viewstore.loaders import Cached, Mix, Online, ViewLoader; "
        f"loader = ViewLoader(viewstore.open({str(digits.location)!r}), 'hard', batch_size=16); "
        "heavy = ('torch', 'zarr', 'pyarrow', 'rich', 'obstore', 'jinja2', 'asyncio'); "
        "print([name for name in heavy if name in sys.modules]); "
        "next(iter(loader)); "
        "print([name for name in heavy if name in sys.modules][0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "torch"]


class WarmWhenFilled(Counting):
    """Is warm once the threads have filled something."""

    def __init__(self, slices: list[tuple[int, int]]) -> None:
        super().__init__()
        self.filled = threading.Event()
        self.all_slices = slices

    def slices(self, draft: Any, threads: int) -> list[tuple[int, int]]:  # noqa: ANN401
        return self.all_slices

    def fill(self, draft: Any, begin: int, end: int) -> None:  # noqa: ANN401
        self.filled.set()

    def warm_up(self) -> None:
        assert self.filled.wait(timeout=60)


@pytest.mark.parametrize("slices", [[(0, 40)], [(0, 20), (20, 40)]])
def test_the_first_batch_is_filled_while_the_caller_warms_up(
    slices: list[tuple[int, int]],
) -> None:
    maker = WarmWhenFilled(slices)
    pipeline = Pipeline(maker, threads=1, prefetch=3)  # type: ignore[arg-type]
    assert list(pipeline.run([(0, 0), (0, 1)])) == [0, 1]
    pipeline.close()


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("steps_at_once", [1, 4])
def test_an_error_surfaces_at_its_batch_after_all_before_it(
    threads: int, steps_at_once: int
) -> None:
    maker = Counting(steps_at_once)
    pipeline = Pipeline(maker, threads=threads, prefetch=5)  # type: ignore[arg-type]
    batches = pipeline.run((0, step) for step in range(20))
    assert [next(batches) for _ in range(13)] == list(range(13))
    with pytest.raises(ViewStoreError, match="step 13"):
        next(batches)
    pipeline.close()


def test_a_sample_is_decoded_once_for_all_its_slots(photos: Store) -> None:
    decoded: list[int] = []

    class Recording(SourceReader):
        def decode(self, row: int, *arguments: Any) -> Any:  # noqa: ANN401
            decoded.append(row)
            return super().decode(row, *arguments)

    _, slots = resolve([Online("moco", n=2, size=32), Online("dino-local", n=6, size=16)], photos)
    table = photos.table
    images = SourceImages(Recording(table), table.height, table.width, clock=Clock())
    rows = np.array([5, 3, 20])
    out = [np.empty((3, *slot.size, 3), np.uint8) for slot in slots]
    images.render(slots, rows, draw_slots(slots, Stream(0), rows, *images.sizes(rows)), out)
    assert decoded == [5, 3, 20]
    assert all(buffer.any() for buffer in out)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_source_image_that_cannot_be_read_raises_at_its_batch(
    tmp_path: Path, photos: Store, photo_folder: Path, threads: int
) -> None:
    key = photos.keys[14]
    broken = next(path for path in photo_folder.rglob("*.jpg") if key.endswith(path.name))
    kept = tmp_path / "kept.jpg"
    shutil.copy(broken, kept)
    try:
        broken.write_bytes(broken.read_bytes()[:-40] + bytes(40))
        with ViewLoader(
            viewstore.open(photos.root),
            "moco",
            batch_size=4,
            shuffle="none",
            num_threads=threads,
        ) as loader:
            delivered, error = batches_before_error(loader)
        assert delivered == 3
        assert key in f"{error} {error.where}"
    finally:
        shutil.copy(kept, broken)


def test_ranks_come_from_the_arguments_else_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert find_rank(None, None) == (0, 1)
    assert find_rank(2, 5) == (2, 5)
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(ConfigError, match="RANK '3' and WORLD_SIZE None"):
        find_rank(None, None)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert find_rank(None, None) == (3, 4)
    assert find_rank(0, 2) == (0, 2)
    monkeypatch.setenv("WORLD_SIZE", "four")
    with pytest.raises(ConfigError, match="as numbers, or neither"):
        find_rank(None, None)


@pytest.mark.parametrize("name", ["SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"])
def test_processes_of_a_launcher_that_all_read_everything_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv(name, "1")
    assert find_rank(None, None) == (0, 1)
    monkeypatch.setenv(name, "8")
    with pytest.warns(UserWarning, match=f"{name} says that this job has 8 processes"):
        find_rank(None, None)
    assert find_rank(0, 1) == (0, 1)


@pytest.mark.parametrize(("rank", "world"), [(0, None), (None, 2)])
def test_half_a_pair_of_rank_and_world_size_is_refused(rank: int | None, world: int | None) -> None:
    with pytest.raises(ConfigError, match="rank and world_size must be given together"):
        find_rank(rank, world)
