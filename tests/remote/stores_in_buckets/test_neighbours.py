"""Stores near others in one bucket, and what is foreign where a store is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.remote.servers import BUCKET, put
from tests.remote.stores_in_buckets.parts import CHILDREN, Run, content
from tests.viewstore.small_stores import build_small
from viewstore.errors import ConfigError
from viewstore.files.bucket import Bucket
from viewstore.files.working_copy import WorkingCopy
from viewstore.format.store_files import is_of_a_store


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
    assert not any("/plan.json" in name for name in Bucket(f"{url}{first}/views/simclr").listed())
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
    names = [*files, *Bucket(whole).listed()]
    assert [name for name in names if not is_of_a_store(name)] == []
