"""A build into a bucket that ended early: what is there counts, and the next one goes on."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import viewstore
from tests.remote.servers import BUCKET, put
from tests.remote.stores_in_buckets.parts import (
    DEADLINE_SECONDS,
    Run,
    content,
    simclr_of,
)
from tests.viewstore.small_stores import build_small
from viewstore.build.compose import builder_factory
from viewstore.errors import StoppedError
from viewstore.files import working_copy
from viewstore.files.bucket import Bucket
from viewstore.files.working_copy import WorkingCopy, store_at
from viewstore.shards.builder import ShardBuilder, Unwatched, made_builder
from viewstore.shards.place import Place
from viewstore.shards.unit import units


def test_a_killed_build_goes_on(
    url: str, source: str, local: Path, copies: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import os, signal\n"
        "from tests.viewstore.small_stores import build_small\n"
        "from viewstore.shards import builder\n"
        "publish = builder.publish\n"
        "def last(paths, blobs, commit, upstream):\n"
        "    publish(paths, blobs, commit, upstream)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "builder.publish = last\n"
        f"build_small({url!r}, {source!r})\n"
    )
    killed = subprocess.run([sys.executable, "-c", program], timeout=DEADLINE_SECONDS)
    assert killed.returncode == -signal.SIGKILL
    assert len(Bucket(url).listed("views/simclr/commits")) == 1
    assert len(list(copies.glob(f"{working_copy.PREFIX}*"))) == 1
    code, out, _ = run("status", url, "--missing")
    assert code == 1
    assert "missing: 1-2" in out
    monkeypatch.setattr(working_copy, "UNLOCKED_SECONDS", 0)
    built = build_small(url, source)
    assert [outcome.shard for outcome in built.outcomes] == [1, 2]
    assert viewstore.open(url).manifest.view_sets["simclr"] == simclr_of(local)
    assert list(copies.glob(f"{working_copy.PREFIX}*")) == []


def test_a_stop_leaves_the_commits_and_no_copy(
    url: str, source: str, copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_unit = ShardBuilder.run

    def stopping(builder: ShardBuilder, unit: Any) -> Any:  # noqa: ANN401
        outcome = run_unit(builder, unit)
        os.kill(os.getpid(), signal.SIGTERM)
        return outcome

    monkeypatch.setattr(ShardBuilder, "run", stopping)
    with pytest.raises(StoppedError):
        build_small(url, source)
    assert Bucket(url).listed("views/simclr/commits")
    assert list(copies.glob(f"{working_copy.PREFIX}*")) == []
    monkeypatch.undo()
    assert build_small(url, source).left == 0


def test_a_unit_that_another_builder_committed_is_not_rendered(
    url: str, source: str, local: Path
) -> None:
    build_small(url, source, only=(0,))
    with store_at(url) as (root, upstream):
        builder = made_builder(
            builder_factory(root, "simclr", {}, on_error="fail", upstream=upstream),
            Unwatched(),
            Place(),
        )
        assert isinstance(builder, ShardBuilder)
        build_small(url, source, only=(1,))
        outcomes = [builder.run(unit).status for unit in units(builder.plan, [0, 1, 2])]
    assert outcomes == ["already", "already", "committed"]


def test_a_worker_of_another_host_makes_a_copy_of_its_own(
    url: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closers: list[Any] = []
    monkeypatch.setattr("atexit.register", closers.append)
    build_small(url, source, only=(0,))
    elsewhere = pickle.loads(pickle.dumps(WorkingCopy(tmp_path / "not here", Bucket(url))))
    make = builder_factory(tmp_path / "not here", "simclr", {}, on_error="fail", upstream=elsewhere)
    builder = made_builder(make, Unwatched(), Place())
    assert isinstance(builder, ShardBuilder), builder
    try:
        assert [builder.run(unit).status for unit in units(builder.plan, [0, 1])] == [
            "already",
            "committed",
        ]
        tars = [path for path in builder.paths.root.rglob("*.tar") if path.is_file()]
        assert tars == []  # a copy holds no pixels
    finally:
        for close in closers:
            close()
    assert len(Bucket(url).listed("views/simclr/commits")) == 2


def test_garbage_is_what_nothing_names(url: str, source: str, s3_endpoint: str, run: Run) -> None:
    build_small(url, source)
    there = content(url)
    folder = url.removeprefix(f"s3://{BUCKET}/")
    orphans = ["views/simclr/000001-0123456789abcdef.tar", "tmp/probe-1", "views/simclr/tmp/x.0"]
    for name in orphans:
        put(s3_endpoint, f"{folder}/{name}", b"left over")
    put(s3_endpoint, f"{folder}/views/simclr/notes.txt", b"of the user")
    assert run("gc", url)[1] == "removed 0 files\n"
    assert run("gc", url, "--older-than", "0s", "--dry-run")[1] == "would remove 3 files\n"
    assert set(orphans) <= set(Bucket(url).listed())
    assert run("gc", url, "--older-than", "0s")[1] == "removed 3 files\n"
    assert content(url) == there | {"views/simclr/notes.txt": b"of the user"}


def test_a_shard_that_is_gone_from_the_bucket_is_not_published(
    url: str, source: str, run: Run
) -> None:
    build_small(url, source, slice_of=(0, 1))
    name = next(each for each in Bucket(url).listed("views/simclr") if each.endswith(".tar"))
    Bucket(url).remove(name)
    code, _, err = run("finalise", url)
    assert code == 3
    assert "a shard file of simclr is missing" in err
    assert f"where: {url}/{name}\n" in err
    assert "manifest.json" not in Bucket(url).listed()
