"""The cache: right bytes under any number of processes and crashes, never above its limit."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.remote import blobs
from tests.remote.servers import Faults, proxy, ranged_server
from viewstore.errors import ConfigError, FormatError, UnavailableError
from viewstore.files import disk
from viewstore.files.cache import Cache, boot_id
from viewstore.files.cache_settings import CacheSettings, parse_bytes
from viewstore.files.eviction import needed_bytes

REPO = Path(__file__).parents[2]
SIZE = 1000


def content(number: int) -> bytes:
    return b"%04d" % number * (SIZE // 4)


def hash_of(number: int) -> str:
    return hashlib.sha256(content(number)).hexdigest()


class Shelf:
    """A cache of blobs of 1,000 bytes, and what was downloaded for it."""

    def __init__(self, directory: Path, **settings: Any) -> None:  # noqa: ANN401
        self.cache = Cache(CacheSettings(directory=directory, **settings))
        self.downloads: list[int] = []

    def read(self, number: int) -> bytes:
        def download() -> Iterator[bytes]:
            self.downloads.append(number)
            yield content(number)

        descriptor = self.cache.open(hash_of(number), SIZE, download, f"blob {number}")
        with os.fdopen(descriptor, "rb") as file:
            file.seek(0)
            return file.read()

    def held(self, count: int = 100) -> list[int]:
        return [number for number in range(count) if self.cache.holds(hash_of(number))]


def test_a_blob_is_downloaded_once_and_named_by_its_content(tmp_path: Path) -> None:
    for _ in range(2):  # a second process finds it too
        shelf = Shelf(tmp_path)
        assert shelf.read(1) == shelf.read(1) == content(1)
    assert shelf.downloads == []
    (file,) = (tmp_path / "obj").iterdir()
    assert file.name == hashlib.sha256(file.read_bytes()).hexdigest() == hash_of(1)
    assert file.stat().st_mode & 0o777 == 0o444
    assert not list((tmp_path / "tmp").iterdir())


def test_the_first_blobs_stay_and_the_others_take_turns(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, limit_bytes=10 * SIZE)
    for _ in range(3):
        for number in range(20):
            assert shelf.read(number) == content(number)
        # 10 blobs fit; 4 of them are the spare part: 2 ahead, one in use, one that comes in.
        assert shelf.held() == [0, 1, 2, 3, 4, 5, 16, 17, 18, 19]
    assert sum(number < 6 for number in shelf.downloads) == 6


def test_a_cyclic_epoch_never_finds_what_lru_kept(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, limit_bytes=10 * SIZE, eviction="lru")
    for _ in range(3):
        for number in range(20):
            shelf.read(number)
    assert shelf.held() == list(range(10, 20))
    assert len(shelf.downloads) == 60


def test_lru_drops_what_was_opened_longest_ago(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, limit_bytes=3 * SIZE, eviction="lru")
    for number in (0, 1, 2, 0, 3):
        shelf.read(number)
    assert shelf.held() == [0, 2, 3]


def test_residents_that_nobody_opened_for_a_week_go_first(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, limit_bytes=10 * SIZE)
    for number in range(10):
        shelf.read(number)
    old = time.time() - 8 * 86_400
    for number in (2, 4):
        path = tmp_path / "obj" / hash_of(number)
        os.utime(path, (old, path.stat().st_mtime))
    shelf.read(50)
    shelf.read(51)
    assert shelf.held() == [0, 1, 3, 5, 6, 7, 8, 9, 50, 51]


@pytest.mark.parametrize("eviction", ["keep", "lru"])
@pytest.mark.parametrize("spare", [0, SIZE - 1])
@pytest.mark.parametrize("most", [1, 5, 10])
def test_the_limit_is_used_to_the_byte_and_never_passed(
    tmp_path: Path, eviction: str, most: int, spare: int
) -> None:
    shelf = Shelf(tmp_path, limit_bytes=most * SIZE + spare, eviction=eviction)
    used = []

    def download(number: int) -> Iterator[bytes]:
        used.append(blobs.used_bytes(tmp_path))
        yield content(number)

    for number in range(20):
        os.close(shelf.cache.open(hash_of(number), SIZE, partial(download, number), "blob"))
        assert shelf.cache.used_bytes == min(number + 1, most) * SIZE
    assert max(used) == most * SIZE


def test_an_evicted_blob_stays_readable_for_who_has_it_open(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, limit_bytes=SIZE)
    descriptor = shelf.cache.open(hash_of(0), SIZE, lambda: iter([content(0)]), "blob 0")
    shelf.read(1)
    assert shelf.held() == [1]
    assert os.pread(descriptor, SIZE, 0) == content(0)
    os.close(descriptor)


def test_bytes_changed_while_the_machine_was_down_are_not_served(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.read(0)
    shelf.read(1)
    seen = tmp_path / "seen" / f"{socket.gethostname()}.{boot_id()}"
    seen.rename(seen.with_name(f"{socket.gethostname()}.another-boot"))
    path = tmp_path / "obj" / hash_of(0)
    path.chmod(0o644)
    path.write_bytes(bytes(SIZE))
    again = Shelf(tmp_path)
    assert [again.read(0), again.read(1)] == [content(0), content(1)]
    assert again.downloads == [0]
    assert [mark.name for mark in (tmp_path / "seen").iterdir()] == [seen.name]


def test_bytes_that_somebody_wrote_since_they_were_checked_are_not_served(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.read(0)
    path = tmp_path / "obj" / hash_of(0)
    path.chmod(0o644)
    path.write_bytes(bytes(SIZE))
    later = path.stat().st_mtime_ns + 10**9  # two writes may have one time by a coarse clock
    os.utime(path, ns=(later, later))
    assert [shelf.read(0), Shelf(tmp_path).read(0)] == [content(0), content(0)]
    assert shelf.downloads == [0, 0]


def test_who_fills_a_new_cache_at_once_leaves_the_marks_of_the_others(tmp_path: Path) -> None:
    for number in range(40):
        shelves = [Shelf(tmp_path / str(number)) for _ in range(4)]
        begin = threading.Barrier(len(shelves))
        read: list[bytes] = []

        def work(blob: int, shelf: Shelf, begin: threading.Barrier, read: list[bytes]) -> None:
            begin.wait()
            read.append(shelf.read(blob))

        threads = [
            threading.Thread(target=work, args=(blob, shelf, begin, read))
            for blob, shelf in enumerate(shelves)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(read) == [content(blob) for blob in range(len(shelves))]
        seen = tmp_path / str(number) / "seen" / f"{socket.gethostname()}.{boot_id()}"
        assert {mark.name for mark in seen.iterdir()} == {hash_of(blob) for blob in range(4)}


def test_a_shortened_blob_is_downloaded_again(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.read(0)
    path = tmp_path / "obj" / hash_of(0)
    path.chmod(0o644)
    os.truncate(path, SIZE - 1)
    assert shelf.read(0) == content(0)
    assert shelf.downloads == [0, 0]


@pytest.mark.parametrize("same", [True, False])
def test_what_dead_processes_reserved_is_swept(tmp_path: Path, same: bool) -> None:
    shelf = Shelf(tmp_path, limit_bytes=2 * SIZE)
    shelf.read(0)
    owner = hash_of(1) if same else "f" * 64
    left = tmp_path / "tmp" / f"{owner}.{SIZE}.{socket.gethostname()}.{boot_id()}.1"
    left.write_bytes(bytes(SIZE))
    shelf.read(1)
    assert not left.exists()
    assert shelf.held() == [0, 1]


def test_what_live_processes_reserved_counts_and_is_left_alone(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, limit_bytes=2 * SIZE)
    shelf.read(0)
    inside: list[list[int]] = []

    def slow_download() -> Iterator[bytes]:
        other = Shelf(tmp_path, limit_bytes=2 * SIZE)
        assert other.read(2) == content(2)
        inside.append(other.held())
        assert len(list((tmp_path / "tmp").iterdir())) == 1
        yield content(1)

    os.close(shelf.cache.open(hash_of(1), SIZE, slow_download, "blob 1"))
    assert inside == [[2]]
    assert shelf.held() == [1, 2]


def test_with_all_room_reserved_by_others_a_blob_stays_in_memory(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, limit_bytes=SIZE)

    def slow_download() -> Iterator[bytes]:
        other = Shelf(tmp_path, limit_bytes=SIZE)
        with pytest.warns(UserWarning, match="takes no more shards, they are not kept"):
            assert other.read(2) == content(2)
        yield content(1)

    os.close(shelf.cache.open(hash_of(1), SIZE, slow_download, "blob 1"))
    assert shelf.held() == [1]


def test_a_full_disk_shrinks_the_cache_then_streams_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(tmp_path)
    for number in range(3):
        shelf.read(number)
    room = [2]

    def reserve(path: Path, size: int) -> int:
        if len(shelf.held()) >= room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, size)

    real = disk.reserve
    monkeypatch.setattr(disk, "reserve", reserve)
    assert shelf.read(3) == content(3)
    assert len(shelf.held()) == 2
    room[0] = 0
    with pytest.warns(UserWarning, match="No space left on device"):
        assert shelf.read(4) == content(4)
    assert shelf.read(5) == content(5)  # a second warning would be an error
    assert shelf.held() == []


def test_a_cache_that_cannot_be_written_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UnavailableError, match="cache cannot be used") as caught:
        Shelf(tmp_path / "file" / "cache").read(0)
    assert caught.value.code == "VS302"
    assert str(tmp_path / "file") in str(caught.value.where)


def test_a_longer_download_is_not_written_past_its_reservation(tmp_path: Path) -> None:
    cache = Cache(CacheSettings(directory=tmp_path))
    most = []

    def download() -> Iterator[bytes]:
        for _ in range(4):
            yield bytes(SIZE // 2)
            most.append(blobs.used_bytes(tmp_path))

    with pytest.raises(FormatError, match="must have 1000 bytes, got more"):
        cache.open("0" * 64, SIZE, download, "blob")
    assert max(most) == SIZE
    assert blobs.used_bytes(tmp_path) == 0


def test_settings_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("DIRECTORY", "LIMIT", "EVICTION"):
        monkeypatch.delenv(f"VIEWSTORE_CACHE__{name}", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert CacheSettings.from_environment() == CacheSettings(directory=tmp_path / "viewstore")
    monkeypatch.setenv("VIEWSTORE_CACHE__DIRECTORY", str(tmp_path / "other"))
    monkeypatch.setenv("VIEWSTORE_CACHE__LIMIT", "1.5 apples")
    with pytest.raises(ConfigError, match="a size such as 64GiB"):
        CacheSettings.from_environment()
    monkeypatch.setenv("VIEWSTORE_CACHE__LIMIT", "7" * 5000)  # more than Python makes a number of
    with pytest.raises(ConfigError, match="a size such as 64GiB"):
        CacheSettings.from_environment()
    monkeypatch.setenv("VIEWSTORE_CACHE__LIMIT", "20GiB")
    monkeypatch.setenv("VIEWSTORE_CACHE__EVICTION", "lru")
    assert CacheSettings.from_environment() == CacheSettings(
        directory=tmp_path / "other", limit_bytes=20 << 30, eviction="lru"
    )
    monkeypatch.setenv("VIEWSTORE_CACHE__EVICTION", "fifo")
    with pytest.raises(ConfigError, match="keep or lru, got 'fifo'"):
        CacheSettings.from_environment()


def test_sizes_are_read_as_they_are_written() -> None:
    assert [parse_bytes(text) for text in ("7", "5 kB", "2MiB", "3g", "1TB")] == [
        7,
        5000,
        2 << 20,
        3 * 10**9,
        10**12,
    ]
    assert needed_bytes(100, ranks=2) == 700


class Crowd:
    """Processes that read through one cache and are killed at random."""

    def __init__(self, kind: str, url: str, directory: Path, limit: int) -> None:
        self.arguments = [kind, url, str(directory), str(limit)]
        self.directory = directory
        self.counts: Counter[str] = Counter()
        self.peak = self.kills = self._started = 0
        self._lock = threading.Lock()

    def run(self, *, reads: int, kills: int, processes: int = 4) -> None:
        """Run until so many reads and kills are over."""
        running = [self._start() for _ in range(processes)]
        try:
            while sum(self.counts.values()) < reads or self.kills < kills:
                before = sum(self.counts.values())
                while sum(self.counts.values()) < before + reads // (kills + 1):
                    self.peak = max(self.peak, blobs.used_bytes(self.directory))
                    assert all(process.poll() is None for process in running), "a reader ended"
                    time.sleep(0.002)
                victim = running.pop(0)
                victim.send_signal(signal.SIGKILL)
                victim.wait()
                self.kills += 1
                running.append(self._start())
        finally:
            for process in running:
                process.kill()
                process.wait()

    def _start(self) -> subprocess.Popen[str]:
        self._started += 1
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.remote.blobs", *self.arguments, str(self._started)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPO,
        )
        threading.Thread(target=self._count, args=[process]).start()
        return process

    def _count(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                with self._lock:
                    self.counts[line.strip()] += 1


def crowd(kind: str, tmp_path: Path, *, reads: int, kills: int) -> tuple[Crowd, Faults, int]:
    limit = blobs.write(tmp_path / "data") // 5
    faults = Faults(rate=0.15, kinds=("flip", "truncate", "cut"))
    with ranged_server(tmp_path / "data") as upstream, proxy(upstream, faults) as url:
        readers = Crowd(kind, url, tmp_path / "cache", limit)
        readers.run(reads=reads, kills=kills)
    return readers, faults, limit


def check_crowd(tmp_path: Path, *, reads: int, kills: int) -> None:
    readers, faults, limit = crowd("ours", tmp_path, reads=reads, kills=kills)
    bad = sum(faults.done[kind] for kind in ("flip", "truncate", "cut"))
    print(f"\n{dict(readers.counts)}, {readers.kills} kills, {bad} bad downloads, ", end="")
    print(f"peak {readers.peak} of {limit} bytes")
    assert readers.counts["wrong"] == 0
    assert set(readers.counts) <= {"right", "refused FormatError"}
    assert readers.counts["refused FormatError"] <= readers.counts["right"] / 50
    assert bad > faults.done["ok"] / 10
    assert 0.8 * limit < readers.peak <= limit


def test_processes_that_die_at_random_never_serve_wrong_bytes(tmp_path: Path) -> None:
    check_crowd(tmp_path, reads=1500, kills=8)


@pytest.mark.slow
def test_processes_that_die_at_random_never_serve_wrong_bytes_for_long(tmp_path: Path) -> None:
    check_crowd(tmp_path, reads=20_000, kills=60)


def test_a_cache_without_hashes_fails_the_same_test(tmp_path: Path) -> None:
    readers, _, _ = crowd("naive", tmp_path, reads=300, kills=2)
    assert readers.counts["wrong"] > 0
