"""Builders into a bucket that are killed at random moments lose nothing."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.drive import drive
from tests.remote import bucket_kill_driver
from tests.remote.bucket_builds import CUT, Place, Undisturbed, build_into
from tests.remote.buckets import Inside
from tests.remote.servers import PATIENCE_SECONDS, Faults, proxy
from viewstore.files.bucket import Bucket

VERSIONED = "versions"  # the bucket that tells what was ever written over
NEVER_REPLACED = ("commits/", "plan.json", "sources.json", "manifests/")
At = Callable[[str], Place]


@pytest.fixture
def at(
    s3_endpoint: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[At]:
    """Places of this test by name, in a bucket of versions behind a proxy."""
    folder = f"killed/{zlib.crc32(request.node.name.encode()):08x}"
    faults = Faults(kinds=CUT)
    Inside(s3_endpoint, "", VERSIONED).make_bucket_of_versions()

    def named(name: str) -> Place:
        inside = Inside(s3_endpoint, f"{folder}/{name}/", VERSIONED)
        return Place(f"s3://{VERSIONED}/{folder}/{name}", faults, inside)

    with proxy(s3_endpoint, faults) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        yield named


def replaced(inside: Inside) -> list[str]:
    """Return the records that are given once and for all, and were written again or removed."""
    again = [name for name, count in inside.times_written().items() if count > 1]
    return [
        name for name in (*again, *inside.removed()) if any(part in name for part in NEVER_REPLACED)
    ]


@pytest.mark.parametrize(
    ("builders", "kills", "rate"),
    [
        (3, 9, 0.0),
        pytest.param(1, 80, 0.0, marks=pytest.mark.slow),
        pytest.param(3, 120, 0.2, marks=pytest.mark.slow),
    ],
)
def test_builders_that_are_killed_lose_nothing(
    at: At, source: str, undisturbed: Undisturbed, builders: int, kills: int, rate: float
) -> None:
    """At the higher rates their connections are cut too."""
    every = at("every")
    every.faults.rate = rate
    arguments = (every.url, source, kills, builders, 1)
    stores = int(drive(bucket_kill_driver.__name__, *arguments))
    for number in range(stores):
        place = at(f"every/{number}")
        assert replaced(place.inside) == []
        place.check(undisturbed)


def test_writers_without_the_condition_are_caught(
    at: At, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: two look whether a name is free, and then both write there."""
    looked = threading.Barrier(2, timeout=PATIENCE_SECONDS)

    def put_anyway(bucket: Bucket, name: str, data: bytes) -> bool:
        if name.endswith("plan.json"):
            looked.wait()
        bucket.put(name, data)
        return True

    monkeypatch.setattr(Bucket, "put_if_absent", put_anyway)
    monkeypatch.setattr(Bucket, "check_conditional", lambda bucket: None)
    place = at("naive")
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(build_into, [place.url] * 2, [source] * 2))
    assert replaced(place.inside)
