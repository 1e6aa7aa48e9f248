"""Mending: what is damaged is named and made again, what is still needed is never dropped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import viewstore
from tests.viewstore.small_stores import build_small
from viewstore.build.finalise import finalise
from viewstore.build.garbage import collect_garbage
from viewstore.build.repair import repair, withdraw
from viewstore.cli import main as cli
from viewstore.errors import ConfigError
from viewstore.format.paths import StorePaths
from viewstore.format.records import canonical, digest_of
from viewstore.generators.pixels.expert import Expert
from viewstore.store.committed import read_commit, read_manifest
from viewstore.store.faults import Fault
from viewstore.store.progress import set_progress
from viewstore.store.verify import verify


@pytest.fixture(scope="module")
def built(source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two view sets, so of two generations."""
    store = tmp_path_factory.mktemp("built") / "s"
    build_small(store, source)
    build_small(store, source, view_set="second", seed=1)
    return store


@pytest.fixture
def store(built: Path, tmp_path: Path) -> StorePaths:
    shutil.copytree(built, tmp_path / "s")
    return StorePaths(tmp_path / "s")


def faults_of(store: StorePaths) -> list[Fault]:
    return list(verify(store.root))


def flip(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    path.chmod(0o644)
    path.write_bytes(damaged)


def reseal(path: Path, **changes: object) -> None:
    """Change fields of a record, and its digest with them."""
    value = json.loads(path.read_bytes()) | changes
    del value["digest"]
    path.chmod(0o644)
    path.write_bytes(canonical(value | {"digest": digest_of(value)}))


@pytest.mark.parametrize("harm", [Path.unlink, flip])
def test_a_lost_newest_generation_is_put_back_from_the_manifest(
    store: StorePaths, harm: object
) -> None:
    good = store.generation(2).read_bytes()
    assert callable(harm)
    harm(store.generation(2))
    faults = faults_of(store)
    assert [fault.path for fault in faults] == [str(store.generation(2))]
    repair(store.root, faults)
    assert store.generation(2).read_bytes() == store.manifest.read_bytes() == good
    assert faults_of(store) == []


def test_a_damaged_manifest_is_put_back_from_its_generation(store: StorePaths) -> None:
    good = store.manifest.read_bytes()
    flip(store.manifest)
    repair(store.root, faults_of(store))
    assert store.manifest.read_bytes() == good
    assert not store.generation(3).exists()


def test_an_older_generation_that_was_changed_is_named(store: StorePaths) -> None:
    reseal(store.generation(1), complete=False)
    (fault,) = faults_of(store)
    assert (fault.view_set, fault.path) == ("manifest", str(store.generation(1)))
    assert "not what its successor names" in fault.what
    repair(store.root, [fault])
    assert faults_of(store) == []


def test_a_store_may_be_without_older_generations(store: StorePaths, source: str) -> None:
    """Readers and builders need the newest alone, as docs/format.md says."""
    store.generation(1).unlink()
    assert faults_of(store) == []
    build_small(store.root, source, view_set="third", seed=2)
    assert faults_of(store) == []


def test_a_damaged_generation_ahead_of_the_manifest_is_named(store: StorePaths) -> None:
    shutil.copy(store.generation(1), store.generation(3))
    flip(store.generation(3))
    (fault,) = faults_of(store)
    assert fault.path == str(store.generation(3))
    repair(store.root, [fault])
    assert faults_of(store) == []


def test_a_finalise_that_was_killed_before_the_manifest_is_finished_by_the_next(
    store: StorePaths,
) -> None:
    store.manifest.write_bytes(store.generation(1).read_bytes())
    assert finalise(store.root).generation == 2
    assert store.manifest.read_bytes() == store.generation(2).read_bytes()
    assert not store.generation(3).exists()


def test_the_number_of_a_lost_generation_is_not_given_to_another(
    store: StorePaths, source: str
) -> None:
    store.generation(2).unlink()
    build_small(store.root, source, view_set="third", seed=2)
    manifest = read_manifest(store)
    assert manifest is not None
    assert manifest.generation == 3
    assert manifest.previous == hashlib.sha256(store.generation(2).read_bytes()).hexdigest()
    assert faults_of(store) == []


def test_gc_keeps_what_readers_use_while_a_shard_is_withdrawn(store: StorePaths) -> None:
    """The index still names the blobs: an open loader maps them."""
    view_set = store.view_set("simclr")
    blobs = sorted(view_set.root.glob("000001-*"))
    view_set.commit(1).unlink()
    assert collect_garbage(store.root, older_seconds=0, dry_run=False) == []
    view_set.index.unlink()
    assert collect_garbage(store.root, older_seconds=0, dry_run=False) == blobs


def test_gc_keeps_what_a_withdrawn_commit_names(store: StorePaths) -> None:
    view_set = store.view_set("simclr")
    blobs = sorted(view_set.root.glob("000001-*"))
    withdraw(view_set, 1)
    view_set.index.unlink()
    assert collect_garbage(store.root, older_seconds=0, dry_run=False) == []
    for path in view_set.quarantine.glob("*.json"):
        path.unlink()
    assert collect_garbage(store.root, older_seconds=0, dry_run=False) == blobs


def test_an_old_orphan_that_a_build_finds_again_is_young(store: StorePaths, source: str) -> None:
    """Or a garbage collection would take it in the instant before it is committed."""
    view_set = store.view_set("simclr")
    view_set.commit(1).unlink()
    blobs = sorted(view_set.root.glob("000001-*"))
    inodes = [path.stat().st_ino for path in blobs]
    for path in blobs:
        os.utime(path, (0, 0))
    build_small(store.root, source)
    assert [path.stat().st_ino for path in blobs] == inodes
    assert all(path.stat().st_mtime > 0 for path in blobs)


def test_gc_lives_with_a_file_that_a_builder_removes_under_it(store: StorePaths) -> None:
    gone = store.tmp / "gone"
    gone.symlink_to("nowhere")  # it is listed, and there is nothing to ask for its age
    assert collect_garbage(store.root, older_seconds=0, dry_run=False) == []


def test_a_view_set_whose_plan_is_gone_is_not_dropped_by_a_repair(store: StorePaths) -> None:
    store.view_set("second").plan.unlink()
    (fault,) = faults_of(store)
    assert (fault.view_set, fault.kind) == ("second", "gone")
    before = read_manifest(store)
    repair(store.root, [fault])
    assert faults_of(store) == [fault]
    after = read_manifest(store)
    assert before is not None
    assert after is not None
    assert after.view_sets == before.view_sets


def test_a_stray_commit_goes_and_builds_nothing(store: StorePaths) -> None:
    view_set = store.view_set("simclr")
    commit = read_commit(view_set, 1)
    assert commit is not None
    view_set.commit(99).write_bytes(
        replace(commit, entry=replace(commit.entry, shard=99, files=())).pack()
    )
    (fault,) = faults_of(store)
    assert (fault.shard, fault.kind) == (99, "commit")
    assert finalise(store.root).generation == 2  # nothing new
    assert repair(store.root, [fault], workers=1).shards == {"simclr": []}
    assert faults_of(store) == []


def test_an_unknown_view_set_is_refused_with_the_nearest(store: StorePaths) -> None:
    with pytest.raises(ConfigError, match=r"no view set 'secnod'.*did you mean 'second'"):
        list(verify(store.root, only="secnod"))
    with pytest.raises(ConfigError, match=r"no view set 'secnod'.*did you mean 'second'"):
        set_progress(store, "secnod")


def write_images(folder: Path, bad: tuple[int, ...]) -> Path:
    """Write twelve images, those of `bad` cut in the middle."""
    rng = np.random.Generator(np.random.Philox(1))
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(12):
        path = folder / f"{number:02d}.png"
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(path)
        if number in bad:
            path.write_bytes(path.read_bytes()[:700])
    return folder.parent


def mended(store: Path, *options: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(["verify", str(store), "--repair", "-j", "1", *options])
    return int(caught.value.code or 0)


def statuses(store: Path) -> list[int]:
    column = viewstore.open(store).view_sets["simclr"].params["status"]
    return [int(row.max()) for row in column]


def test_failed_shards_are_rebuilt_where_asked_and_keep_what_still_fails(tmp_path: Path) -> None:
    """Shards of 4 rows: rows 1 and 9 could not be read, and 1 still cannot."""
    images = write_images(tmp_path / "images" / "cat", bad=(1, 9))
    store = tmp_path / "s"
    build_small(store, str(images), shard_rows=4, on_error="skip")
    failed = [4 if row in (1, 9) else 1 for row in range(12)]
    assert statuses(store) == failed
    commits = StorePaths(store).view_set("simclr").commits
    first = {path.name: path.stat().st_ino for path in commits.iterdir()}

    assert mended(store, "--failed", "--only", "1") == 0
    assert {path.name: path.stat().st_ino for path in commits.iterdir()} == first

    assert mended(store, "--failed") == 0
    after = {path.name: path.stat().st_ino for path in commits.iterdir()}
    assert {name for name in after if after[name] != first[name]} == {"000000.json", "000002.json"}
    assert statuses(store) == failed


def test_a_repair_of_failed_samples_can_be_told_to_stop_at_one(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images" / "cat", bad=(1,))
    store = tmp_path / "s"
    build_small(store, str(images), shard_rows=4, on_error="skip")
    assert mended(store, "--failed", "--on-error", "fail") == 3
    assert mended(store, "--on-error", "skip") == 0
    assert statuses(store)[1] == 4


def test_only_the_view_set_asked_for_is_rebuilt(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images" / "cat", bad=(1,))
    store = tmp_path / "s"
    build_small(store, str(images), on_error="skip")
    build_small(store, str(images), on_error="skip", view_set="second")
    commit = StorePaths(store).view_set("second").commit(0)
    before = commit.stat().st_ino
    assert mended(store, "--failed", "--view-set", "simclr") == 0
    assert commit.stat().st_ino == before


def test_views_of_an_older_generator_are_not_rebuilt_as_other_ones(
    store: StorePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = next(store.view_set("simclr").root.glob("000001-*.tar"))
    flip(blob)
    faults = faults_of(store)
    monkeypatch.setattr(Expert, "VERSION", Expert.VERSION + 1)
    with pytest.raises(ConfigError, match=r"generator simclr was \d, is \d"):
        repair(store.root, faults)
    assert faults_of(store) == faults


def test_a_shard_of_which_every_sample_failed_is_no_fault(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images" / "cat", bad=(4, 5))
    store = tmp_path / "s"
    build_small(store, str(images), shard_rows=2, on_error="skip")
    assert statuses(store)[4:6] == [4, 4]
    assert list(verify(store, level="content")) == []
    assert mended(store, "--failed") == 0
