"""What others put into a bucket is passed over or refused in words, and leads nowhere."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

import viewstore
from tests.remote.bucket_builds import COMMITS, SHARDS, Place, Undisturbed, build_into, run
from tests.remote.servers import Fault
from viewstore.errors import ConfigError, RemoteError, ViewStoreError
from viewstore.files.bucket import Bucket
from viewstore.files.fetch import Retry
from viewstore.format.records import seal


def test_a_bucket_without_the_place_of_a_store_is_refused(place: Place, source: str) -> None:
    place.inside.write("holiday.jpg", b"not a store")
    with pytest.raises(ConfigError, match=r"not a store: it has holiday\.jpg"):
        build_into(place.url, source)
    assert place.inside.names() == ["holiday.jpg"]


def test_folders_that_were_made_in_a_console_are_no_files(
    place: Place, source: str, undisturbed: Undisturbed
) -> None:
    """Empty objects with the names of folders, as consoles of S3 make them."""
    for name in ("", "views/", "views/simclr/", "tmp/"):
        place.inside.write(name, b"")
    build_into(place.url, source)
    assert viewstore.open(place.url).store_id == undisturbed.store_id
    done = run("gc", place.url, "--older-than", "0s")
    assert (done.exit_code, done.output) == (0, "removed 0 files\n")
    assert run("status", place.url).exit_code == 0


@pytest.mark.parametrize("only", ["list-type", ""], ids=["listings alone", "all"])
@pytest.mark.parametrize("kind", ["login page", "error as 200"])
@pytest.mark.parametrize("command", ["status", "finalise", "gc"])
def test_an_answer_that_is_no_listing_is_no_empty_bucket(
    place: Place, undisturbed: Undisturbed, command: str, kind: Fault, only: str
) -> None:
    for name, data in undisturbed.begun(0, 1).items():
        place.inside.write(name, data)
    there = place.inside.names()
    place.faults.rate, place.faults.kinds, place.faults.only = 1.0, (kind,), only
    done = run(command, place.url)
    assert isinstance(done.exception, RemoteError), done.exception
    assert "the bucket lists nothing, and has sources/sources.json" in str(done.exception)
    assert place.inside.names() == there


def test_ages_of_a_listing_that_cannot_be_are_an_error(place: Place) -> None:
    place.faults.rate, place.faults.kinds = 1.0, ("login page",)
    impatient = Retry(tries=2, first_seconds=0.001)
    with pytest.raises(RemoteError, match="does not list what was just written"):
        Bucket(place.url, retry=impatient).ages()


PASSED_OVER = [
    f"{COMMITS}/000001.json/000002.json",
    "views/" + "x" * 300 + "/plan.json",
    "views/simclr/quarantine/a/b.json",
    "sources/located.json",
    "sources/" + "x" * 900 + ".json",
]
REFUSED = [
    f"{COMMITS}/../../../../outside.json",
    "views/../../outside/plan.json",
    "sources//etc/passwd.json",
    "views/simclr\x7f/../plan.json",
    "manifests/000002.json",
]


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder below which, far down, working copies are made."""
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return tmp_path


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_objects_that_no_store_has_are_passed_over(
    place: Place, undisturbed: Undisturbed, source: str, watched: Path
) -> None:
    for name, data in (*undisturbed.begun(0, 1).items(), *((name, b"{}") for name in PASSED_OVER)):
        place.inside.write(name, data)
    build_into(place.url, source)
    assert viewstore.open(place.url).store_id == undisturbed.store_id
    assert files_below(watched) == []


@pytest.mark.parametrize("name", REFUSED, ids=range(len(REFUSED)))
def test_objects_whose_names_lead_elsewhere_are_refused_in_words(
    place: Place, undisturbed: Undisturbed, source: str, watched: Path, name: str
) -> None:
    for other, data in undisturbed.begun(0, 1).items():
        place.inside.write(other, data)
    place.inside.write(name, b"{}")
    with pytest.raises(ViewStoreError) as caught:
        build_into(place.url, source)
    assert place.url in f"{caught.value} {caught.value.where}"
    assert files_below(watched) == []
    assert place.inside.read(name) == b"{}"


def test_records_that_arrive_flipped_are_fetched_again(
    place: Place, undisturbed: Undisturbed, source: str, executions: list[int]
) -> None:
    for name, data in undisturbed.begun(0, 1, 2).items():
        place.inside.write(name, data)
    place.faults.only, place.faults.methods = f"{COMMITS}/", ("GET",)
    place.faults.script = ["flip", "flip"]
    build_into(place.url, source)
    assert place.faults.done["flip"] == 2
    assert executions == list(range(3, SHARDS))
    place.check(undisturbed)


def other_shard(record: bytes) -> bytes:
    return record.replace(b'"shard":1', b'"shard":2')


def other_name(record: bytes) -> bytes:
    """Return a sealed record of which a blob lies elsewhere."""
    value = json.loads(record)
    value["files"][0][1] = "../../outside.tar"
    fields = {key: each for key, each in value.items() if key not in ("digest", "format", "kind")}
    return seal("viewstore-commit", fields)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda record: b"{" + b" " * (1 << 20) + record[1:], "bytes"),
        (lambda record: b"", "cannot be used"),
        (lambda record: record[:-20], "cannot be used"),
        (lambda record: record.replace(b'"rows":4', b'"rows":3'), "cannot be used"),
        (other_shard, "cannot be used"),
        (other_name, "outside"),
        (lambda record: b"[" * 60_000, "cannot be used"),
    ],
    ids=["huge", "empty", "cut", "changed", "other shard", "other name", "deep"],
)
def test_a_commit_that_is_not_what_was_written_is_refused_in_words(
    place: Place,
    undisturbed: Undisturbed,
    source: str,
    watched: Path,
    damage: Callable[[bytes], bytes],
    said: str,
) -> None:
    name = f"{COMMITS}/000001.json"
    for other, data in undisturbed.begun(0, 1, 2).items():
        place.inside.write(other, damage(data) if other == name else data)
    with pytest.raises(ViewStoreError, match=said) as caught:
        build_into(place.url, source)
    assert str(caught.value.where) == f"{place.url}/{name}"
    assert "manifest.json" not in place.inside.names()
    assert files_below(watched) == []
