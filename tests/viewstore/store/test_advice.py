"""What verify says to do about each kind of fault: who follows it comes to a whole store."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.viewstore.commands import run
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.build.finalise import finalise
from viewstore.build.repair import REBUILT_KINDS
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.format.paths import StorePaths
from viewstore.format.records import canonical, digest_of
from viewstore.store.committed import read_plan
from viewstore.store.faults import Fault
from viewstore.store.verify import verify

SETTINGS = ("--generator", "simclr", "--views", 2, "--size", 16, "-j", 1)
Harm = Callable[[StorePaths], object]


@pytest.fixture(scope="module")
def built(source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("advice") / "s"
    build_small(store, source)
    build_small(store, None, view_set="second", seed=1)
    return store


def flip(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    write(path, bytes(damaged))


def write(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def reseal(path: Path, **changes: object) -> None:
    value = json.loads(path.read_bytes()) | changes
    del value["digest"]
    write(path, canonical(value | {"digest": digest_of(value)}))


def first(store: StorePaths, pattern: str) -> Path:
    return next(store.root.glob(pattern))


def unlink(pattern: str) -> Harm:
    return lambda store: first(store, pattern).unlink()


def flipped(pattern: str) -> Harm:
    return lambda store: flip(first(store, pattern))


def cut(pattern: str) -> Harm:
    return lambda store: write(first(store, pattern), b"{")


def gone(pattern: str) -> Harm:
    return lambda store: shutil.rmtree(first(store, pattern))


def drop_empty_folders(store: StorePaths) -> None:
    """Copies to where there are no folders, and back, lose these."""
    for lock in store.tmp.glob("*.lock"):
        lock.unlink()
    for path in sorted(store.root.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def other_plan(store: StorePaths) -> None:
    reseal(store.view_set("simclr").plan, seed=3)


def stray_commit(store: StorePaths) -> None:
    reseal(store.view_set("simclr").commit(1), plan_id="0" * 64)


def other_manifest(store: StorePaths) -> None:
    reseal(store.manifest, sources_id="0" * 64)


def taken_away(*, seed: int) -> Harm:
    """A view set was removed by hand, and begun anew."""

    def harm(store: StorePaths) -> None:
        shutil.rmtree(store.view_set("second").root)
        build_small(store.root, None, view_set="second", seed=seed, only=(0,))

    return harm


def other_rows(store: StorePaths) -> None:
    """The records of another store lie here."""
    write_npz(store.root.parent / "other.npz", side=24)
    build_small(store.root.parent / "t", str(store.root.parent / "other.npz"))
    for path in (store.root.parent / "t" / "sources").iterdir():
        if (store.sources / path.name).exists():
            (store.sources / path.name).unlink()
        shutil.copy(path, store.sources)


def never_published(*shards: int) -> Harm:
    """A first build of slices."""

    def harm(store: StorePaths) -> None:
        source = json.loads(store.sources_record.read_bytes())["parts"][0][0]
        shutil.rmtree(store.root)
        for shard in shards:
            build_small(store.root, source, slice_of=(shard, 3))

    return harm


def partial(then: Harm) -> Harm:
    def harm(store: StorePaths) -> None:
        never_published(0, 1)(store)
        finalise(store.root, allow_partial=True)
        then(store)

    return harm


def begun_third(store: StorePaths) -> None:
    build_small(store.root, None, view_set="third", seed=2, only=(0,))


def both(*harms: Harm) -> Harm:
    return lambda store: [harm(store) for harm in harms]


VIEWS = "views/simclr"
MANIFESTS = both(cut("manifest.json"), cut("manifests/*2.json"))
MANIFEST_AND_PLAN = both(cut("manifest.json"), cut(f"{VIEWS}/plan.json"))
ROWS_AND_PLAN = both(unlink("sources/sources.json"), unlink(f"{VIEWS}/plan.json"))
HARMS: dict[str, tuple[Harm, set[str]]] = {
    "sources.json lost": (unlink("sources/sources.json"), {"record"}),
    "sources.json cut": (cut("sources/sources.json"), {"record"}),
    "sources lost": (gone("sources"), {"record"}),
    "generations lost": (gone("manifests"), {"record"}),
    "empty folders lost": (both(drop_empty_folders, flipped(f"{VIEWS}/000001-*.tar")), {"hash"}),
    "a column lost": (unlink("sources/crc32-*"), {"record"}),
    "a column flipped": (flipped("sources/key_bytes-*"), {"record"}),
    "located.json cut": (lambda store: located(store, cut("sources/located.json")), {"located"}),
    "a column of located.json": (lambda store: located(store, lose_new_column), {"located"}),
    "manifest lost": (unlink("manifest.json"), {"missing"}),
    "manifest cut": (cut("manifest.json"), {"record"}),
    "manifest of other sources": (other_manifest, {"record"}),
    "generation cut": (cut("manifests/000002.json"), {"record"}),
    "generation and manifest cut": (MANIFESTS, {"record", "unpublished"}),
    "plan cut": (cut(f"{VIEWS}/plan.json"), {"plan"}),
    "plan lost": (unlink(f"{VIEWS}/plan.json"), {"gone"}),
    "plan replaced": (other_plan, {"plan", "commit"}),
    "plan and manifest cut": (MANIFEST_AND_PLAN, {"plan", "record"}),
    "plan and rows lost": (ROWS_AND_PLAN, {"gone", "record"}),
    "set lost": (gone(VIEWS), {"gone"}),
    "all sets lost": (both(gone(VIEWS), gone("views/second")), {"gone"}),
    "set begun anew": (taken_away(seed=1), {"missing", "derived"}),
    "set begun anew, another": (taken_away(seed=7), {"unpublished"}),
    "rows of another store": (other_rows, {"record", "source"}),
    "commit lost": (unlink(f"{VIEWS}/commits/000001.json"), {"missing"}),
    "commit cut": (cut(f"{VIEWS}/commits/000001.json"), {"commit"}),
    "commit of another plan": (stray_commit, {"commit"}),
    "shard lost": (unlink(f"{VIEWS}/000001-*.tar"), {"missing"}),
    "shard cut": (cut(f"{VIEWS}/000001-*.tar"), {"size"}),
    "shard flipped": (flipped(f"{VIEWS}/000001-*.tar"), {"hash"}),
    "pack flipped": (flipped(f"{VIEWS}/000001-*.params"), {"hash"}),
    "index lost": (unlink(f"{VIEWS}/index.json"), {"derived"}),
    "stats cut": (cut(f"{VIEWS}/stats.json"), {"derived"}),
    "members cut": (cut(f"{VIEWS}/index/members.npy"), {"derived"}),
    "chunk lost": (unlink(f"{VIEWS}/params.zarr/status/c/1/*"), {"derived"}),
    "begun": (begun_third, {"unpublished"}),
    "a slice": (never_published(1), {"missing", "unpublished"}),
    "all slices": (never_published(0, 1, 2), {"missing", "unpublished"}),
    "partial, stats lost": (partial(unlink(f"{VIEWS}/stats.json")), {"derived"}),
    "partial, manifest lost": (partial(unlink("manifest.json")), {"missing"}),
    "partial, manifest cut": (partial(cut("manifest.json")), {"record"}),
    "partial, shard flipped": (partial(flipped(f"{VIEWS}/000001-*.tar")), {"hash"}),
}  # fmt: skip


def located(store: StorePaths, then: Harm) -> None:
    """Move the source, and build from where it lies now."""
    source = Path(json.loads(store.sources_record.read_bytes())["parts"][0][0])
    moved = shutil.copy(source, store.root.parent / "moved.npz")
    build_small(store.root, str(moved))
    assert store.sources_located.is_file()
    then(store)


def lose_new_column(store: StorePaths) -> None:
    columns = json.loads(store.sources_located.read_bytes())["columns"]
    name = f"crc32-{'0' * 16}.npy"
    reseal(store.sources_located, columns=columns | {"crc32": [name, 208, "0" * 64]})


class Reader:
    """Somebody who does what is printed; `last` takes the last of several ways."""

    def __init__(
        self, store: StorePaths, source: str, capsys: pytest.CaptureFixture[str], *, last: bool
    ) -> None:
        self.store, self.source, self.capsys, self.last = store, source, capsys, last

    def run(self, *arguments: object) -> tuple[int, str]:
        code, out, err = run(self.capsys, *arguments)
        assert code in (0, 1), err
        return code, out

    def follow(self, about: str, advice: str) -> None:
        ways = advice.partition("; if it was built in slices")[0].split(", or ")
        way = ways[-1 if self.last else 0]
        if file := re.search(r"remove (\S+\.json), and", way):
            Path(file[1]).unlink()
        if command := re.search(r"viewstore ((verify|rm|finalise|build) .*)", way):
            words = command[1].replace("NAME", "simclr").split()
            self.run(*words)
            return
        assert re.search(r"(build|run) .*again", way), advice
        sets = ("simclr", "second", "third")
        for name in sets if about in ("source", "manifest") else about.split(", "):
            has_plan = self.store.view_set(name).plan.is_file()
            if about in ("source", "manifest") and not has_plan:
                continue
            seed = read_plan(self.store.view_set(name)).seed if has_plan else sets.index(name)
            place = "--out", self.store.root, "--source", self.source
            self.run("build", *SETTINGS, *place, "--view-set", name, "--seed", seed)

    def mend(self) -> None:
        """Do what verify says until it says nothing more."""
        for _ in range(4):
            code, out = self.run("verify", self.store.root)
            if code == 0:
                return
            lines = out.split("\n")
            heading = next(i for i, line in enumerate(lines) if re.match(r"\d+ faults?(;|$)", line))
            if repair := re.search(r"with: viewstore (.*)", lines[heading]):
                run(self.capsys, *repair[1].split())  # it may refuse what the other lines are about
            for line in filter(None, lines[heading + 1 :]):
                about, _, advice = line.partition(": ")
                self.follow(about, advice)
        raise AssertionError(out)


def test_every_kind_of_fault_is_tried_or_rebuilt() -> None:
    kinds = set().union(*(kinds for _, kinds in HARMS.values())) | {"parent"} | set(REBUILT_KINDS)
    said = set(re.findall(r'"([a-z]+)"', (Fault.__doc__ or "").partition("kind:")[2]))
    # Of recipes: test_recipe_sets; of imports: test_import.
    assert said == kinds | {"orphan", "proof", "unproven", "listing"}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", HARMS)
def test_advice_that_is_followed_leads_to_a_whole_store(
    built: Path,
    source: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    last: bool,
) -> None:
    shutil.copytree(built, tmp_path / "s")
    store = StorePaths(tmp_path / "s")
    harm, kinds = HARMS[name]
    harm(store)
    faults = list(verify(store.root))
    assert {fault.kind for fault in faults} == kinds
    if last and not any(fault.fix and ", or " in fault.fix for fault in faults):
        return  # there is one way alone
    Reader(store, source, capsys, last=last).mend()
    assert [fault for fault in verify(store.root) if fault.kind != "orphan"] == []


@pytest.mark.parametrize("last", [False, True])
def test_a_view_set_without_its_parent_is_whole_with_it_or_taken_out(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], last: bool
) -> None:
    shutil.copytree(searched, tmp_path / "s")
    store = StorePaths(tmp_path / "s")
    shutil.rmtree(store.view_set("recon").root)
    faults = {fault.view_set: fault for fault in verify(store.root)}
    assert {name: fault.kind for name, fault in faults.items()} == {
        "recon": "gone",
        "w-search": "parent",
    }
    code, out, _ = run(capsys, "verify", store.root)
    assert (code, "--repair" in out) == (1, False)
    assert "w-search: build recon again with its former settings, or take it out" in out
    if last:
        for name in ("w-search", "recon"):
            assert f"viewstore rm {store.root} {name}" in str(faults[name].fix)
            run(capsys, "rm", store.root, name)
    else:
        files = {role: searched.parent / f"{role}.safetensors" for role in ("gan", "encoder")}
        build(BuildRequest(generator="w-search", out=store.root, files=files, workers=1))
    assert list(verify(store.root)) == []


def test_an_unfinished_store_is_gone_on_with_and_an_empty_one_begun(
    store_of_a_slice: StorePaths, capsys: pytest.CaptureFixture[str]
) -> None:
    root = store_of_a_slice.root
    code, out, _ = run(capsys, "verify", root)
    assert (code, "--repair" in out) == (1, False)
    code, out, _ = run(capsys, "verify", root, "--repair")
    assert (code, "run the same build command again" in out) == (1, True)
    run(capsys, "rm", root, "simclr")
    for command in ("status", "finalise", "inspect", "verify"):
        code, out, err = run(capsys, command, root)
        assert code in (1, 2, 3)
        assert f"viewstore build --generator NAME --out {root}" in out + err


@pytest.fixture
def store_of_a_slice(tmp_path: Path, source: str) -> StorePaths:
    build_small(tmp_path / "s", source, slice_of=(0, 3))
    return StorePaths(tmp_path / "s")


def test_a_store_that_lost_its_empty_folders_is_one(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(built, tmp_path / "s")
    for command in (("gc",), ("finalise",), ("mv", "second", "third"), ("rm", "third")):
        drop_empty_folders(StorePaths(tmp_path / "s"))
        name, *rest = command
        assert run(capsys, name, tmp_path / "s", *rest)[0] == 0
    assert list(verify(tmp_path / "s")) == []


@pytest.mark.parametrize("command", ["status", "finalise", "verify", "gc", "rm", "mv", "inspect"])
def test_a_folder_that_is_no_store_is_told_from_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    code, _, err = run(capsys, command, tmp_path, *{"rm": ["a"], "mv": ["a", "b"]}.get(command, []))
    assert (code, "give the folder that --out named when the store was built" in err) == (2, True)


def test_who_meets_a_damaged_plan_is_led_to_what_mends_it(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(built, tmp_path / "s")
    both(cut(f"{VIEWS}/plan.json"), cut("views/second/*1-*.tar"))(StorePaths(tmp_path / "s"))
    code, _, err = run(capsys, "status", tmp_path / "s")
    assert (code, f"viewstore verify {tmp_path}/s\n" in err) == (3, True)
    _, out, _ = run(capsys, "verify", tmp_path / "s")
    assert f"2 faults; mend 1 of them with: viewstore verify {tmp_path}/s --repair\n" in out
    assert f"simclr: remove {tmp_path}/s/{VIEWS}/plan.json, and build it again with the" in out
