"""What a build refuses before it begins, and what it takes from a store that is there."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.viewstore.small_stores import build_small, write_npz
from viewstore.costs.disk_space import shard_bytes
from viewstore.errors import ConfigError, StoppedError, UnavailableError
from viewstore.format.paths import StorePaths
from viewstore.format.tar import TarWriter
from viewstore.shards import local
from viewstore.shards.builder import Unwatched
from viewstore.shards.engine import Job
from viewstore.shards.place import Place
from viewstore.shards.unit import Outcome


@pytest.mark.parametrize("slice_of", [None, (0, 1)], ids=["a build", "a slice"])
def test_a_disk_too_full_to_go_on_is_a_stop(
    tmp_path: Path, source: str, slice_of: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 4, as where it fills up in mid-build: tries of a scheduler are not used up by it."""
    build_small(tmp_path / "s", source, slice_of=(99, 100))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
        with pytest.raises(StoppedError, match="a build by 1 worker needs") as caught:
            build_small(tmp_path / "s", None, slice_of=slice_of)
    assert (caught.value.code, caught.value.exit_code) == ("VS302", 4)
    assert build_small(tmp_path / "s", None).manifest is not None


def test_a_disk_too_full_to_begin_is_no_stop(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 3, not 4: nothing is there yet with which a command could go on."""
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
        with pytest.raises(UnavailableError, match="a build by 1 worker needs") as caught:
            build_small(tmp_path / "s", source)
    assert (caught.value.code, caught.value.exit_code) == ("VS302", 3)
    assert str(caught.value).startswith("the disk has 9.8 KiB free, ")
    assert "--workers" not in str(caught.value.fix)
    assert build_small(tmp_path / "s", source).manifest is not None


def test_a_disk_has_room_for_a_shard_of_each_worker_and_one_more(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enough for one worker is not enough for three, of whom none begins."""
    plan = build_small(tmp_path / "plan", source, slice_of=(99, 100)).plan
    enough = SimpleNamespace(free=2 * shard_bytes(plan))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: enough)
    monkeypatch.setattr(local, "LocalPool", None)
    with pytest.raises(UnavailableError, match="a build by 3 workers needs") as caught:
        build_small(tmp_path / "s", source, workers=3)
    assert caught.value.where == str(tmp_path / "s")
    assert "or give fewer --workers, and run" in str(caught.value.fix)
    assert build_small(tmp_path / "s", source, workers=1).manifest is not None


@pytest.mark.parametrize("inner", ["inner", "views/simclr/inner", "new/inner"])
def test_no_store_begins_in_another(tmp_path: Path, source: str, inner: str) -> None:
    """The outer one could not be built into any more."""
    outer = tmp_path / "outer"
    build_small(outer, source)
    with pytest.raises(ConfigError, match=f"lies in the store {outer}") as caught:
        build_small(outer / inner, source)
    assert (caught.value.exit_code, caught.value.where) == (2, str(outer / inner))
    assert not (outer / inner).exists()
    assert build_small(outer, source, view_set="second").manifest is not None


def test_raw_views_that_no_member_can_hold_are_refused_before_they_are_planned(
    tmp_path: Path, source: str
) -> None:
    settings = {"views": 2, "height": 2000, "width": 2000}
    with pytest.raises(ConfigError, match="views of a sample must be at most 16 MiB, got 22"):
        build_small(tmp_path / "s", source, settings=settings, codec="raw")
    assert not StorePaths(tmp_path / "s").view_set("simclr").plan.exists()


def test_raw_shards_that_no_tar_can_hold_are_refused_before_they_are_planned(
    tmp_path: Path,
) -> None:
    source = write_npz(tmp_path / "images.npz", rows=200, side=4)
    settings = {"views": 1, "height": 2000, "width": 2000}
    with pytest.raises(ConfigError, match="a shard must be at most 2048 MiB") as caught:
        build_small(tmp_path / "s", source, settings=settings, codec="raw", shard_rows=512)
    assert "--shard-rows" in str(caught.value.fix)
    assert not StorePaths(tmp_path / "s").view_set("simclr").plan.exists()


def test_a_store_of_few_rows_may_have_large_shards(tmp_path: Path, source: str) -> None:
    """20 of 8192 rows: 8192 would not fit into one tar."""
    settings = {"views": 1, "height": 400, "width": 400}
    built = build_small(
        tmp_path / "s", source, settings=settings, codec="raw", shard_rows=8192, limit=2
    )
    assert (built.plan.shards, built.samples) == (1, 2)


def test_the_size_of_the_views_decides_the_shards_of_a_new_store(
    tmp_path: Path, source: str
) -> None:
    built = build_small(
        tmp_path / "s",
        source,
        settings={"views": 2, "height": 3000, "width": 3000},
        codec="jpg",
        shard_rows=None,
        limit=1,
    )
    assert built.plan.shard_rows == 16


def test_a_limit_alone_takes_the_source_of_the_store(tmp_path: Path, source: str) -> None:
    build_small(tmp_path / "s", source, limit=10)
    again = build_small(tmp_path / "s", None, limit=10, view_set="second")
    assert (again.plan.rows, again.manifest is not None) == (10, True)
    with pytest.raises(ConfigError, match="other settings: limit was 10, is 12"):
        build_small(tmp_path / "s", None, limit=12, view_set="third")
    with pytest.raises(ConfigError, match="other settings: limit was 10, is 5"):
        build_small(tmp_path / "s", source, limit=5, view_set="third")
    assert build_small(tmp_path / "s", source, view_set="third").plan.rows == 10


def test_a_limit_alone_takes_all_tars_of_the_store(tmp_path: Path) -> None:
    pixels = np.random.Generator(np.random.Philox(1)).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    for tar in ("one", "two"):
        with (tmp_path / f"{tar}.tar").open("wb") as stream:
            writer = TarWriter(stream)
            for number in range(3):
                writer.add(f"{tar}{number}.png", (tmp_path / "image.png").read_bytes())
            writer.finish()
    build_small(tmp_path / "s", str(tmp_path / "{one,two}.tar"), limit=5)
    again = build_small(tmp_path / "s", None, limit=5, view_set="second")
    assert again.plan.rows == 5


def test_an_executor_is_any_callable_that_yields_outcomes(tmp_path: Path, source: str) -> None:
    """One that runs the last unit first, with threads of its own choice, builds the same store."""

    def last_first(job: Job) -> Generator[Outcome]:
        builder = job.make(Unwatched(), Place(threads=2))
        while not job.stop.requested and job.queue.todo:
            unit = job.queue.todo.pop()
            outcome = builder.run(unit)
            if job.queue.settle(unit, outcome):
                yield outcome

    built = build_small(tmp_path / "a", source, executor=last_first)
    assert [outcome.shard for outcome in built.outcomes] == [2, 1, 0]
    local = build_small(tmp_path / "b", source)
    assert built.manifest is not None
    assert local.manifest is not None
    assert built.manifest.store_id == local.manifest.store_id


def test_a_failure_ends_the_executor(tmp_path: Path, source: str) -> None:
    """No unit is taken after the one that failed, and its error is raised as it is."""
    given: list[Job] = []

    def fails(job: Job) -> Generator[Outcome]:
        given.append(job)
        while not job.stop.requested and (unit := job.queue.take()) is not None:
            error = UnavailableError("no device", code="VS301")
            yield Outcome(shard=unit.shard, attempt="", status="failed", seconds=0.0, error=error)

    with pytest.raises(UnavailableError, match="no device"):
        build_small(tmp_path / "s", source, executor=fails)
    assert [unit.shard for unit in given[0].queue.todo] == [1, 2]


def test_a_number_of_workers_below_none_is_refused(tmp_path: Path, source: str) -> None:
    with pytest.raises(ConfigError, match="workers must be at least 0, got -1"):
        build_small(tmp_path / "s", source, workers=-1)
    assert not (tmp_path / "s").exists()
