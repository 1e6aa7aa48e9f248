"""Builds: the same store however it comes about, refusals before any work, nothing lost."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

import viewstore
from tests.viewstore.small_stores import ROWS, SHARD_ROWS, build_small, write_npz, write_photographs
from viewstore.build.finalise import finalise
from viewstore.build.garbage import collect_garbage
from viewstore.build.repair import repair
from viewstore.errors import ConfigError, FormatError, StoppedError
from viewstore.files import disk
from viewstore.format.paths import StorePaths
from viewstore.format.plan import Plan
from viewstore.store.committed import committed_shards
from viewstore.store.verify import verify


@pytest.fixture(scope="module")
def identity(source: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    store = tmp_path_factory.mktemp("reference") / "store"
    build_small(store, source)
    return viewstore.open(store).store_id


def test_views_and_params_read_back(tmp_path: Path, source: str) -> None:
    build_small(tmp_path / "s", source)
    store = viewstore.open(tmp_path / "s")
    views = store.view_sets["simclr"]
    assert store.num_samples == len(views) == ROWS
    assert views[17].shape == (2, 16, 16, 3)
    assert views.params["crop_box"].shape == (ROWS, 2, 4)
    assert (views.params["status"] == 1).all()
    assert store.keys.row("0017") == 17
    with pytest.raises(ConfigError, match="did you mean '0017'"):
        store.keys.row("00171")
    with pytest.raises(ConfigError, match="did you mean 'simclr'"):
        store.view_set("simcrl")


def test_workers_and_slices_give_the_same_store(tmp_path: Path, source: str, identity: str) -> None:
    build_small(tmp_path / "two", source, workers=2)
    assert viewstore.open(tmp_path / "two").store_id == identity
    for index in (1, 0):
        built = build_small(tmp_path / "slices", source, slice_of=(index, 2))
        assert built.manifest is None
    assert finalise(tmp_path / "slices").store_id == identity


def test_a_second_run_builds_nothing(tmp_path: Path, source: str) -> None:
    build_small(tmp_path / "s", source)
    again = build_small(tmp_path / "s", source)
    assert again.samples == 0
    assert again.manifest is not None
    assert again.manifest.generation == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 5}, "other settings: seed was 0, is 5$"),
        ({"codec": "png"}, "other settings: codec was raw, is png$"),
        ({"settings": {"views": 3}}, "other settings: views was 2, is 3$"),
        ({"settings": {"height": 20, "width": 20}}, "other settings: size was 16, is 20$"),
        ({"settings": {"filter": "linear"}}, "other settings: filter was area, is linear$"),
        ({"generator": "moco", "view_set": "simclr"}, "generator was simclr, is moco$"),
        ({"shard_rows": 4}, "other settings: shard_rows was 8, is 4$"),
    ],
)
def test_another_plan_is_refused_in_the_words_of_the_user(
    tmp_path: Path, source: str, changes: dict[str, object], said: str
) -> None:
    build_small(tmp_path / "s", source)
    with pytest.raises(ConfigError, match=said) as caught:
        build_small(tmp_path / "s", source, **changes)
    assert caught.value.code == "VS103"
    assert list(verify(tmp_path / "s")) == []


def test_another_source_is_refused(tmp_path: Path, source: str) -> None:
    build_small(tmp_path / "s", source)
    other = write_npz(tmp_path / "other.npz", rows=ROWS + 1)
    with pytest.raises(ConfigError, match="begun with another source") as caught:
        build_small(tmp_path / "s", other, view_set="second")
    assert caught.value.code == "VS103"


def test_refused_settings_leave_no_store(tmp_path: Path, source: str) -> None:
    with pytest.raises(ConfigError, match="did you mean 'views'"):
        build_small(tmp_path / "s", source, settings={"view": 3})
    with pytest.raises(ConfigError, match="did you mean 'simclr'"):
        build_small(tmp_path / "s", source, generator="simcl")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("shard_rows", [-1, 10_000])
def test_a_store_is_not_begun_with_shards_of_a_size_that_none_may_have(
    tmp_path: Path, source: str, shard_rows: int
) -> None:
    with pytest.raises(ConfigError, match=r"shard_rows must be in \[1, 8192\]"):
        build_small(tmp_path / "s", source, shard_rows=shard_rows)
    assert not (tmp_path / "s").exists()


def test_a_folder_of_something_else_is_not_built_into(tmp_path: Path, source: str) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="not empty and not a store"):
        build_small(tmp_path, source)


def test_a_full_disk_keeps_what_is_committed(
    tmp_path: Path, source: str, identity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = disk.stream_temporary, []

    @contextmanager
    def full(path: Path, *, mode: int = 0o444) -> Iterator[BinaryIO]:
        calls.append(path)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        with real(path, mode=mode) as file:
            yield file

    with monkeypatch.context() as patch:
        patch.setattr(disk, "stream_temporary", full)
        with pytest.raises(StoppedError, match="disk is full") as caught:
            build_small(tmp_path / "s", source)
    assert (caught.value.code, caught.value.exit_code) == ("VS302", 4)
    assert committed_shards(StorePaths(tmp_path / "s").view_set("simclr")) == [0]
    build_small(tmp_path / "s", source)
    assert viewstore.open(tmp_path / "s").store_id == identity


def damaged_copy(good: bytes, how: str) -> bytes:
    if how == "cut":
        return good[: len(good) // 2]
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 4
    return bytes(flipped)


def overwrite(path: Path, data: bytes) -> None:
    """Change a file behind the store's back; blobs are read-only."""
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["cut", "flip"])
def test_verify_names_every_damaged_file(tmp_path: Path, source: str, how: str) -> None:
    store = tmp_path / "s"
    build_small(store, source)
    files = [
        path for path in sorted(store.rglob("*")) if path.is_file() and path.stat().st_size > 0
    ]
    assert len(files) > 50
    for path in files:
        good = path.read_bytes()
        overwrite(path, damaged_copy(good, how))
        faults = list(verify(store))
        assert faults, f"{path} is damaged and verify did not see it"
        overwrite(path, good)
    assert list(verify(store)) == []


def test_repair_rebuilds_exactly_the_damaged_shards(
    tmp_path: Path, source: str, identity: str
) -> None:
    store = tmp_path / "s"
    build_small(store, source)
    root = store / "views" / "simclr"
    before = {path: path.stat().st_mtime_ns for path in root.glob("*.tar")}
    damaged = next(root.glob("000001-*.tar"))
    overwrite(damaged, damaged_copy(damaged.read_bytes(), "flip"))
    faults = list(verify(store))
    assert {(fault.shard, fault.kind) for fault in faults} == {(1, "hash")}
    done = repair(store, faults, workers=1)
    assert done.shards == {"simclr": [1]}
    assert done.manifest.store_id == identity
    assert list(verify(store)) == []
    after = {path: path.stat().st_mtime_ns for path in root.glob("*.tar")}
    assert {path for path in before if after[path] != before[path]} == {damaged}
    assert list((root / "quarantine").glob(f"{damaged.name}.*"))


def test_gc_drops_only_what_nothing_names(tmp_path: Path, source: str, identity: str) -> None:
    store = tmp_path / "s"
    build_small(store, source)
    root = store / "views" / "simclr"
    orphan = root / f"000000-{'0' * 16}.tar"
    orphan.write_bytes(b"left by a killed build")
    assert collect_garbage(store, dry_run=False) == []  # too young
    assert collect_garbage(store, older_seconds=0, dry_run=False) == [orphan]
    assert viewstore.open(store).store_id == identity
    assert list(verify(store)) == []


def test_a_cut_shard_is_refused_before_it_is_mapped(tmp_path: Path, source: str) -> None:
    build_small(tmp_path / "s", source)
    shard = next((tmp_path / "s" / "views" / "simclr").glob("000000-*.tar"))
    overwrite(shard, shard.read_bytes()[:-512])
    with pytest.raises(FormatError, match="shard 0 of simclr is shorter") as caught:
        viewstore.open(tmp_path / "s").view_sets["simclr"][0]
    assert caught.value.code == "VS203"
    assert "verify" in str(caught.value.fix)


def test_an_image_that_cannot_be_read_is_named_or_kept_as_black(tmp_path: Path) -> None:
    write_photographs(tmp_path / "images" / "cat", 3, cut=1)
    with pytest.raises(FormatError, match=r"cat/1\.jpg cannot be read"):
        build_small(tmp_path / "fail", str(tmp_path / "images"))
    built = build_small(tmp_path / "skip", str(tmp_path / "images"), on_error="skip")
    assert built.failures == 1
    views = viewstore.open(tmp_path / "skip").view_sets["simclr"]
    assert views.params["status"].tolist() == [[1, 1], [4, 4], [1, 1]]
    assert not views[1].any()
    assert views[0].any()


def test_opening_what_is_not_a_store_says_so(tmp_path: Path, source: str) -> None:
    with pytest.raises(ConfigError, match="there is no store") as caught:
        viewstore.open(tmp_path / "nowhere")
    assert caught.value.code == "VS202"
    with pytest.raises(ConfigError, match=r"has no manifest\.json"):
        viewstore.open(tmp_path)
    build_small(tmp_path / "s", source)
    manifest = tmp_path / "s" / "manifest.json"
    overwrite(manifest, manifest.read_bytes().replace(b'"format":1', b'"format":2', 1))
    with pytest.raises(FormatError, match="format version must be 1, got 2"):
        viewstore.open(tmp_path / "s")


def test_shards_follow_from_the_plan(tmp_path: Path, source: str) -> None:
    built = build_small(tmp_path / "s", source)
    assert isinstance(built.plan, Plan)
    assert built.plan.shards == -(-ROWS // SHARD_ROWS)
    assert [len(built.plan.shard_range(shard)) for shard in range(3)] == [8, 8, 4]


def test_two_view_sets_of_one_seed_differ_and_one_built_again_does_not(
    tmp_path: Path, source: str
) -> None:
    for out in ("a", "b"):
        build_small(tmp_path / out, source, view_set="one")
        build_small(tmp_path / out, source, view_set="two")
    stores = [viewstore.open(tmp_path / out) for out in ("a", "b")]
    one, two = stores[0].view_sets["one"], stores[0].view_sets["two"]
    assert np.array_equal(one[3], stores[1].view_sets["one"][3])
    assert (one.params["crop_box"] == two.params["crop_box"]).all(axis=-1).mean() < 0.1
