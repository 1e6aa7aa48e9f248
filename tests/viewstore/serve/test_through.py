"""A store at a URL is served as the folder is, and its origin is asked once."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.remote.servers import Faults, proxy, ranged_server
from tests.viewstore.serve.origins import (
    IMPATIENT,
    PATIENCE_SECONDS,
    Gates,
    gated_server,
    large_store,
)
from tests.viewstore.serve.servers import PROGRAM
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.errors import ConfigError, FormatError, RemoteError
from viewstore.files.cache_settings import CacheSettings
from viewstore.files.locks import locked
from viewstore.inspect.pages.site import Site
from viewstore.serve import through
from viewstore.serve.fill import Fills
from viewstore.serve.local import LocalGeneration
from viewstore.serve.objects import Listed
from viewstore.serve.origin import Asked, wants_whole
from viewstore.serve.through import ThroughGeneration, ThroughStore
from viewstore.store.store import Store


class Told:
    """Counts what a store says."""

    def __init__(self) -> None:
        self.results: Counter[str] = Counter()
        self.bytes = self.corrupt = 0

    def fetched(self, count: int) -> None:
        self.bytes += count

    def asked(self, result: str) -> None:
        self.results[result] += 1

    def refetched(self) -> None:
        self.corrupt += 1


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return large_store(tmp_path_factory.mktemp("through") / "digits")


@pytest.fixture
def fills(tmp_path: Path) -> Iterator[Fills]:
    found = Fills(4, CacheSettings(directory=tmp_path / "cache", limit_bytes=1 << 26))
    yield found
    found.close()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def gates() -> Gates:
    return Gates()


@pytest.fixture
def served(store: Store, fills: Fills, told: Told, gates: Gates) -> Iterator[ThroughStore]:
    with gated_server(store.root, gates) as url:
        yield ThroughStore("digits", url, fills=fills, metrics=told, retry=IMPATIENT)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, PATIENCE_SECONDS))


async def newest(served: ThroughStore) -> ThroughGeneration:
    found = await served.generation()
    assert found is not None
    return found


async def body(
    generation: ThroughGeneration, listed: Listed, start: int = 0, stop: int | None = None
) -> bytes:
    stop = listed.size if stop is None else stop
    return b"".join([data async for data in generation.body(listed, start, stop)])


def shards(generation: ThroughGeneration) -> list[Listed]:
    return [each for each in generation.files.values() if each.name.endswith(".tar")]


async def settled(fills: Fills, listed: Listed) -> None:
    while fills.running(listed) is not None:
        await asyncio.sleep(0.001)


def test_it_lists_and_sends_what_the_folder_does_and_asks_the_origin_once(
    served: ThroughStore, store: Store, gates: Gates, told: Told
) -> None:
    async def test() -> None:
        gates.gate.set()
        generation = await newest(served)
        assert generation.files == LocalGeneration(store.root).files
        sizes = {each.sha256: each.size for each in generation.files.values()}
        for _ in range(2):
            for listed in generation.files.values():
                assert await body(generation, listed) == (store.root / listed.name).read_bytes()
            assert set(gates.asked.values()) == {1}
            assert gates.sent == told.bytes == sum(sizes.values())
        assert told.results["passed"] == told.corrupt == 0

    run(test())


def test_bytes_are_sent_while_the_origin_still_sends(served: ThroughStore, gates: Gates) -> None:
    async def test() -> None:
        generation = await newest(served)
        listed = shards(generation)[0]
        sending = generation.body(listed, 0, listed.size)
        first = await anext(sending)
        assert first
        assert not gates.gate.is_set()
        await sending.aclose()

    run(test())


def test_ranges_that_want_the_whole_file() -> None:
    assert wants_whole(0, 100, 100)
    assert wants_whole(99, 100, 100)
    assert wants_whole(10, 36, 100)
    assert not wants_whole(10, 35, 100)
    assert not wants_whole(0, 1, 100)


def test_a_quarter_asked_for_in_ranges_is_a_reason_for_the_whole_file() -> None:
    asked = Asked()
    one, other = (
        Listed(name="a", size=100, sha256=digit * 64, immutable=True) for digit in ("0", "1")
    )
    assert not asked.add(one, 10)
    assert not asked.add(other, 14)
    assert not asked.add(one, 14)
    assert asked.add(one, 1)
    assert not asked.add(one, 24)


def test_small_ranges_pass_until_they_are_a_quarter_of_the_file(
    served: ThroughStore, store: Store, gates: Gates, told: Told, fills: Fills
) -> None:
    async def test() -> None:
        gates.gate.set()
        generation = await newest(served)
        listed = shards(generation)[0]
        data = (store.root / listed.name).read_bytes()
        before, part = told.bytes, listed.size // 10
        for start in (5, 100_000):
            assert await body(generation, listed, start, start + part) == data[start : start + part]
        assert told.bytes - before == 2 * part
        assert (told.results["passed"], fills.running(listed)) == (2, None)
        assert await body(generation, listed, 7, 7 + part) == data[7 : 7 + part]
        await settled(fills, listed)
        assert fills.cache.holds(listed.sha256)
        before = told.bytes
        assert await body(generation, listed, 9, 9 + part) == data[9 : 9 + part]
        assert (told.bytes, told.results["hit"]) == (before, 1)

    run(test())


def test_a_small_range_comes_from_the_file_that_fills_once_it_has_come_so_far(
    served: ThroughStore, store: Store, gates: Gates, told: Told, fills: Fills
) -> None:
    async def test() -> None:
        generation = await newest(served)
        listed = shards(generation)[0]
        data = (store.root / listed.name).read_bytes()
        sending = generation.body(listed, 0, listed.size)
        await anext(sending)
        fill = fills.running(listed)
        assert fill is not None
        ready = fill.progress.readable
        assert ready > 0
        before = gates.sent
        assert await body(generation, listed, ready - 99, ready) == data[ready - 99 : ready]
        assert gates.sent == before
        late = listed.size - 1000
        assert await body(generation, listed, late, late + 500) == data[late : late + 500]
        assert gates.sent == before + 500
        assert told.results == {"miss": 1, "joined": 1, "passed": 1}
        await sending.aclose()

    run(test())


@pytest.mark.parametrize("start", [1, 400_000])
def test_the_rest_of_a_file_is_a_reason_for_all_of_it(
    served: ThroughStore, store: Store, gates: Gates, fills: Fills, start: int
) -> None:
    async def test() -> None:
        gates.gate.set()
        generation = await newest(served)
        listed = shards(generation)[0]
        got = await body(generation, listed, start)
        assert got == (store.root / listed.name).read_bytes()[start:]
        assert fills.cache.holds(listed.sha256)
        assert gates.asked[listed.name] == 1

    run(test())


def test_bytes_that_are_passed_on_are_proved_too(
    store: Store, fills: Fills, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process has the lock; the origin flips a bit of every other answer."""

    async def test(faults: Faults, served: ThroughStore) -> None:
        generation = await newest(served)
        for listed in shards(generation):
            data = (store.root / listed.name).read_bytes()
            with locked(fills.cache.settings.directory / "lock" / listed.sha256[:3]):
                faults.script[:] = ["flip"]
                with pytest.raises(FormatError, match="sha256"):
                    await body(generation, listed)
                assert await body(generation, listed) == data
            assert not fills.cache.holds(listed.sha256)
        assert told.results["passed"] == 6

    faults = Faults(only=".tar")
    with ranged_server(store.root) as upstream, proxy(upstream, faults) as url:
        run(test(faults, ThroughStore("a", url, fills=fills, metrics=told, retry=IMPATIENT)))


def test_small_objects_that_are_passed_on_are_fetched_again_before_anything_is_sent(
    store: Store, fills: Fills, told: Told
) -> None:
    async def test(faults: Faults, served: ThroughStore) -> None:
        generation = await newest(served)
        name = next(each for each in generation.files if each.endswith(".params"))
        listed = generation.files[name]
        with locked(fills.cache.settings.directory / "lock" / listed.sha256[:3]):
            faults.script[:] = ["flip", "flip"]
            assert await body(generation, listed) == (store.root / name).read_bytes()
        assert told.corrupt == 2

    faults = Faults(only=".params")
    with ranged_server(store.root) as upstream, proxy(upstream, faults) as url:
        run(test(faults, ThroughStore("a", url, fills=fills, metrics=told, retry=IMPATIENT)))


def test_the_last_manifest_is_sent_while_the_origin_is_down(
    served: ThroughStore,
    gates: Gates,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(through, "OLD_SECONDS", 0.0)

    async def test() -> None:
        known = await newest(served)
        gates.down = True
        with caplog.at_level(logging.WARNING, "viewstore.serve"):
            assert await served.generation(fresh=True) is known
        assert "the last manifest is sent" in caplog.text
        gates.down = False
        assert await served.generation(fresh=True) is known

    run(test())


def test_the_manifest_is_asked_for_again_only_once_it_is_old(
    served: ThroughStore, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        for fresh in (False, True, True):
            await served.generation(fresh=fresh)
        assert gates.asked["manifest.json"] == 1
        monkeypatch.setattr(through, "OLD_SECONDS", 0.0)
        await served.generation()
        assert gates.asked["manifest.json"] == 1
        await served.generation(fresh=True)
        assert gates.asked["manifest.json"] == 2

    run(test())


def test_an_origin_that_never_answered_is_an_error_and_is_not_asked_at_each_request(
    served: ThroughStore, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        gates.down = True
        for _ in range(2):
            with pytest.raises(RemoteError):
                await served.generation()
        gates.down = False
        with pytest.raises(RemoteError):
            await served.generation()
        monkeypatch.setattr(through, "OLD_SECONDS", 0.0)
        assert await served.generation() is not None

    run(test())


def test_a_page_of_an_origin_that_does_not_answer_is_502(
    served: ThroughStore, gates: Gates
) -> None:
    gates.down = True
    assert Site({served.name: served.store}).get(served.name, "").status == 502


def test_a_url_without_a_manifest_is_not_ready(
    tmp_path: Path, fills: Fills, told: Told, gates: Gates
) -> None:
    async def test(url: str) -> None:
        served = ThroughStore("digits", url, fills=fills, metrics=told, retry=IMPATIENT)
        assert await served.generation() is None
        with pytest.raises(ConfigError, match="no manifest"):
            served.store()

    with gated_server(tmp_path, gates) as url:
        run(test(url))


def test_a_new_generation_is_followed(
    tmp_path: Path, fills: Fills, told: Told, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(through, "OLD_SECONDS", 0.0)
    gates.gate.set()
    root = tmp_path / "store"
    large_store(root, limit=8)

    async def test(url: str) -> None:
        served = ThroughStore("digits", url, fills=fills, metrics=told, retry=IMPATIENT)
        first = await newest(served)
        assert list(served.store().view_sets) == ["digits"]
        settings = {"height": 8, "width": 8, "views": 1}
        build(
            BuildRequest(generator="simclr", out=root, view_set="b", settings=settings, workers=1)
        )
        second = await served.generation(fresh=True)
        assert second is not None
        assert second.number > first.number
        assert second.files == LocalGeneration(root).files
        assert sorted(served.store().view_sets) == ["b", "digits"]
        for listed in shards(first):  # who reads the old one goes on
            assert await body(first, listed) == (root / listed.name).read_bytes()

    with gated_server(root, gates) as url:
        run(test(url))


def test_a_derived_file_that_was_replaced_is_a_reason_to_ask_for_the_manifest(
    tmp_path: Path, fills: Fills, told: Told, gates: Gates
) -> None:
    gates.gate.set()
    root = tmp_path / "store"
    large_store(root, limit=8)

    async def test(url: str) -> None:
        served = ThroughStore("digits", url, fills=fills, metrics=told, retry=IMPATIENT)
        first = await newest(served)
        listed = first.files["views/digits/stats.json"]
        path = root / listed.name
        path.chmod(0o644)
        path.write_bytes(b"{" + path.read_bytes()[1:].replace(b"0", b"1"))
        asked = gates.asked["manifest.json"]
        with pytest.raises(FormatError):
            await body(first, listed)
        assert await served.generation() is first
        assert gates.asked["manifest.json"] == asked + 1

    with gated_server(root, gates) as url:
        run(test(url))


def test_pages_read_the_store_through_the_cache_and_go_on_without_the_origin(
    served: ThroughStore, store: Store, gates: Gates, fills: Fills
) -> None:
    gates.gate.set()

    async def test() -> None:
        generation = await newest(served)
        for listed in generation.files.values():
            await body(generation, listed)
            await settled(fills, listed)

    run(test())
    gates.down = True
    opened = served.store()
    assert opened is served.store()
    assert opened.num_samples == store.num_samples
    expected = store.view_sets["digits"]
    np.testing.assert_array_equal(opened.view_sets["digits"][17], expected[17])
    assert list(opened.keys) == list(store.keys)


def test_a_cache_without_room_for_all_fills_is_refused_with_the_number_it_needs(
    store: Store, tmp_path: Path, told: Told, gates: Gates
) -> None:
    largest = max(each.size for each in LocalGeneration(store.root).files.values())
    with gated_server(store.root, gates) as url:
        for limit, enough in ((5 * largest, True), (5 * largest - 1, False), (0, False)):
            settings = CacheSettings(directory=tmp_path / "cache", limit_bytes=limit)
            served = ThroughStore("a", url, fills=Fills(4, settings), metrics=told)
            if enough:
                served.check_room()
                continue
            with pytest.raises(ConfigError, match=f"at least {5 * largest} bytes") as refused:
                served.check_room()
            assert refused.value.code == "VS101"


@pytest.mark.parametrize(
    ("cache", "code", "said"),
    [("cache", 2, b"VS101"), ("file/cache", 3, b"VS302")],
)
def test_the_command_ends_where_the_cache_has_no_room_or_cannot_be_used(
    store: Store, tmp_path: Path, gates: Gates, cache: str, code: int, said: bytes
) -> None:
    (tmp_path / "file").touch()
    with gated_server(store.root, gates) as url:
        environment = {
            "VIEWSTORE_CACHE__DIRECTORY": str(tmp_path / cache),
            "VIEWSTORE_CACHE__LIMIT": "1000" if code == 2 else "64MiB",
        }
        command = [sys.executable, "-c", PROGRAM, "serve", url, "--port", "0"]
        found = subprocess.run(
            command,
            env={**os.environ, **environment},
            capture_output=True,
            timeout=300,
            check=False,
        )
    assert (found.returncode, said in found.stderr) == (code, True), found.stderr
