"""Where in a bucket a store may lie, and what is said where it may not."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace

import pytest

import viewstore
from tests.remote.servers import BUCKET
from tests.remote.stores_in_buckets.parts import (
    Run,
    content,
    simclr_of,
)
from tests.viewstore.small_stores import build_small
from viewstore.errors import ConfigError, StoppedError, UnavailableError, ViewStoreError
from viewstore.files import disk
from viewstore.files.bucket import Bucket
from viewstore.files.working_copy import store_at
from viewstore.shards.engine import Job
from viewstore.shards.local import run_here
from viewstore.shards.place import Place
from viewstore.shards.unit import Outcome


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
        assert Bucket(inner).listed() == {}
    assert build_small(whole, source).left == 0


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
    assert Bucket(f"s3://{BUCKET}/{meant}").listed() == {}


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
        (f"s3://{BUCKET}", "is not empty and not a store"),
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
