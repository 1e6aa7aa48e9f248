"""Thousands of reads over a network that breaks: right bytes or an error, nothing in between."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.remote import blobs
from tests.remote.servers import BUCKET, Fault, Faults, proxy, put, ranged_server
from viewstore.errors import RemoteError, ViewStoreError

KINDS: tuple[Fault, ...] = (
    "503",
    "404",
    "cut",
    "cut, no length",
    "truncate",
    "reset",
    "flip",
    "stall",
)


@pytest.fixture
def bucket(s3_endpoint: str) -> str:
    for number in range(blobs.COUNT):
        put(s3_endpoint, f"many/{blobs.name(number)}", blobs.data(number))
    return s3_endpoint


def read_many(
    read: Callable[[int], bytes], cache: Path, count: int, *, threads: int = 6
) -> tuple[Counter[str], int]:
    """Read random blobs from several threads; return what came, and the most the cache took."""
    counts: Counter[str] = Counter()
    peak = 0
    lock = threading.Lock()

    def work(seed: int) -> None:
        nonlocal peak
        draw = random.Random(seed)
        for _ in range(count // threads):
            number = draw.randrange(blobs.COUNT)
            try:
                found = "right" if read(number) == blobs.data(number) else "wrong"
            except (ViewStoreError, OSError, HTTPException) as error:
                found = type(error).__name__
            used = blobs.used_bytes(cache)
            with lock:
                counts[found] += 1
                peak = max(peak, used)

    workers = [threading.Thread(target=work, args=[seed]) for seed in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return counts, peak


@pytest.fixture
def network(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """An S3 server behind a proxy that breaks every third answer."""
    faults = Faults(rate=0.3, kinds=KINDS, stall_seconds=0.05, only=".tar")
    with proxy(bucket, faults) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        yield faults


def check_reads(network: Faults, tmp_path: Path, count: int) -> None:
    limit = sum(len(blobs.data(number)) for number in range(blobs.COUNT)) // 5
    cache = tmp_path / "cache"
    read = blobs.read_through_cache(f"s3://{BUCKET}/many", cache, limit)
    counts, peak = read_many(read, cache, count)
    broken = sum(network.done[kind] for kind in KINDS)
    print(f"\n{dict(counts)}; {dict(network.done)}; peak {peak} of {limit} bytes")
    assert counts["wrong"] == 0
    assert counts["right"] >= 0.99 * count
    assert set(counts) <= {"right", "FormatError", RemoteError.__name__}
    assert broken > 0.2 * sum(network.done.values())
    assert peak <= limit
    network.rate = 0.0  # nothing was lost or kept broken
    assert all(read(number) == blobs.data(number) for number in range(blobs.COUNT))


def test_hundreds_of_reads_over_a_broken_network_are_right(network: Faults, tmp_path: Path) -> None:
    check_reads(network, tmp_path, 600)


@pytest.mark.slow
def test_ten_thousand_reads_over_a_broken_network_are_right(
    network: Faults, tmp_path: Path
) -> None:
    check_reads(network, tmp_path, 10_002)


def test_reads_without_hashes_fail_the_same_test(tmp_path: Path) -> None:
    blobs.write(tmp_path / "data")
    faults = Faults(rate=0.3, kinds=KINDS, stall_seconds=0.05, only=".tar")
    with ranged_server(tmp_path / "data") as upstream, proxy(upstream, faults) as url:
        read = blobs.read_naively(url, tmp_path / "cache", 1 << 30)
        counts, _ = read_many(read, tmp_path / "cache", 300, threads=1)
    assert counts["wrong"] > 0
