"""View sets that lost a shard: they stay in the manifest, and what is wrong with them is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import viewstore
from tests.viewstore.small_stores import build_small
from viewstore.build.finalise import finalise
from viewstore.build.repair import repair, withdraw
from viewstore.errors import FormatError
from viewstore.format.paths import StorePaths
from viewstore.store.committed import read_manifest
from viewstore.store.verify import verify


@pytest.fixture
def store(tmp_path: Path, source: str) -> StorePaths:
    build_small(tmp_path / "s", source)
    return StorePaths(tmp_path / "s")


def test_a_set_whose_repair_was_killed_stays_in_the_manifest(store: StorePaths) -> None:
    before = read_manifest(store)
    assert before is not None
    withdraw(store.view_set("simclr"), 1)  # and killed
    build_small(store.root, None, view_set="second", seed=1)
    after = read_manifest(store)
    assert after is not None
    assert after.view_sets["simclr"] == before.view_sets["simclr"]
    assert set(after.view_sets) == {"simclr", "second"}
    assert not after.complete
    faults = [(fault.view_set, fault.shard, fault.kind) for fault in verify(store.root)]
    assert ("simclr", 1, "missing") in faults
    views = viewstore.open(store.root).view_sets["second"]
    assert views[0].shape == (2, 16, 16, 3)
    repair(store.root, list(verify(store.root)))
    assert list(verify(store.root)) == []
    mended = read_manifest(store)
    assert mended is not None
    assert mended.complete
    assert mended.view_sets["simclr"] == before.view_sets["simclr"]


def test_a_partial_set_stays_in_the_manifest_when_another_is_built(
    tmp_path: Path, source: str
) -> None:
    root = tmp_path / "s"
    build_small(root, source, only=(0, 1))
    finalise(root, allow_partial=True)
    partial = viewstore.open(root).view_sets["simclr"]
    assert not partial.complete
    build_small(root, None, view_set="second", seed=1)
    opened = viewstore.open(root)
    assert set(opened.view_sets) == {"simclr", "second"}
    assert opened.view_sets["simclr"][3].tolist() == partial[3].tolist()
    assert [fault.kind for fault in verify(root)] == []


def test_a_plan_with_commits_that_the_manifest_does_not_name_is_a_fault(
    store: StorePaths, source: str
) -> None:
    build_small(store.root, source, view_set="second", seed=1, only=(0,))
    faults = [fault for fault in verify(store.root) if fault.view_set == "second"]
    assert [(fault.shard, fault.kind) for fault in faults] == [(None, "unpublished")]
    assert "1 of 3 shards" in faults[0].what


def test_the_shard_that_was_withdrawn_is_named_to_who_reads_it(store: StorePaths) -> None:
    withdraw(store.view_set("simclr"), 1)
    blob = next(store.view_set("simclr").root.glob("000001-*.tar"))
    blob.unlink()
    build_small(store.root, None, view_set="second", seed=1)
    views = viewstore.open(store.root).view_sets["simclr"]
    assert views[0].shape == (2, 16, 16, 3)
    with pytest.raises(FormatError, match="shard 1"):
        views[9]


@pytest.mark.parametrize("lacks", ["params.zarr/*/c/0*", "stats.json", "index/members.npy"])
def test_a_repair_derives_again_what_a_part_lacks(tmp_path: Path, source: str, lacks: str) -> None:
    root = tmp_path / "s"
    build_small(root, source, only=(0,))
    finalise(root, allow_partial=True)
    build_small(root, source, only=(1,))  # committed, and not published
    before = viewstore.open(root).store_id
    for path in list((root / "views" / "simclr").glob(lacks)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert list(verify(root))
    repair(root, list(verify(root)), workers=1)
    assert list(verify(root)) == []
    assert viewstore.open(root).store_id == before


@pytest.mark.parametrize("more", [True, False])
def test_a_repair_of_a_part_whose_index_is_gone_loses_no_shard(
    tmp_path: Path, source: str, more: bool
) -> None:
    """Nothing tells which shards were published: all of them are built."""
    root = tmp_path / "s"
    build_small(root, source, only=(0,))
    finalise(root, allow_partial=True)
    if more:
        build_small(root, source, only=(1,))
    path = root / "views" / "simclr" / "index.json"
    path.write_bytes(path.read_bytes()[:-2])
    repair(root, list(verify(root)), workers=1)
    assert list(verify(root)) == []
    assert viewstore.open(root).view_sets["simclr"].complete


def test_a_damaged_plan_of_an_unfinished_set_keeps_no_other_from_being_read(
    store: StorePaths,
) -> None:
    build_small(store.root, None, view_set="second", seed=1, only=(0,))
    assert viewstore.open(store.root).unfinished == {"second": "1 of 3 shards are there"}
    plan = store.view_set("second").plan
    plan.chmod(0o644)
    plan.write_bytes(b"{")
    opened = viewstore.open(store.root)
    assert (opened.unfinished, opened.names) == ({}, ["simclr"])
    assert opened.view_sets["simclr"][0].shape == (2, 16, 16, 3)
