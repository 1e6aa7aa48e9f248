"""A power cut at any moment of a build leaves what was promised, and a rerun ends it the same.

The operations of two small builds into one store are recorded once; then every state that a cut
may leave after each of them is made, read and built on.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

import viewstore
from tests.faults.crash_model import (
    KINDS,
    Crash,
    Killed,
    Op,
    Recorder,
    Replay,
    Tree,
    crashes,
    tree_of,
)
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.build.garbage import collect_garbage
from viewstore.errors import ConfigError
from viewstore.files.upstream import Upstream
from viewstore.format.manifest import Commit, Manifest
from viewstore.format.paths import StorePaths, ViewSetPaths
from viewstore.images.codec import codec_from_plan
from viewstore.shards import builder
from viewstore.shards.commit import Blob, PublishResult
from viewstore.sources.record import read_sources
from viewstore.store.committed import committed_shards, read_commit, read_plan, view_sets
from viewstore.store.verify import shard_faults, verify

VIEW_SETS = ("first", "second")
STORE = "store"
LEAST_STATES = 1500
SOME = 40  # a rerun from every 40th state


def build_both(store: Path, source: str, tell: Callable[[str], None]) -> None:
    settings = {"views": 1, "height": 8, "width": 8}
    for name in VIEW_SETS:
        build_small(store, source, view_set=name, settings=settings, shard_rows=2)
        tell(f"built {name}")


@dataclass
class World:
    """The recorded builds, what they ended in, and a place to make crash states in."""

    folder: Path
    source: str
    ops: list[Op]
    whole: Tree
    ids: list[str]
    rerun_every: int = 1
    checked: dict[tuple[frozenset[tuple[str, str]], tuple[str, ...]], str | None] = field(
        default_factory=dict
    )

    def problem(self, crash: Crash) -> str | None:
        """Return what is wrong after a crash; None if nothing is."""
        key = (
            frozenset((name, digest(data)) for name, data in crash.tree.items() if kept(name)),
            crash.marks,
        )
        if key not in self.checked:
            root = self.folder / str(len(self.checked))
            self.lay_out(root, crash.tree)
            self.checked[key] = self.problem_at(root / STORE, crash.marks)
            shutil.rmtree(root)
        return self.checked[key]

    def lay_out(self, root: Path, tree: Tree) -> None:
        """Make the files of a state, as links to one copy of each content."""
        root.mkdir()
        for name, data in sorted(tree.items()):
            if data is None:
                (root / name).mkdir()
                continue
            copy = self.folder / digest(data)
            if not copy.exists():
                copy.write_bytes(data)
            os.link(copy, root / name)

    def problem_at(self, store: Path, marks: tuple[str, ...]) -> str | None:
        try:
            found = wrong_now(store, marks, self.ids)
            if found is None and len(self.checked) % self.rerun_every == 0:
                build_both(store, self.source, lambda label: None)
                found = wrong_at_the_end(store, self.whole)
        except (viewstore.ViewStoreError, OSError) as error:
            found = f"{type(error).__name__}: {error}"
        return found


@functools.cache
def digest(data: bytes | None) -> str:
    return "folder" if data is None else hashlib.sha256(data).hexdigest()


@functools.cache
def kept(name: str) -> bool:
    return "tmp" not in Path(name).parts[:-1]


def wrong_now(store: Path, marks: tuple[str, ...], ids: list[str]) -> str | None:
    """Read everything that is there: each read finds the old, the new, or nothing yet."""
    paths = StorePaths(store)
    if paths.sources_record.is_file():
        read_sources(paths)
    there = set()
    for name in view_sets(paths):
        plan = read_plan(paths.view_set(name))
        codec = codec_from_plan(plan.codec)
        for shard in committed_shards(paths.view_set(name)):
            commit = read_commit(paths.view_set(name), shard)
            assert commit is not None
            faults = list(shard_faults(paths.view_set(name), plan, codec, commit, "content"))
            if faults:
                return f"shard {shard} of {name} is visible and {faults[0].kind}"
            there.add(f"committed {name} {shard}")
    if lost := {mark for mark in marks if mark.startswith("committed")} - there:
        return f"lost: {sorted(lost)}"
    built = len({mark for mark in marks if mark.startswith("built")})
    try:
        opened = viewstore.open(store)
    except ConfigError as error:
        return None if error.code == "VS202" and not built else f"no store: {error}"
    if opened.store_id not in ids[max(0, built - 1) :]:
        return "the manifest is neither the old one nor the new one"
    unfinished = ("orphan", "unpublished")  # what a build leaves that has not ended yet
    faults = [fault for fault in verify(store, level="content") if fault.kind not in unfinished]
    return f"{faults[0].kind}: {faults[0].what}" if faults else None


def wrong_at_the_end(store: Path, whole: Tree) -> str | None:
    collect_garbage(store, older_seconds=0, dry_run=False)
    if faults := list(verify(store)):
        return f"after a rerun {faults[0].kind}: {faults[0].what}"
    ended = lasting({f"{STORE}/{name}": data for name, data in tree_of(store).items()})
    if ended != lasting(whole):
        names = [name for name in ended.keys() | whole.keys() if ended.get(name) != whole.get(name)]
        return f"after a rerun other bytes: {sorted(names)[:3]}"
    return None


def lasting(tree: Tree) -> Tree:
    """Every file but the records of attempts, which name times and hosts, and scratch."""
    return {
        name: data
        for name, data in tree.items()
        if data is not None and kept(name) and "commits" not in Path(name).parts
    }


def recorder_in(folder: Path, patch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder(folder)
    publish = builder.publish

    def told(
        paths: ViewSetPaths, blobs: Sequence[Blob], commit: Commit, upstream: Upstream
    ) -> PublishResult:
        status = publish(paths, blobs, commit, upstream)
        recorder.mark(f"committed {commit.view_set} {commit.entry.shard}")
        return status

    patch.setattr(builder, "publish", told)
    recorder.install(patch)
    return recorder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("crash")
    source = write_npz(folder / "images.npz", rows=3, side=8)
    (folder / "recorded").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        recorder = recorder_in(folder / "recorded", patch)
        build_both(folder / "recorded" / STORE, source, recorder.mark)
    whole = tree_of(folder / "recorded")
    replay = Replay()
    for number, op in enumerate(recorder.ops):
        replay.add(number, op)
    visible = replay.visible(set())
    told = {name: replay.content(file, 1.0) for name, file in visible.items()}
    assert told == whole, "something was written past the recorder"
    paths = StorePaths(folder / "recorded" / STORE)
    ids = [Manifest.unpack(paths.generation(n).read_bytes()).store_id for n in (1, 2)]
    return World(folder, source, recorder.ops, whole, ids)


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power is cut while a state is checked; the syncs there only cost time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def first_problem(
    world: World, *, without: str | None = None, after: Collection[str] = KINDS
) -> str | None:
    for number, crash in crashes(world.ops, without=without, after=after):
        if problem := world.problem(crash):
            return f"after {number} {world.ops[number]}: {problem}"
    return None


@pytest.mark.parametrize(
    "rerun_every", [SOME, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_every_state_after_a_power_cut_is_good(world: World, rerun_every: int) -> None:
    """All are read; a rerun, which takes longer, is done from some or from all."""
    fresh = replace(world, rerun_every=rerun_every, checked={})
    assert sum(1 for _ in crashes(world.ops)) >= LEAST_STATES
    assert first_problem(fresh) is None


def test_a_missing_sync_is_seen(world: World) -> None:
    """The control: each sync that is left out shows as a state that is not good."""
    fresh = replace(world, rerun_every=SOME, checked={})
    sites = sorted({op.site for op in world.ops if op.site})
    after = ("mark", "link")
    unseen = [site for site in sites if first_problem(fresh, without=site, after=after) is None]
    assert unseen == []


@pytest.mark.parametrize(
    "everywhere", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_what_a_killed_build_did_not_sync_its_rerun_does(
    world: World, tmp_path: Path, everywhere: bool
) -> None:
    """A kill leaves names that are there and not durable: a rerun must not build on them.

    Some: it is killed before the last sync of a folder that each function does.
    """
    places = [number for number, op in enumerate(world.ops) if op.kind == "sync_directory"]
    if not everywhere:
        places = sorted({world.ops[place].site: place for place in places}.values())
    for place in places:
        folder = tmp_path / str(place)
        folder.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            recorder = recorder_in(folder, patch)
            recorder.stop_before = place
            with pytest.raises(Killed):
                build_both(folder / STORE, world.source, recorder.mark)
            recorder.stop_before = None
            build_both(folder / STORE, world.source, recorder.mark)
        ends = [crash for _, crash in crashes(recorder.ops, after=("mark",))]
        fresh = replace(world, rerun_every=len(places), checked={})
        assert [found for crash in ends[-10:] if (found := fresh.problem(crash))] == [], place
