"""Ranks of a host read one copy, whoever of them fills it, is killed, or left one behind."""

from __future__ import annotations

import errno
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import viewstore
from tests.loaders.rank import epoch_digest, rank_loader
from viewstore.files.cache import Cache
from viewstore.files.cache_settings import CacheSettings
from viewstore.loaders.read.memory import keep_resident
from viewstore.loaders.read.resident import SharedResident, resident_bytes
from viewstore.loaders.read.set_reader import ViewSetReader
from viewstore.store.store import Store

REPO = Path(__file__).parents[3]
PATIENCE_SECONDS = 300.0
WORLD = 2


class Rank:
    """A process that reads as one of two ranks."""

    def __init__(self, store: Store, rank: int, *stuck: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.loaders.rank", store.root, str(rank), str(WORLD), *stuck],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPO,
        )

    def said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, what: str) -> Any:  # noqa: ANN401
        assert self.process.stdin is not None
        print(what, file=self.process.stdin, flush=True)
        return json.loads(self.said())

    def ask_until(self, what: str, fulfilled: Callable[[Any], bool]) -> Any:  # noqa: ANN401
        until = time.monotonic() + PATIENCE_SECONDS
        while not fulfilled(found := self.ask(what)):
            assert time.monotonic() < until, f"{what} stays {found}"
            time.sleep(0.05)
        return found

    def shares(self) -> dict[str, dict[str, int]]:
        """Read an epoch, so that copies begin, and wait for those of both view sets."""
        self.ask("epoch")
        found: dict[str, dict[str, int]] = self.ask_until("maps", lambda maps: len(maps) == 2)
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(PATIENCE_SECONDS) == 0


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIEWSTORE_CACHE__DIRECTORY", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def start(cache: Path, digits: Store) -> Iterator[Callable[..., Rank]]:
    ranks: list[Rank] = []

    def started(*arguments: Any) -> Rank:  # noqa: ANN401
        ranks.append(Rank(digits, *arguments))
        return ranks[-1]

    yield started
    for rank in ranks:
        rank.kill()
        for pipe in (rank.process.stdin, rank.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture(scope="module")
def expected(digits: Store) -> list[str]:
    """What each rank reads, without any copy."""
    digests = []
    for rank in range(WORLD):
        with closing(rank_loader(digits, rank, WORLD, resident=False)) as loader:
            digests.append(epoch_digest(loader))
    return digests


def files(cache: Path) -> list[Path]:
    return sorted((cache / "host").glob("*"))


def wait_for(fulfilled: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not fulfilled():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_ranks_map_one_file_of_each_view_set_and_read_the_same_batches(
    start: Callable[..., Rank], cache: Path, expected: list[str]
) -> None:
    ranks = [start(0), start(1)]
    for rank in ranks:
        rank.shares()
    assert [rank.ask("epoch") for rank in ranks] == expected
    assert len(files(cache)) == 2
    found = [rank.ask("maps") for rank in ranks]
    for path in files(cache):
        mine = [maps[path.name] for maps in found]
        assert sum(each["Rss:"] for each in mine) > sum(each["Pss:"] for each in mine) > 0
        assert sum(each["Pss:"] for each in mine) <= path.stat().st_size / 1024 + 4
    ranks[0].end()
    assert len(files(cache)) == 2
    assert ranks[1].ask("epoch") == expected[1]
    ranks[1].end()
    assert files(cache) == []


def test_a_rank_that_is_killed_while_it_fills_the_file_is_replaced(
    start: Callable[..., Rank], cache: Path, expected: list[str]
) -> None:
    first = start(0, "stuck")
    assert first.ask("epoch") == expected[0]
    wait_for(lambda: len(files(cache)) == 2)
    second = start(1)
    for _ in range(3):
        assert second.ask("epoch") == expected[1]
    assert not second.ask("maps")
    for torn in files(cache):  # who trusted its name and size would serve black views
        assert f".{torn.stat().st_size}." in torn.name
        assert not any(torn.read_bytes()[-20_000:])
    first.kill()
    second.shares()
    assert second.ask("epoch") == expected[1]
    second.end()
    assert files(cache) == []


def test_a_file_that_killed_ranks_left_is_filled_anew(
    start: Callable[..., Rank], cache: Path, expected: list[str]
) -> None:
    first = start(0)
    first.shares()
    first.kill()
    whole = {path: path.read_bytes() for path in files(cache)}
    for path, data in whole.items():  # as a disk may change it while nobody looks
        path.write_bytes(bytes(len(data) - 100) + data[-100:])
    again = start(0)
    again.shares()
    assert {path: path.read_bytes() for path in files(cache)} == whole
    assert again.ask("epoch") == expected[0]


def shared_reader(store: Store, *, ranks: int = 2) -> ViewSetReader:
    reader = ViewSetReader(store.view_sets["hard"])
    keep_resident([(reader, True)], "auto", ranks=ranks)
    return reader


def bring(reader: ViewSetReader) -> None:
    assert isinstance(reader.resident, SharedResident)
    while reader.resident.advance() is not None:
        pass


def test_without_room_in_the_cache_each_rank_makes_its_own_copy(
    cache: Path, digits: Store, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 2 * resident_bytes(ViewSetReader(digits.view_sets["hard"]), mirrored=False)
    monkeypatch.setenv("VIEWSTORE_CACHE__LIMIT", str(size))  # the mark at the end does not fit
    with closing(shared_reader(digits)) as reader:
        with pytest.warns(UserWarning, match=f"each makes its own: .* room for {size} bytes"):
            bring(reader)
        assert reader.resident is not None
        assert reader.resident.ready
    monkeypatch.setattr("viewstore.loaders.read.memory.machine_bytes", lambda: 4 * size)
    with closing(shared_reader(digits, ranks=3)) as reader:
        with pytest.warns(UserWarning, match="takes no copy .* views stay in their shards"):
            bring(reader)
        assert reader.resident is not None
        assert not reader.resident.ready
    assert files(cache) == []


def test_a_cache_that_cannot_be_written_leaves_a_rank_with_its_own_copy(
    cache: Path, digits: Store
) -> None:
    cache.write_text("in the way")
    with closing(shared_reader(digits)) as reader:
        with pytest.warns(UserWarning, match="each makes its own: Not a directory"):
            bring(reader)
        assert reader.resident is not None
        assert reader.resident.ready


def test_a_full_disk_leaves_nothing_of_the_file(
    cache: Path, digits: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with closing(shared_reader(digits)) as reader:
        with pytest.warns(UserWarning, match="each makes its own: No space left on device"):
            bring(reader)
        assert reader.resident is not None
        assert reader.resident.ready
        assert files(cache) == []


def test_a_damaged_view_set_is_copied_by_no_rank(cache: Path, copy: Store) -> None:
    shard = copy.view_sets["hard"].shards[2]
    shard.path.chmod(0o644)
    data = bytearray(shard.path.read_bytes())
    data[int(copy.view_sets["hard"].members[35, -1]["offset"]) + 200] ^= 1
    shard.path.write_bytes(data)
    for _ in range(2):
        with closing(shared_reader(copy)) as reader:
            bring(reader)
            assert reader.resident is not None
            assert not reader.resident.ready
            assert files(cache) == []


def test_what_decides_the_bytes_names_the_file(cache: Path, digits: Store, copy: Store) -> None:
    """Neither where the store lies nor what it is called; and nothing unchecked is shared."""

    def name_of(store: Store, name: str, *, flipped: bool = True, verify: Any = "first") -> str:  # noqa: ANN401
        reader = ViewSetReader(store.view_sets[name], verify=verify)
        keep_resident([(reader, flipped)], "auto", ranks=2)
        with closing(reader):
            assert isinstance(reader.resident, SharedResident)
            state = reader.resident.advance()
            assert state == 0.0
            (path,) = files(cache)
            return path.name.partition(".")[0]

    assert name_of(digits, "hard") == name_of(copy, "hard")
    others = [
        name_of(digits, "digits"),
        name_of(digits, "hard", flipped=False),
        name_of(digits, "hard", verify="off"),
        name_of(viewstore.open(digits.root), "hard"),
    ]
    assert len(set(others)) == 4


def test_the_copy_ends_with_its_loader_closed_or_forgotten(cache: Path, digits: Store) -> None:
    for forget in (False, True):
        loader = rank_loader(digits, 0, WORLD)
        epoch_digest(loader)
        wait_for(lambda: len(files(cache)) == 2)
        if not forget:
            loader.close()
            assert files(cache) == []
        del loader
        # A thread that is at work holds the copy for a moment longer.
        wait_for(lambda: gc.collect() >= 0 and files(cache) == [])
        wait_for(lambda: "viewstore-copy" not in [each.name for each in threading.enumerate()])


def test_shared_copies_count_for_the_limit_of_the_cache(cache: Path, digits: Store) -> None:
    with closing(shared_reader(digits)) as reader:
        bring(reader)
        (path,) = files(cache)
        assert Cache(CacheSettings.from_environment()).used_bytes == path.stat().st_size
