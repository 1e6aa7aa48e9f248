"""A store that is built into a bucket is the store that a folder would have."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import viewstore
from tests.remote.servers import BUCKET, put
from tests.viewstore.commands import run as run_command
from tests.viewstore.small_stores import ROWS, build_small, write_npz
from viewstore.build.compose import builder_factory
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.errors import ConfigError, StoppedError, UnavailableError, ViewStoreError
from viewstore.files import disk, working_copy
from viewstore.files.bucket import Bucket
from viewstore.files.working_copy import WorkingCopy, store_at
from viewstore.format.manifest import Manifest
from viewstore.format.paths import StorePaths
from viewstore.format.store_files import is_of_a_store
from viewstore.loaders import ViewLoader
from viewstore.shards.builder import ShardBuilder, Unwatched, made_builder
from viewstore.shards.engine import Job
from viewstore.shards.local import run_here
from viewstore.shards.place import Place
from viewstore.shards.unit import Outcome, units
from viewstore.sources.open import open_source
from viewstore.store.committed import read_plan
from viewstore.store.verify import verify
from viewstore.store.verify_remote import verify_remote

DEADLINE_SECONDS = 100
NOT_IN_BUCKETS = ("params.zarr/", "tmp/")
CHILDREN: tuple[dict[str, Any], ...] = (
    {},
    {"generator": "heavy", "settings": {"of": "simclr", "derive": "from_view"}, "workers": 2},
    {"generator": "embed", "settings": {"of": "simclr"}},  # with a column in files of its own
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_npz(tmp_path_factory.mktemp("source") / "images.npz")


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command; return its exit code, and what it wrote to stdout and stderr."""
    return partial(run_command, capsys)


@pytest.fixture(autouse=True, scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where working copies lie; nothing is left there."""
    folder = tmp_path_factory.mktemp("copies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        patch.setenv("TMPDIR", str(folder))
        patch.setenv("VIEWSTORE_CACHE__DIRECTORY", str(tmp_path_factory.mktemp("cache")))
        yield folder
    assert list(folder.glob(f"{working_copy.PREFIX}*")) == []


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, source: str) -> Path:
    folder = tmp_path_factory.mktemp("local") / "store"
    for changes in CHILDREN:
        build_small(folder, source, **changes)
    return folder


@pytest.fixture(scope="module")
def whole(s3_endpoint: str, source: str) -> str:
    """The URL of a store in a bucket: simclr, and what is made from it."""
    url = f"s3://{BUCKET}/stores/whole"
    for changes in CHILDREN:
        build_small(url, source, **changes)
    return url


@pytest.fixture
def url(s3_endpoint: str, request: pytest.FixtureRequest) -> str:
    return f"s3://{BUCKET}/stores/{request.node.name.replace('[', '-').strip(']')}"


def content(url: str) -> dict[str, bytes]:
    bucket = Bucket(url)
    return {name: bucket.get(name, 1 << 30) for name in bucket.sizes()}


def kept(name: str) -> bool:
    """Whether a file of a local store is an object of a bucket too, with the same bytes."""
    return not any(part in f"{name}/" for part in (*NOT_IN_BUCKETS, "commits/"))


def test_every_object_has_the_bytes_of_the_local_file(whole: str, local: Path) -> None:
    files = {
        str(path.relative_to(local)): path.read_bytes()
        for path in local.rglob("*")
        if path.is_file()
    }
    objects = content(whole)
    assert {n: d for n, d in objects.items() if kept(n)} == {
        n: d for n, d in files.items() if kept(n)
    }
    assert {n for n in objects if not kept(n)} == {n for n in files if "/commits/" in n}
    assert viewstore.open(whole).store_id == viewstore.open(local).store_id


def test_what_is_there_is_whole(whole: str, run: Run) -> None:
    assert list(verify_remote(whole, level="content")) == []
    assert run("verify", whole)[0] == 0


def test_a_loader_reads_the_same_batches(whole: str, local: Path) -> None:
    batches = []
    for place in (whole, local):
        store = viewstore.open(place)
        with ViewLoader(store, "heavy,heavy", batch_size=4, seed=1) as loader:
            batches.append([np.asarray(batch.views[0].pixels) for batch in loader])
    assert len(batches[0]) == ROWS // 4
    for ours, theirs in zip(*batches, strict=True):
        assert np.array_equal(ours, theirs)


def test_a_copy_on_a_disk_is_whole_after_finalise(
    whole: str, local: Path, tmp_path: Path, run: Run
) -> None:
    for name, data in content(whole).items():
        path = tmp_path / "copy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert {fault.kind for fault in verify(tmp_path / "copy")} == {"derived"}
    assert run("finalise", str(tmp_path / "copy"))[0] == 0
    assert list(verify(tmp_path / "copy", level="content")) == []
    copied, built = viewstore.open(tmp_path / "copy"), viewstore.open(local)
    assert copied.manifest == built.manifest
    features = [each.view_sets["embed"].params["feature"] for each in (copied, built)]
    assert np.array_equal(*features)


def test_slices_of_several_processes_and_a_plan_end_in_the_local_store(
    url: str, source: str, local: Path, run: Run
) -> None:
    line = ["build", "--generator", "simclr", "--out", url]
    first = ["--source", source, "--shard-rows", "8", "--views", "2", "--size", "16", "--plan"]
    code, out, err = run(*line, *first)
    assert code == 0, err
    assert "3 to build" in out
    program = [sys.executable, "-m", "viewstore", *line, "-j", "1"]
    slices = [subprocess.Popen([*program, "--shard", f"{index}/2"]) for index in range(2)]
    assert [each.wait(DEADLINE_SECONDS) for each in slices] == [0, 0]
    code, out, _ = run("status", url)
    assert code == 0
    assert "3 of 3 shards" in out
    assert f"viewstore finalise {url}" in out
    assert run("finalise", url)[0] == 0
    assert viewstore.open(url).manifest.view_sets["simclr"] == simclr_of(local)
    assert "not published" not in run("status", url)[1]


def simclr_of(local: Path) -> object:
    manifest: Manifest = viewstore.open(local).manifest
    return manifest.view_sets["simclr"]


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
    assert len(Bucket(url).sizes("views/simclr/commits")) == 1
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
    assert Bucket(url).sizes("views/simclr/commits")
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
    assert len(Bucket(url).sizes("views/simclr/commits")) == 2


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
    assert set(orphans) <= set(Bucket(url).sizes())
    assert run("gc", url, "--older-than", "0s")[1] == "removed 3 files\n"
    assert content(url) == there | {"views/simclr/notes.txt": b"of the user"}


def test_a_bucket_without_conditions_is_for_a_single_writer(
    url: str, source: str, local: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    with pytest.raises(ConfigError, match="does not keep a second writer") as refused:
        build_small(url, source)
    assert "--single-writer" in str(refused.value.fix)
    assert content(url) == {}
    with pytest.raises(ConfigError, match="cannot be given with --shard"):
        build_small(url, source, single_writer=True, slice_of=(0, 2))
    build_small(url, source, single_writer=True)
    code, _, said = run("finalise", url)
    assert (code, "does not keep a second writer" in said) == (2, True)
    assert run("finalise", url, "--single-writer")[0] == 0
    assert viewstore.open(url).manifest.view_sets["simclr"] == simclr_of(local)


def test_a_single_writer_of_a_folder_is_refused(local: Path, source: str, run: Run) -> None:
    with pytest.raises(ConfigError, match="is for a bucket, and this is a folder"):
        build_small(local, source, single_writer=True)
    code, _, said = run("finalise", local, "--single-writer")
    assert (code, "is for a bucket, and this is a folder" in said) == (2, True)


def test_errors_name_the_bucket(url: str, source: str, copies: Path, run: Run) -> None:
    build_small(url, source, only=(0,))
    with pytest.raises(ConfigError, match="begun with other settings") as refused:
        build_small(url, source, seed=7)
    assert refused.value.where == f"{url}/views/simclr/plan.json"
    for command, code in (("finalise", 3), ("status", 1), ("verify", 2)):
        found, out, err = run(command, url)
        assert found == code
        assert str(copies) not in out + err
        assert command == "status" or url in err


def test_no_store_begins_in_another(whole: str, source: str) -> None:
    """The outer one could not be built into any more."""
    for inner in (f"{whole}/inner", f"{whole}/views/simclr/inner"):
        with pytest.raises(ConfigError, match=f"lies in the store {whole}") as refused:
            build_small(inner, source)
        assert refused.value.where == inner
        assert Bucket(inner).sizes() == {}
    assert build_small(whole, source).left == 0


@pytest.mark.parametrize("inner", ["views", "team/views", "tmp", "views/simclr"])
def test_no_store_begins_around_another(url: str, source: str, run: Run, inner: str) -> None:
    """Its view sets would lie between the files of the inner one."""
    build_small(f"{url}/{inner}", source)
    there = content(url)
    for options in ([], ["--plan"]):
        line = ["build", "--generator", "simclr", "--source", source, "--out", url]
        code, _, err = run(*line, *options)
        assert code == 2
        assert f"error[VS101]: {url} holds the store {url}/{inner}\n" in err
        assert f"fix:   give {url}/{inner} if that store is meant" in err
    assert run("status", url)[0] == 2
    assert content(url) == there
    assert build_small(f"{url}/{inner}", source).left == 0


def test_a_large_bucket_that_is_no_store_is_not_listed_to_its_end(
    url: str, source: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(s3_endpoint, f"{url.removeprefix(f's3://{BUCKET}/')}/photos/1.jpg", b"of the user")
    monkeypatch.setattr(Bucket, "listed", None)
    with pytest.raises(ConfigError, match=r"not empty and not a store: it has photos$") as refused:
        build_small(url, source)
    assert refused.value.fix == "name another folder of the bucket"


@pytest.mark.parametrize("first", ["", "/views"], ids=["outer", "inner"])
def test_of_two_stores_that_begin_at_one_moment_none_is_planned_around_the_other(
    url: str, source: str, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is second to write its rows sees those of the other."""
    other = f"{url}/views" if first == "" else url
    check_writers = WorkingCopy.check_writers

    def late(copy: WorkingCopy) -> None:
        monkeypatch.setattr(WorkingCopy, "check_writers", check_writers)
        build_small(other, source)

    monkeypatch.setattr(WorkingCopy, "check_writers", late)
    for _ in range(2):  # also when it is tried again
        with pytest.raises(ConfigError, match=f"{url}{first} (lies in|holds) the store {other}$"):
            build_small(f"{url}{first}", source)
    assert not any("/plan.json" in name for name in Bucket(f"{url}{first}/views/simclr").sizes())
    assert build_small(other, source).left == 0


def test_what_is_foreign_in_a_store_is_left_alone(
    url: str, source: str, s3_endpoint: str, run: Run
) -> None:
    """As when a store around it was begun by an earlier version."""
    build_small(url, source)
    before = content(url)
    foreign = (
        "simclr/plan.json",
        "views/Old/plan.json",
        "tmp/deep/notes.txt",
        "notes.txt",
        "views/simclr/tmp/deep/x",
        "sources/other/x",
    )
    for name in foreign:
        put(s3_endpoint, f"{url.removeprefix(f's3://{BUCKET}/')}/{name}", b"{}")
    assert run("status", url)[0] == 0
    assert run("verify", url)[0] == 0
    assert run("finalise", url)[0] == 0
    assert run("gc", url, "--older-than", "0s")[1] == "removed 0 files\n"
    assert build_small(url, source).left == 0
    assert build_small(url, source, generator="heavy", settings=CHILDREN[1]["settings"]).left == 0
    after = content(url)
    assert {name: after[name] for name in foreign} == dict.fromkeys(foreign, b"{}")
    assert {name: after[name] for name in before if name != "manifest.json"} == {
        name: data for name, data in before.items() if name != "manifest.json"
    }


def test_garbage_is_no_store_in_the_scratch_folder(
    url: str, source: str, s3_endpoint: str, run: Run
) -> None:
    """A store that was begun there by an earlier version."""
    build_small(f"{url}/tmp", source)
    inner = content(f"{url}/tmp")
    folder = url.removeprefix(f"s3://{BUCKET}/")
    for name, data in inner.items():
        put(s3_endpoint, f"{folder}/{name}", data)
    assert run("gc", url, "--older-than", "0s")[1] == "removed 0 files\n"
    assert content(f"{url}/tmp") == inner


def test_every_object_of_a_store_has_the_name_of_one(whole: str, local: Path) -> None:
    files = (path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file())
    names = [*files, *Bucket(whole).sizes()]
    assert [name for name in names if not is_of_a_store(name)] == []


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("odd/../x", "x"),
        ("../x", "x"),
        ("odd/./x", "odd/x"),
        ("odd//x", "odd/x"),
        ("odd%20x", "odd x"),
        ("%2e%2e/x", "x"),
        ("odd\tx", "oddx"),
        ("odd ", "odd"),
    ],
)
def test_a_url_of_another_place_than_it_says_is_not_written_to(
    s3_endpoint: str, source: str, path: str, meant: str
) -> None:
    with pytest.raises(ConfigError, match="another place than it says") as refused:
        build_small(f"s3://{BUCKET}/{path}", source)
    assert refused.value.fix == f"give s3://{BUCKET}/{meant}"
    assert Bucket(f"s3://{BUCKET}/{meant}").sizes() == {}


def test_a_name_with_a_percent_sign_for_good_is_another_folder(source: str) -> None:
    with pytest.raises(ConfigError, match="another place than it says") as refused:
        build_small(f"s3://{BUCKET}/a%2520b", source)
    assert refused.value.fix == "name another folder of the bucket"


def test_the_scheme_is_in_small_letters(source: str) -> None:
    with pytest.raises(ConfigError, match="another place than it says") as refused:
        build_small(f"S3://{BUCKET}/x", source)
    assert refused.value.fix == f"give s3://{BUCKET}/x"


def test_where_the_disk_of_the_copy_is_full_another_can_be_named(whole: str) -> None:
    with pytest.raises(StoppedError) as refused, store_at(whole) as (root, _):
        raise disk.explain(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), root)
    assert refused.value.fix == (
        "free some space or let TMPDIR name a folder on another disk and run the same command again"
    )


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("http://127.0.0.1:9/store", "can be read, and not listed or written to"),
        ("memory://store", "can be read, and not listed or written to"),
        (f"s3://{BUCKET}", f"s3://{BUCKET} (is not empty and not a|holds the) store"),
        ("s3://no-such-bucket/store", "there is no bucket"),
    ],
)
def test_what_is_no_place_for_a_store_is_refused(
    whole: str, source: str, place: str, said: str
) -> None:
    with pytest.raises(ViewStoreError, match=said) as refused:
        build_small(place, source)
    assert refused.value.fix
    assert str(refused.value.where).startswith(place)


def test_a_shard_that_is_gone_from_the_bucket_is_not_published(
    url: str, source: str, run: Run
) -> None:
    build_small(url, source, slice_of=(0, 1))
    name = next(each for each in Bucket(url).sizes("views/simclr") if each.endswith(".tar"))
    Bucket(url).remove(name)
    code, _, err = run("finalise", url)
    assert code == 3
    assert "a shard file of simclr is missing" in err
    assert f"where: {url}/{name}\n" in err
    assert "manifest.json" not in Bucket(url).sizes()


def test_a_second_view_set_needs_no_pack_of_the_first(
    whole: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    get = Bucket.get

    def counted(bucket: Bucket, name: str, *rest: Any) -> bytes:  # noqa: ANN401
        fetched.append(name)
        return get(bucket, name, *rest)

    monkeypatch.setattr(Bucket, "get", counted)
    before = viewstore.open(whole).store_id
    assert build_small(whole, source).manifest is not None
    assert viewstore.open(whole).store_id == before
    assert fetched
    assert [name for name in fetched if name.endswith((".params", ".chunk", ".tar"))] == []


def test_plans_and_rows_are_in_the_copy(whole: str, local: Path) -> None:
    with store_at(whole) as (root, _):
        for name in ("simclr", "heavy", "embed"):
            ours = read_plan(StorePaths(root).view_set(name))
            assert ours == read_plan(StorePaths(local).view_set(name))
        assert not list(root.rglob("*.tar"))


def test_an_import_keeps_its_listing_in_the_bucket(url: str, source: str, tmp_path: Path) -> None:
    keys = open_source(source).table.keys
    (tmp_path / "views").mkdir()
    for row, key in enumerate(keys[:4]):
        pixels = np.full((16, 16, 3), row, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "views" / f"{key}.png")
    request: dict[str, Any] = {
        "generator": "import",
        "source": source,
        "limit": 4,
        "settings": {"files": f"{tmp_path}/views/{{key}}.png"},
        "shard_rows": 2,
        "workers": 1,
    }
    for out in (tmp_path / "local", url):
        build(BuildRequest(out=out, **request))
    assert viewstore.open(url).store_id == viewstore.open(tmp_path / "local").store_id
    assert any("/listing-" in name for name in Bucket(url).sizes())
    shutil.rmtree(tmp_path / "views")  # the listing alone says now what the files were
    assert build(BuildRequest(out=url, **request)).left == 0


def test_the_disk_of_the_working_copy_has_room_for_a_shard_of_each_worker(
    url: str, source: str, copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not so where workers run on other hosts, whose disks nobody here knows."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    with pytest.raises(UnavailableError, match="a build by 2 workers needs") as refused:
        build_small(url, source, workers=2)
    assert str(refused.value.where).startswith(str(copies))
    assert "or let TMPDIR name a folder on another disk" in str(refused.value.fix)

    def on_other_hosts(job: Job) -> Generator[Outcome]:
        job.check_room(100, True)
        yield from run_here(job, Place())

    assert build_small(url, source, executor=on_other_hosts).manifest is not None
    with pytest.raises(UnavailableError, match="a build by 100 workers needs"):
        build_small(copies / "folder", source, executor=on_other_hosts)
