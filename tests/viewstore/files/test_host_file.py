"""A file that processes share: filled by one at a time, read when whole, gone with the last."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from viewstore.files.cache import Cache, boot_id
from viewstore.files.cache_settings import CacheSettings
from viewstore.files.host_file import MARK, HostFile

REPO = Path(__file__).parents[3]
PATIENCE_SECONDS = 300.0
SIZE = 10_000
KEY = "5" * 64
CONTENT = bytes(range(250)) * (SIZE // 250)

Make = Callable[..., HostFile]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return what makes the part of another process."""

    def made(key: str = KEY, **settings: int) -> HostFile:
        return HostFile(Cache(CacheSettings(directory=tmp_path, **settings)), key, SIZE)

    return made


def fill(file: HostFile) -> HostFile:
    assert file.try_acquire() == "fill"
    file.to_fill()[:] = bytearray(CONTENT)
    assert file.publish() == "ready"
    return file


def leave(file: HostFile) -> Path:
    """End as a process that is killed: its descriptors are closed, nothing else."""
    assert file._descriptor is not None
    os.close(file._descriptor)
    file._descriptor = None
    return file.path


def test_one_fills_and_the_others_read_when_it_is_whole(make: Make) -> None:
    first, second = make(), make()
    assert first.try_acquire() == "fill"
    first.to_fill()[:] = bytearray(CONTENT)
    assert second.try_acquire() == "wait"
    assert first.publish() == "ready"
    assert second.try_acquire() == "ready"
    assert bytes(first.map()) == bytes(second.map()) == CONTENT
    assert not second.map().flags.writeable
    first.close()
    assert first.path.exists()
    second.close()
    second.close()
    assert not first.path.exists()


def test_who_gives_up_leaves_the_filling_to_another(make: Make) -> None:
    first, second = make(), make()
    assert first.try_acquire() == "fill"
    first.close()
    assert not first.path.exists()
    fill(second)
    assert first.try_acquire() == "ready"
    first.close()
    second.close()


@pytest.mark.parametrize("harm", ["none", "unmarked", "empty", "longer"])
def test_what_the_dead_left_is_never_whole_and_its_room_is_used_again(
    make: Make, harm: str
) -> None:
    path = leave(fill(make()))
    whole = path.read_bytes()
    harmed = {"none": whole, "unmarked": whole[:SIZE] + bytes(len(MARK))}
    path.write_bytes((harmed | {"empty": b"", "longer": whole + b"x"})[harm])
    file, other = make(limit_bytes=SIZE + len(MARK)), make()
    assert file.try_acquire() == "fill"
    assert other.try_acquire() == "wait"
    assert path.stat().st_blocks * 512 >= SIZE  # else a map of it may end who writes to it
    file.to_fill()[:] = bytearray(CONTENT)
    assert file.publish() == "ready"
    assert path.read_bytes() == whole
    file.close()


def test_a_filler_that_dies_while_another_looks_is_not_taken_for_done(make: Make) -> None:
    """Its lock is given up between the two that are asked for: only the mark says the rest."""
    path = leave(fill(make()))
    path.write_bytes(CONTENT + bytes(len(MARK)))
    first = make()
    assert first.try_acquire() == "fill"
    with path.open("rb") as shared:
        leave(first)
        fcntl.flock(shared, fcntl.LOCK_SH)
        assert make().try_acquire() == "wait"


def test_there_is_no_room_beyond_the_limit_or_for_what_others_share(make: Make) -> None:
    stored = SIZE + len(MARK)
    with pytest.raises(OSError, match=f"limit leaves room for {SIZE} bytes"):
        make(limit_bytes=SIZE).try_acquire()
    first = fill(make(limit_bytes=2 * stored - 1))
    with pytest.raises(OSError, match=f"limit leaves room for {stored - 1} bytes"):
        make("6" * 64, limit_bytes=2 * stored - 1).try_acquire()
    leave(first)
    second = make("6" * 64, limit_bytes=2 * stored - 1)
    assert second.try_acquire() == "fill"  # what is left over makes room
    assert not first.path.exists()
    second.close()


def test_files_of_other_hosts_are_left_alone_until_they_are_old(make: Make, tmp_path: Path) -> None:
    made = fill(make())
    here, boot = socket.gethostname(), boot_id()
    assert made.path.name == f"{KEY}.{SIZE + len(MARK)}.{here}.{boot}"
    rebooted, elsewhere, old = (
        made.path.with_name(f"{KEY}.4.{host}.{re.sub('[0-9]', 'a', boot)}")
        for host in (here, "elsewhere", "elsewhere-long-ago")
    )
    for path in (rebooted, elsewhere, old):
        path.write_bytes(b"1234")
    week = time.time() - 8 * 86_400
    os.utime(old, (week, week))
    with make()._cache.space_left():
        pass
    assert sorted((tmp_path / "host").iterdir()) == sorted([made.path, elsewhere])
    made.close()


def test_a_forked_child_keeps_the_file_of_its_parent(make: Make) -> None:
    file = fill(make())
    child = os.fork()
    if child == 0:
        file.close()
        os._exit(0)
    os.waitpid(child, 0)
    other = make()
    assert other.try_acquire() == "ready"
    file.close()
    assert other.path.exists()
    other.close()


def killed_at_random(kind: str, cache: Path, *, kills: int) -> Counter[str]:
    """Return what four processes read of one file while one after the other is killed."""
    counts: Counter[str] = Counter()
    readers: list[threading.Thread] = []
    running = [started(kind, cache, number, counts, readers) for number in range(4)]
    try:
        for number in range(kills):
            enough = counts.total() + 15
            until = time.monotonic() + PATIENCE_SECONDS
            while counts.total() < enough:
                assert all(process.poll() is None for process in running), "a process ended"
                assert time.monotonic() < until, f"nothing is read any more: {counts}"
                time.sleep(0.002)
            victim = running.pop(0)
            victim.kill()
            victim.wait()
            running.append(started(kind, cache, 4 + number, counts, readers))
    finally:
        for process in running:
            process.kill()
            process.wait()
        for reader in readers:
            reader.join()
    return counts


def started(
    kind: str, cache: Path, seed: int, counts: Counter[str], readers: list[threading.Thread]
) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.viewstore.files.host_file_user", kind, str(cache), str(seed)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPO,
    )

    def count() -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                counts[line.strip()] += 1

    readers.append(threading.Thread(target=count))
    readers[-1].start()
    return process


def test_processes_that_die_at_random_never_read_wrong_bytes(tmp_path: Path) -> None:
    counts = killed_at_random("ours", tmp_path, kills=25)
    assert set(counts) == {"right"}


def test_processes_that_trust_name_and_size_fail_the_same_test(tmp_path: Path) -> None:
    """The first is killed while it fills the file; the next takes that for whole."""
    counts: Counter[str] = Counter()
    readers: list[threading.Thread] = []
    assert started("naive", tmp_path, 0, counts, readers).wait() == -signal.SIGKILL
    second = started("naive", tmp_path, 1, counts, readers)
    while not counts and second.poll() is None:
        time.sleep(0.002)
    second.kill()
    second.wait()
    for reader in readers:
        reader.join()
    assert set(counts) == {"wrong"}
