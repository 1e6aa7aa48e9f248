"""Each fault that an HTTP server or a network has: the right bytes in the end, or an error."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from tests.remote.conftest import IMPATIENT
from tests.remote.servers import BUCKET, Fault, Faults, plain_server, proxy, put, ranged_server
from viewstore.errors import FormatError, RemoteError
from viewstore.files.cache_settings import CacheSettings
from viewstore.files.fetch import Failed, Fetcher, Retry
from viewstore.files.remote import RemoteFiles
from viewstore.files.transport import connect

BLOB = np.random.Generator(np.random.Philox(7)).bytes(3 << 20)
SHA256 = hashlib.sha256(BLOB).hexdigest()
NAME = Path("blob.bin")


@dataclass
class Broken:
    """A server with a blob behind a proxy that breaks things."""

    url: str
    faults: Faults
    directory: Path
    etags: bool = True

    def files(self, retry: Retry = IMPATIENT, *, limit_bytes: int = 1 << 30) -> RemoteFiles:
        cache = CacheSettings(directory=self.directory, limit_bytes=limit_bytes)
        return RemoteFiles(self.url, cache=cache, retry=retry)

    def read(self, retry: Retry = IMPATIENT, *, limit_bytes: int = 1 << 30) -> bytes:
        """Read the blob as shards are read."""
        files = self.files(retry, limit_bytes=limit_bytes)
        with os.fdopen(files.open(NAME, len(BLOB), SHA256), "rb") as file:
            file.seek(0)
            return file.read()

    @property
    def url_of_blob(self) -> str:
        return f"{self.url}/{NAME}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, s3_endpoint: str) -> Path:
    folder = tmp_path_factory.mktemp("blob")
    (folder / NAME).write_bytes(BLOB)
    put(s3_endpoint, f"faults/{NAME}", BLOB)
    return folder


@pytest.fixture(params=["s3", "http", "http without ranges"])
def broken(
    request: pytest.FixtureRequest,
    folder: Path,
    s3_endpoint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Broken]:
    """S3, HTTP with ranges, and HTTP as Python serves it, without."""
    faults = Faults(only=NAME.name)
    cache = tmp_path / "cache"
    if request.param == "s3":
        with proxy(s3_endpoint, faults) as url:
            monkeypatch.setenv("AWS_ENDPOINT_URL", url)
            yield Broken(f"s3://{BUCKET}/faults", faults, cache)
    else:
        server = ranged_server if request.param == "http" else plain_server
        with server(folder) as upstream, proxy(upstream, faults) as url:
            yield Broken(url, faults, cache, etags=request.param == "http")


CELLS: list[tuple[str, list[Fault | None]]] = [
    ("503 twice", ["503", "503"]),
    ("cut, with length", ["cut"]),
    ("cut, no length", ["cut, no length"]),
    ("reset in body", ["reset"]),
    ("bit flip", ["flip"]),
    ("stall beyond patience", ["stall"]),
    ("shorter, and says so", ["truncate"]),
    ("404 once", ["404"]),
    ("one after the other", ["reset", "503", "cut", "cut, no length", "reset", "cut"]),
]


@pytest.mark.parametrize("script", [cell[1] for cell in CELLS], ids=[cell[0] for cell in CELLS])
@pytest.mark.parametrize("limit_bytes", [1 << 30, 0], ids=["cached", "streamed"])
def test_each_fault_ends_in_the_right_bytes(
    broken: Broken, script: list[Fault | None], limit_bytes: int
) -> None:
    broken.faults.script = list(script)
    assert broken.read(limit_bytes=limit_bytes) == BLOB
    assert broken.faults.script == []


def test_a_stall_within_the_limit_is_waited_for(broken: Broken) -> None:
    broken.faults.script = ["stall"]
    broken.faults.stall_seconds = 0.3
    assert broken.read(replace(IMPATIENT, stall_seconds=30.0)) == BLOB
    assert broken.faults.done == {"stall": 1}


def test_a_broken_body_is_continued_where_it_ended(broken: Broken) -> None:
    broken.faults.script = ["cut"]
    assert broken.read() == BLOB
    (wanted,) = set(broken.faults.ranges)
    first = int(wanted.removeprefix("bytes=").partition("-")[0])
    assert 0 < first < len(BLOB)
    assert first % (256 << 10) < 256 << 10
    assert len(broken.faults.matches) == broken.etags


def test_what_changed_while_it_was_read_is_not_joined(folder: Path, tmp_path: Path) -> None:
    """The request that goes on says which file it means, so a server can refuse it."""
    faults = Faults(script=["cut"])
    (tmp_path / NAME).write_bytes(BLOB)
    with ranged_server(tmp_path) as upstream, proxy(upstream, faults) as url:
        fetcher = Fetcher(url, connect(url, IMPATIENT), IMPATIENT)
        chunks = fetcher.stream(NAME.name)
        got = next(chunks)
        (tmp_path / NAME).write_bytes(BLOB[::-1])
        with pytest.raises(FormatError, match="changed while it was read"):
            got += b"".join(chunks)
    assert faults.matches == [f'"{hashlib.md5(BLOB).hexdigest()}"']
    assert BLOB.startswith(got)


def test_flipped_bits_every_time_are_an_error_with_url_and_both_hashes(broken: Broken) -> None:
    broken.faults.script = ["flip"] * 3
    with pytest.raises(FormatError, match="in 3 downloads") as caught:
        broken.read()
    assert caught.value.where == broken.url_of_blob
    assert f"expected {SHA256}, got " in str(caught.value)
    assert not list((broken.directory / "obj").iterdir())
    assert not list((broken.directory / "tmp").iterdir())


def test_a_server_that_never_answers_is_an_error_with_url_and_cause(broken: Broken) -> None:
    broken.faults.script = ["503"] * 10
    with pytest.raises(RemoteError, match=r"tried 10 times: .*503") as caught:
        broken.read()
    assert caught.value.where == broken.url_of_blob
    assert "503" in str(caught.value.why)
    assert broken.faults.script == []


@pytest.mark.parametrize(("fault", "tries"), [("403", 1), ("404", 2), ("cut, no length", 3)])
def test_answers_that_stay_the_same_are_believed(broken: Broken, fault: Fault, tries: int) -> None:
    broken.faults.script = [fault] * 10
    with pytest.raises(RemoteError) as caught:
        broken.read()
    assert caught.value.where == broken.url_of_blob
    assert 10 - len(broken.faults.script) == tries


def test_a_record_that_came_wrong_is_fetched_again(broken: Broken) -> None:
    def check(raw: bytes) -> int:
        if raw != BLOB:
            raise FormatError("not the record")
        return len(raw)

    broken.faults.script = ["flip", "truncate"]
    assert broken.files().record(NAME, len(BLOB), check) == len(BLOB)
    broken.faults.script = ["flip"] * 3
    with pytest.raises(FormatError, match="not the record") as caught:
        broken.files().record(NAME, len(BLOB), check)
    assert caught.value.where == broken.url_of_blob


def test_a_record_longer_than_its_limit_is_not_downloaded(broken: Broken) -> None:
    with pytest.raises(FormatError, match=f"at most 1000 bytes, got {len(BLOB)}"):
        broken.files().record(NAME, 1000, len)


def test_ranges_of_a_broken_server_are_right(broken: Broken) -> None:
    files = broken.files()
    broken.faults.script = ["503", "cut", "reset", None, "cut, no length", "stall"]
    for start, stop in ((0, 1), (1000, 2_000_000), (len(BLOB) - 5, len(BLOB)), (17, 17)):
        assert files.cache.part(NAME, start, stop, bytes) == BLOB[start:stop]


def test_waits_are_drawn_evenly_below_a_limit_that_doubles() -> None:
    waits: list[float] = []
    draws = iter([0.5, 1.0, 0.0, 0.25, 1.0, 1.0, 1.0, 1.0, 1.0])

    class Dead:
        def get(self, name: str, start: int, stop: int | None, etag: str | None) -> object:
            raise Failed("no")

    fetcher = Fetcher(
        "s3://x",
        Dead(),  # type: ignore[arg-type]
        Retry(),
        waits.append,
        lambda: next(draws),
        told=True,
    )
    with pytest.raises(RemoteError, match="tried 10 times: no"):
        fetcher.read("y", 0, 1)
    assert waits == pytest.approx([0.05, 0.2, 0.0, 0.2, 1.6, 3.2, 6.4, 12.8, 25.6])
    assert Retry().longest_wait(20) == 30.0


def test_threads_that_want_one_blob_download_it_once(broken: Broken) -> None:
    files = broken.files()
    opened: list[int] = []
    barrier = threading.Barrier(4)

    def want() -> None:
        barrier.wait()
        opened.append(files.open(NAME, len(BLOB), SHA256))

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for descriptor in opened:
        assert os.pread(descriptor, 100, 0) == BLOB[:100]
        os.close(descriptor)
    assert len(opened) == 4
    assert broken.faults.done == {"ok": 1}
