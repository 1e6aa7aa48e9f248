"""What view sets cost: predicted bytes against built ones, and which codec a machine wants."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import viewstore
from tests.viewstore.commands import invoke
from tests.viewstore.small_stores import ROWS, build_small, write_npz, write_photographs
from viewstore.build import rehearsal
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.costs import measure
from viewstore.costs.bottleneck import ADVICE, Parts, judge
from viewstore.costs.estimate import (
    CodecCost,
    Machine,
    advise,
    choose_shard_rows,
    encoded_row_bytes,
    epoch,
    raw_row_bytes,
    set_bytes,
    size,
)
from viewstore.errors import ConfigError, UnavailableError
from viewstore.store.store import open_store
from viewstore.store.view_set import ViewSet

MACHINE = Machine(
    cores=2,
    memory_bytes=1 << 30,
    free_bytes=1 << 40,
    disk_bytes_per_second=500e6,
    copy_bytes_per_second=10e9,
)
RAW = CodecCost(codec="raw", view_bytes=150_528, set_bytes=1 << 34, decode_views_per_second=None)
JPG = CodecCost(codec="jpg", view_bytes=24_000, set_bytes=3 << 30, decode_views_per_second=3_800)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth pictures of growing detail in class folders: row order says much about size."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(40):
        rows, columns = np.mgrid[:90, :120]
        waves = np.stack([rows * number, columns * 3, rows + columns * number], axis=-1)
        path = folder / f"class{number // 20}" / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray((waves % 256).astype(np.uint8)).save(path)
    return folder


def built(folder: Path, source: object, **changes: Any) -> ViewSet:  # noqa: ANN401
    build_small(folder, str(source), **changes)
    return viewstore.open(folder).view_sets["simclr"]


def bytes_on_disk(view_set: ViewSet) -> int:
    """Return the bytes of shards, params and the table of members; records and stats left out.

    A chunk that is a file of a shard by another name counts once.
    """
    root = view_set.paths.root
    chunks = sum(
        path.stat().st_size
        for path in root.glob("params.zarr/*/c/**/*")
        if path.is_file() and path.stat().st_nlink == 1
    )
    return view_set.num_bytes + chunks + view_set.paths.members.stat().st_size


def test_a_column_in_a_file_of_its_own_is_counted_once(tmp_path: Path) -> None:
    build(BuildRequest(generator="digits", out=tmp_path / "s", limit=20, shard_rows=8))
    embed = {"of": "digits"}
    build(BuildRequest(generator="embed", out=tmp_path / "s", settings=embed, workers=1))
    view_set = open_store(tmp_path / "s").view_sets["embed"]
    assert any(not column.pack for column in view_set.plan.columns)
    assert set_bytes(view_set.plan, 0) == bytes_on_disk(view_set)


# Bytes


@pytest.mark.parametrize("shard_rows", [7, 8, 20, 64])
def test_bytes_of_a_raw_view_set_are_predicted_exactly(tmp_path: Path, shard_rows: int) -> None:
    view_set = built(tmp_path / "s", write_npz(tmp_path / "i.npz"), shard_rows=shard_rows)
    assert set_bytes(view_set.plan, raw_row_bytes(view_set.plan)) == bytes_on_disk(view_set)


def test_bytes_of_an_encoded_view_set_are_predicted_from_the_sizes_of_its_views(
    tmp_path: Path,
) -> None:
    view_set = built(tmp_path / "s", write_npz(tmp_path / "i.npz"), codec="jpg")
    sizes = [int(size) for size in view_set.members["size"][:, 1:].ravel()]
    predicted = set_bytes(view_set.plan, encoded_row_bytes(view_set.plan, sizes))
    assert predicted == bytes_on_disk(view_set)


@pytest.mark.parametrize("codec", ["jpg", "raw"])
def test_a_dry_run_predicts_the_bytes_of_the_build(
    tmp_path: Path, photographs: Path, codec: str
) -> None:
    request = BuildRequest(
        generator="simclr",
        out=tmp_path / "s",
        source=str(photographs),
        settings={"views": 2, "height": 64, "width": 64},
        codec=codec,
        shard_rows=16,
        workers=1,
    )
    found = rehearsal.rehearse(request, 10)
    assert not (tmp_path / "s").exists()
    view_set = built(tmp_path / "s", photographs, codec=codec, settings=request.settings)
    assert found.costs[codec].set_bytes == pytest.approx(bytes_on_disk(view_set), rel=0.1)
    assert (found.sampled, found.left, found.plan.rows) == (10, 40, 40)
    # The first rows alone would predict too little: their pictures are the smooth ones.
    request = replace(request, limit=10, out=tmp_path / "first")
    first = rehearsal.rehearse(request, 10).costs["jpg"].view_bytes
    assert first < 0.85 * found.costs["jpg"].view_bytes


# The rule


def test_an_epoch_waits_for_the_slower_of_disk_and_cores() -> None:
    pixels = 224 * 224 * 3
    raw = epoch(RAW, MACHINE, rows=1000, view_pixels=pixels, views_per_sample=2)
    assert (raw.bound, raw.views, raw.read_bytes, raw.cached) == ("disk", 2000, 301_056_000, False)
    assert raw.views_per_second == pytest.approx(500e6 / 150_528)
    jpg = epoch(JPG, MACHINE, rows=1000, view_pixels=pixels, views_per_sample=2)
    assert (jpg.bound, jpg.cached) == ("decode", False)
    assert jpg.views_per_second == pytest.approx(7_600)
    fitting = replace(RAW, set_bytes=1 << 20)
    small = epoch(fitting, MACHINE, rows=9, view_pixels=pixels, views_per_sample=2)
    assert small.cached
    assert small.later_views_per_second == pytest.approx(2 * 10e9 / pixels)


@pytest.mark.parametrize(
    ("changes", "cost", "codec"),
    [
        ({}, {}, "jpg"),  # 3.3k raw views/s from disk, two cores decode 7.6k
        ({"disk_bytes_per_second": 3e9}, {}, "raw"),
        ({"disk_bytes_per_second": 3e9, "cores": 16}, {}, "jpg"),
        ({}, {"set_bytes": 1 << 20}, "raw"),  # read once
        ({"free_bytes": 1 << 30, "disk_bytes_per_second": 3e9}, {}, "jpg"),
        ({"disk_bytes_per_second": None}, {}, "jpg"),
    ],
)
def test_raw_pays_where_disk_or_memory_outrun_decoding(
    changes: dict[str, Any], cost: dict[str, Any], codec: str
) -> None:
    assert advise(replace(RAW, **cost), JPG, replace(MACHINE, **changes)).codec == codec


@pytest.mark.parametrize(
    ("rows", "seconds", "row_bytes", "expected"),
    [
        (50_000, 0.88, 25_000, 512),
        (1_281_167, 0.01, 2_000, 8_192),
        (1_281_167, 0.01, 1_204_224, 512),  # a gigabyte
        (1_797, 0.001, 6_000, 64),
        (50_000, 100.0, 25_000, 64),
    ],
)
def test_shards_are_ten_minutes_of_work(
    rows: int, seconds: float, row_bytes: float, expected: int
) -> None:
    assert choose_shard_rows(rows, row_bytes, sample_seconds=seconds) == expected


@pytest.mark.parametrize(
    ("rows", "row_bytes", "expected"),
    [
        (10, 1, 64),
        (2048, 1, 128),
        (1_281_167, 8 * 96 * 96 * 3, 1024),
        (1_281_167, 8 * 224 * 224 * 3, 512),
        (1_281_167, 16 << 20, 64),
        (10, 100 << 20, 8),
        (10, 2 << 30, 1),
    ],
)
def test_shards_of_unknown_speed_are_chosen_to_hold_at_most_a_gibibyte(
    rows: int, row_bytes: int, expected: int
) -> None:
    assert choose_shard_rows(rows, row_bytes) == expected


def test_sizes_are_written_for_people() -> None:
    found = [size(n) for n in (0, 1023, 1024, 1_500_000, 3 << 30, 5 << 40)]
    assert found == ["0 B", "1023 B", "1.0 KiB", "1.4 MiB", "3.0 GiB", "5120.0 GiB"]


# Measurements


def test_too_little_to_read_says_nothing_of_a_disk(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(bytes(1000))
    assert measure.disk_rate([tmp_path / "small"]) is None
    (tmp_path / "large").write_bytes(bytes(measure.LEAST_READ_BYTES))
    rate = measure.disk_rate([tmp_path / "small", tmp_path / "large"])
    assert rate is not None
    assert rate > 0


def test_measuring_a_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    found = measure.machine_at(tmp_path / "store")
    assert found.cores >= 1
    assert found.copy_bytes_per_second > 1e6
    assert [path.name for path in tmp_path.rglob("*")] == ["store"]


def test_views_are_sampled_from_what_was_built(tmp_path: Path) -> None:
    source = write_npz(tmp_path / "i.npz")
    view_set = built(tmp_path / "s", source)
    some = measure.sample_views(view_set, 6)
    assert len(some) == 6
    for number, row in enumerate((0, 9, ROWS - 1)):
        np.testing.assert_array_equal(some[2 * number], view_set[row][0])


# The commands


def test_a_dry_run_writes_nothing_and_says_what_the_build_costs(tmp_path: Path) -> None:
    source = write_npz(tmp_path / "i.npz")
    arguments = ["build", "--generator", "simclr", "--source", source, "--out", tmp_path / "s"]
    arguments += ["--views", 2, "--size", 16, "--dry-run", "--sample", 5, "-j", 1]
    answer = json.loads(invoke(*arguments, "--json").stdout)["result"]
    assert not (tmp_path / "s").exists()
    assert (answer["sampled"], answer["samples"], answer["left_samples"]) == (5, ROWS, ROWS)
    assert answer["seconds"] == pytest.approx(2 * ROWS / answer["views_per_second"])
    assert set(answer["costs"]["codecs"]) == {"params", "raw", "jpg"}
    text = invoke(*arguments).stdout
    assert "5 of 20 samples tried; nothing was written" in text
    assert re.search(r"built already; --shard-rows \d+ is best\n", text)
    text = invoke(*arguments, "--shard-rows", 8).stdout
    assert re.search(r"built already; best for a new store: --shard-rows \d+\n", text)
    assert "best stored as raw (--codec raw): all of it stays in memory" in text


def test_a_dry_run_counts_what_is_committed(tmp_path: Path) -> None:
    source = write_npz(tmp_path / "i.npz")
    build_small(tmp_path / "s", source, only=(1,))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")}
    request = BuildRequest(generator="simclr", out=tmp_path / "s", workers=1)
    found = rehearsal.rehearse(request, 4)
    assert (found.committed, found.left) == (1, 12)
    assert (found.plan.height, found.plan.views) == (16, 2)  # those of the stored plan
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")} == before


def test_a_dry_run_refuses_what_the_build_would(tmp_path: Path) -> None:
    source = write_npz(tmp_path / "i.npz")
    build_small(tmp_path / "s", source)
    other = BuildRequest(generator="moco", view_set="simclr", out=tmp_path / "s", workers=1)
    with pytest.raises(ConfigError, match="generator was simclr, is moco"):
        rehearsal.rehearse(other, 4)
    with pytest.raises(ConfigError, match="another source"):
        rehearsal.rehearse(replace(other, view_set="moco", source="digits", limit=ROWS), 4)


def test_a_dry_run_ends_where_the_disk_is_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = BuildRequest(
        generator="simclr",
        source=write_npz(tmp_path / "i.npz"),
        out=tmp_path / "s",
        settings={"height": 16, "width": 16},
        workers=1,
    )

    def half_full(folder: Path) -> SimpleNamespace:
        """Space for the scratch store, and none where the store would be."""
        return SimpleNamespace(free=50_000 if folder == tmp_path else 1 << 40)

    monkeypatch.setattr(shutil, "disk_usage", half_full)
    with pytest.raises(UnavailableError, match="two shards need") as caught:
        rehearsal.rehearse(request, 4)
    assert (caught.value.where, caught.value.why) == (str(tmp_path / "s"), None)
    assert caught.value.fix == "free some space, or name an --out on another disk"


def test_stats_tell_the_costs_of_each_view_set(tmp_path: Path) -> None:
    view_set = built(tmp_path / "s", write_npz(tmp_path / "i.npz"), codec="jpg")
    answer = json.loads(invoke("stats", tmp_path / "s", "--json").stdout)["result"]
    costs = answer["costs"]["simclr"]
    assert list(costs["codecs"]) == ["jpg", "raw"]
    assert costs["codecs"]["jpg"]["set_bytes"] == bytes_on_disk(view_set)
    assert costs["codecs"]["raw"]["view_bytes"] == 16 * 16 * 3
    assert costs["codecs"]["raw"]["epoch_bytes"] == 2 * ROWS * 16 * 16 * 3
    assert "best stored as raw" in invoke("stats", tmp_path / "s").stdout
    assert "best stored as raw" not in invoke("stats", tmp_path / "s", "--column", "flip").stdout


def test_bench_says_what_bounds_a_store(tmp_path: Path) -> None:
    build_small(tmp_path / "s", write_npz(tmp_path / "i.npz"))
    arguments = ["bench", tmp_path / "s", "--seconds", 0.05, "--batch-size", 8]
    answer = json.loads(invoke(*arguments, "--json").stdout)["result"]
    found = answer["loaders"]["simclr"]
    assert found["slots"] == 2
    assert found["views_per_second"] == pytest.approx(2 * found["samples_per_second"])
    parts = found["sample_seconds"]
    assert found["share_of_limit"] == pytest.approx(parts["copy"] / parts["loader"])
    assert found["advice"] == ADVICE[found["bound"]]
    text = invoke(*arguments, "--views", "simclr+flip,online:simclr").stdout
    assert "simclr+flip,online:simclr, batches of 8" in text


def test_bench_does_not_read_images_that_the_build_could_not(tmp_path: Path) -> None:
    photographs = write_photographs(tmp_path / "photos", 4, cut=1)
    build_small(tmp_path / "s", str(photographs), on_error="skip")
    arguments = ["bench", tmp_path / "s", "--seconds", 0.05, "--batch-size", 2]
    answer = json.loads(invoke(*arguments, "--views", "online:simclr", "--json").stdout)
    assert answer["result"]["loaders"]["online:simclr"]["limit_views_per_second"] > 0


def test_bench_refuses_what_it_cannot_measure(tmp_path: Path) -> None:
    build_small(tmp_path / "s", write_npz(tmp_path / "i.npz"))
    with pytest.raises(ConfigError, match="--seconds must be above 0"):
        invoke("bench", tmp_path / "s", "--seconds", 0)
    with pytest.raises(ConfigError, match="no view set and no online policy"):
        invoke("bench", tmp_path / "s", "--views", "nothing")


@pytest.mark.parametrize(
    ("parts", "bound"),
    [
        (Parts(loader=1.0, copy=0.9), "copy"),
        (Parts(loader=1.0, copy=0.1), "python"),
        (Parts(loader=1.0, decode=0.6), "decode"),
        (Parts(loader=1.0, decode=0.3, render=0.5), "render"),
        (Parts(loader=1.0, decode=0.2, render=0.3), "python"),
        (Parts(loader=1.0, decode=0.3, disk=0.9), "disk"),
        (Parts(loader=1.0, decode=0.7, disk=0.6), "decode"),
        (Parts(loader=1.0, copy=1.4), "copy"),
    ],
)
def test_the_largest_part_bounds_a_loader(parts: Parts, bound: str) -> None:
    assert judge(parts).bound == bound
