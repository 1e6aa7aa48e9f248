"""Garbage collection beside builders: what a builder is about to name is never dropped."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from tests.viewstore.small_stores import build_small
from viewstore.build.garbage import DAY_SECONDS, collect_garbage
from viewstore.build.repair import withdraw
from viewstore.files import disk
from viewstore.format.paths import StorePaths
from viewstore.shards import commit as committing
from viewstore.store.verify import verify


@pytest.fixture
def store(tmp_path: Path, source: str) -> StorePaths:
    build_small(tmp_path / "s", source)
    return StorePaths(tmp_path / "s")


def make_orphans(store: StorePaths) -> None:
    """Leave the blobs of shard 1 as an old attempt would: right, unnamed, a day old."""
    view_set = store.view_set("simclr")
    withdraw(view_set, 1)
    shutil.rmtree(view_set.quarantine)
    view_set.index.unlink()
    old = time.time() - 48 * 3600
    for path in view_set.root.glob("000001-*"):
        os.utime(path, (old, old))


def test_a_builder_that_adopts_an_old_orphan_while_gc_runs_loses_nothing(
    store: StorePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gc has listed and aged the orphans when the builder takes one of them for its own."""
    make_orphans(store)
    listed, adopted = threading.Event(), threading.Event()
    unlink, publish = disk.unlink, committing.publish

    def build() -> None:
        listed.wait(20)
        build_small(store.root, None)
        adopted.set()

    builder = threading.Thread(target=build)
    builder.start()

    def pausing(path: Path) -> None:
        if path.name.startswith("000001-") and threading.current_thread() is not builder:
            listed.set()
            adopted.wait(3)  # a builder that is kept waiting by gc does not come before its end
        unlink(path)

    monkeypatch.setattr(disk, "unlink", pausing)
    assert publish is committing.publish
    collect_garbage(store.root, dry_run=False)
    listed.set()
    builder.join(60)
    monkeypatch.undo()
    assert DAY_SECONDS == 24 * 3600
    assert [fault for fault in verify(store.root) if fault.kind != "orphan"] == []


def test_gc_leaves_a_folder_that_is_named_as_a_blob(store: StorePaths) -> None:
    folder = store.view_set("simclr").root / "000002-2222222222222222.tar"
    folder.mkdir()
    assert collect_garbage(store.root, older_seconds=0, dry_run=False) == []
    assert folder.is_dir()
