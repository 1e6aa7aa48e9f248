"""Records of another plan, and damaged ones: never taken for shards of the plan that is built."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import viewstore
from tests.viewstore.commands import run
from tests.viewstore.small_stores import build_small
from viewstore.build.finalise import finalise
from viewstore.build.garbage import collect_garbage
from viewstore.build.planning import plan
from viewstore.build.rename import remove_view_set, rename_view_set
from viewstore.build.request import BuildRequest
from viewstore.errors import ConfigError, FormatError
from viewstore.format.manifest import Commit
from viewstore.format.paths import StorePaths, ViewSetPaths
from viewstore.shards.builder import ShardBuilder
from viewstore.shards.engine import Job
from viewstore.shards.local import run_local
from viewstore.shards.unit import Outcome
from viewstore.store.committed import committed_shards
from viewstore.store.verify import verify

SHARDS = 3
OTHER_ID = "0" * 64


def begin_anew(out: Path, source: str) -> None:
    """Take the view set out, and plan it with another seed."""
    remove_view_set(out, "simclr")
    settings = {"views": 2, "height": 16, "width": 16}
    plan(BuildRequest(generator="simclr", out=out, source=source, settings=settings, seed=5))


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The shards that were rendered, in order."""
    shards: list[int] = []
    build = ShardBuilder._build

    def counted(builder: ShardBuilder, unit: Any, *rest: Any) -> Any:  # noqa: ANN401
        shards.append(unit.shard)
        return build(builder, unit, *rest)

    monkeypatch.setattr(ShardBuilder, "_build", counted)
    return shards


@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_a_builder_whose_plan_was_replaced_commits_nothing_more(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    source: str,
    rendered: list[int],
    on_error: str,
) -> None:
    out = tmp_path / "s"

    def replaced_after_one(job: Job) -> Iterator[Outcome]:
        outcomes = run_local(job)
        yield next(outcomes)
        begin_anew(out, source)
        yield from outcomes

    with pytest.raises(ConfigError, match="'simclr' was removed or replaced while this was built"):
        build_small(out, source, executor=replaced_after_one, on_error=on_error)
    assert committed_shards(StorePaths(out).view_set("simclr")) == []
    assert rendered == [0, 1]
    assert run(capsys, "build", "--generator", "simclr", "--out", out, "-j", "1")[0] == 0
    build_small(tmp_path / "t", source, seed=5)
    assert viewstore.open(out).store_id == viewstore.open(tmp_path / "t").store_id


def test_a_plan_that_is_replaced_after_the_last_commit_is_said_too(
    tmp_path: Path, source: str
) -> None:
    out = tmp_path / "s"

    def replaced_at_the_end(job: Job) -> Iterator[Outcome]:
        yield from run_local(job)
        begin_anew(out, source)

    with pytest.raises(ConfigError, match="'simclr' was removed or replaced while this was built"):
        build_small(out, source, executor=replaced_at_the_end)


def resealed(paths: ViewSetPaths, shard: int, **changes: Any) -> None:  # noqa: ANN401
    """Write the commit record of a shard again with other values, under a right digest."""
    path = paths.commit(shard)
    commit = Commit.unpack(path.read_bytes())
    rewrite(path, replace(commit, **changes).pack())


def rewrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


SPOILT: dict[str, Callable[[ViewSetPaths], None]] = {
    "another plan": lambda paths: resealed(paths, 1, plan_id=OTHER_ID),
    "another view set": lambda paths: resealed(paths, 1, view_set="other"),
    "another shard": lambda paths: rewrite(paths.commit(1), paths.commit(0).read_bytes()),
    "fewer rows": lambda paths: resealed(paths, 1, entry=replace(entry_of(paths), rows=7)),
    "cut": lambda paths: rewrite(paths.commit(1), paths.commit(1).read_bytes()[:-20]),
    "empty": lambda paths: rewrite(paths.commit(1), b""),
}


def entry_of(paths: ViewSetPaths) -> Any:  # noqa: ANN401
    return Commit.unpack(paths.commit(1).read_bytes()).entry


@pytest.fixture(params=SPOILT)
def spoilt(tmp_path: Path, source: str, request: pytest.FixtureRequest) -> StorePaths:
    """A whole store whose shard 1 of simclr then has a record that is not one of its plan."""
    paths = StorePaths(tmp_path / "s")
    build_small(paths.root, source)
    SPOILT[request.param](paths.view_set("simclr"))
    return paths


READERS: dict[str, Callable[[Path], object]] = {
    "build": lambda out: build_small(out, None),
    "slice": lambda out: build_small(out, None, slice_of=(1, 3)),
    "finalise": finalise,
    "gc": lambda out: collect_garbage(out, older_seconds=0, dry_run=False),
    "mv": lambda out: rename_view_set(out, "simclr", "moco"),
}


def test_who_reads_a_record_that_is_not_of_the_plan_refuses_it(
    capsys: pytest.CaptureFixture[str], spoilt: StorePaths
) -> None:
    store_id = viewstore.open(spoilt.root).store_id
    fix = f"viewstore verify {spoilt.root} --repair --view-set simclr --only 1"
    for name, read in READERS.items():
        with pytest.raises(FormatError, match="commit of shard 1 cannot be used") as caught:
            read(spoilt.root)
        assert caught.value.fix == fix, name
    code, told, _ = run(capsys, "status", spoilt.root, "--missing")
    assert (code, "simclr: 2 of 3 shards" in told) == (1, True)
    assert "  1 commit record cannot be used, damaged or of another plan: 1" in told
    assert f"  missing: 1\n  mend it with: {fix}\n" in told
    again = ("build", "--generator", "simclr", "--out", spoilt.root)
    for how in ("--plan", "--shard=1/3"):
        code, _, said = run(capsys, *again, how)
        assert (code, "commit of shard 1 cannot be used" in said) == (3, True)
    faults = [(each.kind, each.shard) for each in verify(spoilt.root) if each.kind != "orphan"]
    assert ("commit", 1) in faults
    assert build_small(spoilt.root, None, slice_of=(2, 3)).outcomes == ()  # it has no part in it
    assert run(capsys, *shlex.split(fix)[1:])[0] == 0
    assert viewstore.open(spoilt.root).store_id == store_id


def test_records_of_another_plan_are_named_together_and_mended_before_the_first_end(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, source: str
) -> None:
    """As a builder leaves them that commits between the look at its plan and its replacement."""
    out = tmp_path / "s"
    view_set = StorePaths(out).view_set("simclr")
    build_small(out, source, only=(1, 2))
    for shard in (1, 2):
        resealed(view_set, shard, plan_id=OTHER_ID)
    with pytest.raises(FormatError) as caught:
        build_small(out, None)
    assert str(caught.value) == (
        "commit of shard 1 cannot be used: it belongs to another plan, nor can 1 other of simclr"
    )
    fix = str(caught.value.fix)
    assert fix == f"viewstore verify {out} --repair --view-set simclr --only 1-2"
    code, told, said = run(capsys, *shlex.split(fix)[1:])  # shard 0 was never built
    assert (code, "rebuilt simclr [1, 2]" in said) == (1, True)
    assert "manifest: missing: no build has ended" in told
    assert build_small(out, None).manifest is not None
    build_small(tmp_path / "t", source)
    assert viewstore.open(out).store_id == viewstore.open(tmp_path / "t").store_id


def test_a_record_beyond_the_last_shard_is_mended_as_advised(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, source: str
) -> None:
    out = tmp_path / "s"
    build_small(out, source)
    StorePaths(out).view_set("simclr").commit(9).write_bytes(b"hi")
    fix = f"viewstore verify {out} --repair --view-set simclr"
    for command in ("status", "gc"):
        code, told, said = run(capsys, command, out)
        assert code
        assert f"{fix}\n" in told + said
    assert run(capsys, *shlex.split(fix)[1:])[0] == 0
    assert [run(capsys, command, out)[0] for command in ("status", "gc")] == [0, 0]


def test_what_is_complete_is_published_before_the_damage_of_another_is_named(
    tmp_path: Path, source: str
) -> None:
    out = tmp_path / "s"
    build_small(out, source, only=(0, 1))
    rewrite(StorePaths(out).view_set("simclr").commit(1), b"")
    build_small(out, source, view_set="other", slice_of=(0, 1))
    for _ in range(2):
        with pytest.raises(FormatError, match="commit of shard 1 cannot be used"):
            finalise(out)
        manifest = viewstore.open(out).manifest
        assert (manifest.generation, list(manifest.view_sets)) == (1, ["other"])


def test_a_slice_with_a_record_that_cannot_be_used_is_not_said_to_be_all(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, source: str
) -> None:
    out = tmp_path / "s"
    build_small(out, source, only=(0,))
    rewrite(StorePaths(out).view_set("simclr").commit(0), b"")
    words = ("build", "--generator", "simclr", "--out", out, "--shard")
    for shard in (1, 2):
        code, told, _ = run(capsys, *words, f"{shard}/3")
        assert (code, "not complete yet: viewstore status" in told) == (0, True), told


def test_the_winner_of_a_race_must_be_of_the_same_plan(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s"
    view_set = StorePaths(out).view_set("simclr")
    publish = viewstore.shards.builder.publish

    def late(paths: ViewSetPaths, blobs: Any, commit: Commit, upstream: Any) -> Any:  # noqa: ANN401
        paths.commit(commit.entry.shard).write_bytes(replace(commit, plan_id=OTHER_ID).pack())
        return publish(paths, blobs, replace(commit, attempt="later"), upstream)

    monkeypatch.setattr("viewstore.shards.builder.publish", late)
    with pytest.raises(FormatError, match="commit of shard 0 cannot be used: it belongs to"):
        build_small(out, source)
    assert committed_shards(view_set) == [0]


def test_a_plan_that_is_a_folder_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, source: str
) -> None:
    out = tmp_path / "s"
    build_small(out, source)
    path = StorePaths(out).view_set("simclr").plan
    path.unlink()
    path.mkdir()
    for command in ("finalise", "status", "gc"):
        code, _, said = run(capsys, command, out)
        assert (code, "plan.json is a folder" in said, str(path) in said) == (3, True, True), said
    found = [(each.kind, each.what) for each in verify(out)]
    assert found == [("plan", "plan.json is a folder")]
