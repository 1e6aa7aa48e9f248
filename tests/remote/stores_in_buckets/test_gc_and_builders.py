"""Garbage collection of a bucket beside builders, at every moment of either: nothing is lost.

A killed attempt left the blobs of shard 1. The next one has the same bytes, so the same names.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import viewstore
from tests.remote.stores_in_buckets.parts import Run, simclr_of
from tests.viewstore.small_stores import build_small
from viewstore.build.finalise import finalise
from viewstore.build.garbage import DAY_SECONDS, collect_garbage
from viewstore.errors import FormatError, RemoteError, ViewStoreError
from viewstore.files.bucket import Bucket
from viewstore.files.working_copy import WorkingCopy, store_at
from viewstore.shards.builder import ShardBuilder
from viewstore.shards.unit import Outcome, Unit
from viewstore.store.verify_remote import verify_remote

RECORD = "views/simclr/commits/000001.json"
BLOBS = "views/simclr/000001-"
Hook = Callable[[], object]


class Killed(BaseException):
    """Stands for SIGKILL at a moment of a test."""


@pytest.fixture(params=[0, DAY_SECONDS], ids=["new", "old"])
def age(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """How old garbage must be; what lies in the bucket is twice as old."""
    ages = Bucket.ages
    older = {"older": 2 * float(request.param)}
    monkeypatch.setattr(
        Bucket, "ages", lambda self: {k: v + older["older"] for k, v in ages(self).items()}
    )
    return float(request.param)


@pytest.fixture
def left(url: str, source: str) -> str:
    """A store of three shards; of shard 1 all blobs are there, and no commit."""
    build_small(url, source, slice_of=(0, 1))
    Bucket(url).remove(RECORD)
    return url


def gc(url: str, age: float = 0.0) -> list[str]:
    with store_at(url, rows=False) as (root, upstream):
        removed = collect_garbage(root, upstream, older_seconds=age, dry_run=False)
        return [path.relative_to(root).as_posix() for path in removed]


def blobs(url: str) -> set[str]:
    return {name for name in Bucket(url).listed() if name.startswith(BLOBS)}


def once(
    monkeypatch: pytest.MonkeyPatch, method: str, begin: str, before: Hook, after: Hook
) -> list[str]:
    """Let others act at the first request `method` for a name that begins so; return its name."""
    request, seen = getattr(Bucket, method), list[str]()

    def hooked(self: Bucket, name: str, *others: Any) -> Any:  # noqa: ANN401
        if seen or not name.startswith(begin):
            return request(self, name, *others)
        seen.append(name)
        before()
        answer = request(self, name, *others)
        after()
        return answer

    monkeypatch.setattr(Bucket, method, hooked)
    return seen


def check(url: str, local: Path) -> None:
    """Check that the store is whole after all, and equal to that of a disk; no copy is left."""
    with store_at(url) as (root, upstream):
        finalise(root, upstream=upstream)
    assert viewstore.open(url).manifest.view_sets["simclr"] == simclr_of(local)
    assert list(verify_remote(url, level="content")) == []
    gc(url)
    assert not any("/tmp/" in name for name in Bucket(url).listed())
    assert list(verify_remote(url)) == []


def nothing() -> None:
    pass


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("request_of_gc", ["copy", "remove"])
def test_a_builder_that_commits_while_gc_removes(
    request_of_gc: str,
    when: str,
    age: float,
    left: str,
    local: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build() -> None:
        assert [each.status for each in build_small(left, None, only=(1,)).outcomes] == [
            "committed"
        ]

    hooks = (build, nothing) if when == "before" else (nothing, build)
    seen = once(monkeypatch, request_of_gc, BLOBS, *hooks)
    gc(left, age)
    assert seen
    check(left, local)


def test_gc_between_the_blobs_and_the_commit_of_a_builder(
    age: float, left: str, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[str] = []
    once(monkeypatch, "put_if_absent", RECORD, lambda: removed.extend(gc(left, age)), nothing)
    build_small(left, None, only=(1,))
    assert {name for name in removed if name.startswith(BLOBS)} == blobs(left)
    check(left, local)


def test_gc_between_the_commit_of_a_builder_and_its_second_look(
    age: float, left: str, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[str] = []
    once(monkeypatch, "put_if_absent", RECORD, nothing, lambda: removed.extend(gc(left, age)))
    build_small(left, None, only=(1,))
    assert not [name for name in removed if name.startswith(BLOBS)]
    check(left, local)


def test_a_second_gc_while_the_first_removes(
    left: str, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have a copy; the builder commits between the removal of one and that of the other."""

    def second() -> None:
        once(monkeypatch, "remove", BLOBS, nothing, lambda: build_small(left, None, only=(1,)))
        gc(left, DAY_SECONDS / 2)

    ages = Bucket.ages
    monkeypatch.setattr(
        Bucket,
        "ages",
        lambda self: {
            name: age if "/tmp/" in name else age + DAY_SECONDS for name, age in ages(self).items()
        },
    )
    once(monkeypatch, "copy", BLOBS, nothing, second)
    gc(left, DAY_SECONDS / 2)
    check(left, local)


@pytest.fixture
def lost(left: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store whose builder was killed after its commit, and gc had removed its blobs before."""

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        once(patch, "put_if_absent", RECORD, lambda: gc(left), nothing)
        patch.setattr(WorkingCopy, "keep_blob", killed)
        with pytest.raises(Killed):
            build_small(left, None, only=(1,))
    assert RECORD in Bucket(left).listed()
    assert blobs(left) == set()
    return left


def test_a_builder_that_was_killed_before_its_second_look(lost: str, local: Path, run: Run) -> None:
    code, _, err = run("finalise", lost)
    assert code == 3
    assert "a shard file of simclr is missing" in err
    assert "  fix:   run the same build command again: it goes on with what is there; if it" in err
    built = build_small(lost, None, slice_of=(1, 3))
    assert [(outcome.shard, outcome.status) for outcome in built.outcomes] == [(1, "lost_race")]
    check(lost, local)


def test_lost_blobs_that_no_builder_makes_again_are_an_error(
    lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_bytes(self: ShardBuilder, unit: Unit, attempt: str, started: float) -> Outcome:
        return Outcome(shard=unit.shard, attempt=attempt, status="lost_race", seconds=0.0)

    monkeypatch.setattr(ShardBuilder, "_build", other_bytes)
    with pytest.raises(FormatError, match="files of shard 1 are gone") as found:
        build_small(lost, None)
    assert found.value.code == "VS203"
    assert f"{lost}/{RECORD}" == found.value.where
    assert "remove that record" in str(found.value.fix)
    monkeypatch.undo()
    Bucket(lost).remove(RECORD)
    assert build_small(lost, None).left == 0


@pytest.mark.parametrize("when", ["removed", "asked"])
def test_a_gc_that_was_killed_before_it_brought_a_blob_back(
    when: str, left: str, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed() -> None:
        raise Killed

    with monkeypatch.context() as patch:
        once(patch, "copy", BLOBS, nothing, lambda: build_small(left, None, only=(1,)))
        if when == "removed":
            once(patch, "remove", BLOBS, nothing, killed)
        else:
            once(patch, "copy", "views/simclr/tmp/", killed, nothing)
        with pytest.raises(Killed):
            gc(left)
    assert len(blobs(left)) == 1
    assert not [name for name in gc(left) if name.startswith(BLOBS)]
    check(left, local)


def test_a_commit_that_no_listing_shows_keeps_its_blobs(
    url: str, source: str, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_small(url, source, slice_of=(0, 1))
    there, listed = blobs(url), Bucket.listed

    def stale(self: Bucket, prefix: str = "") -> dict[str, tuple[int, float]]:
        return {name: each for name, each in listed(self, prefix).items() if name != RECORD}

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "listed", stale)
        assert gc(url) == []
    assert blobs(url) == there
    check(url, local)


def test_a_record_that_is_listed_and_does_not_come_stops_gc(
    url: str, source: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_small(url, source, slice_of=(0, 1))
    there, get = blobs(url), Bucket.get

    def gone(self: Bucket, name: str, *others: Any) -> bytes:  # noqa: ANN401
        if name == RECORD:
            raise FileNotFoundError(name)
        return get(self, name, *others)

    monkeypatch.setattr(Bucket, "get", gone)
    with pytest.raises(RemoteError):
        gc(url)
    code, _, err = run("gc", url, "--older-than", "0s")
    assert code == 3
    assert f"the bucket lists {RECORD} and does not give it" in err
    assert blobs(url) == there


def test_a_gc_that_cannot_ask_leaves_the_blob(
    left: str, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = blobs(left)

    def silent(self: WorkingCopy, path: Path) -> None:
        raise RemoteError("the bucket did not answer")

    with monkeypatch.context() as patch:
        patch.setattr(WorkingCopy, "fetch", silent)
        with pytest.raises(ViewStoreError, match="did not answer"):
            gc(left)
    assert blobs(left) == there
    build_small(left, None)
    check(left, local)
