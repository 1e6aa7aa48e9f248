"""A reader gets the files of one generation, and the next one when it asks for the manifest."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import threading
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest

import viewstore
from tests.viewstore.serve.requests import ask, descriptors, store_url
from tests.viewstore.serve.servers import Server, serving, until
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.errors import FormatError, ViewStoreError
from viewstore.files.cache_settings import CacheSettings
from viewstore.loaders import Cached, ViewLoader
from viewstore.serve import local
from viewstore.serve.local import LocalGeneration, LocalStore
from viewstore.serve.objects import Listed

DERIVED = ("index.json", "index/members.npy", "stats.json")
NAMES = tuple(f"views/simclr/{each}" for each in DERIVED)


def install(second: Path, live: Path, *names: str) -> None:
    """Put files of the second generation in the place of those of the first, as finalise does."""
    for name in names:
        shutil.copy2(second / name, live / "new")
        (live / "new").replace(live / name)


async def read(generation: LocalGeneration, name: str) -> bytes:
    listed = generation.files[name]
    return b"".join([piece async for piece in generation.body(listed, 0, listed.size)])


def matches(generation: LocalGeneration, name: str) -> bool:
    """Whether the bytes that a generation gives are those that it lists."""
    data = asyncio.run(read(generation, name))
    return hashlib.sha256(data).hexdigest() == generation.files[name].sha256


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that looks at the manifest at each request, and tries again at each look."""
    monkeypatch.setattr(local, "LOOK_SECONDS", 0.0)


class ByName(LocalGeneration):
    """What a plain file server does: each request opens what has the name now."""

    async def body(self, listed: Listed, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        yield (self._paths.root / listed.name).read_bytes()[start:stop]


@pytest.mark.parametrize(("kind", "mixes"), [(LocalGeneration, False), (ByName, True)])
def test_derived_files_are_those_of_the_manifest_while_finalise_replaces_them(
    live: Path, two_generations: tuple[Path, Path], kind: type[LocalGeneration], mixes: bool
) -> None:
    generation = kind(live)
    assert all(matches(generation, name) for name in NAMES)
    install(two_generations[1], live, *NAMES)  # the manifest is still the first
    assert [matches(generation, name) for name in NAMES] == [not mixes] * 3
    install(two_generations[1], live, "manifest.json")
    assert matches(generation, "manifest.json") is not mixes
    assert kind(live).number == 2


@pytest.mark.usefixtures("eager")
def test_a_generation_whose_files_do_not_match_waits_and_the_old_one_stays(
    live: Path, two_generations: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    served = LocalStore("s", live)
    first = served.newest()
    install(two_generations[1], live, "manifest.json")
    for _ in range(3):
        assert served.newest(fresh=True) is first
    (said,) = caplog.messages
    assert "views/simclr/index.json has" in said
    install(two_generations[1], live, *NAMES)
    found = served.newest(fresh=True)
    assert found is not None
    assert found.number == 2
    assert all(matches(found, name) for name in (*NAMES, "manifest.json"))


@pytest.mark.usefixtures("eager")
def test_a_first_generation_whose_files_do_not_match_is_an_error_until_they_do(
    live: Path, two_generations: tuple[Path, Path]
) -> None:
    install(two_generations[1], live, *NAMES)
    served = LocalStore("s", live)
    for _ in range(2):
        with pytest.raises(FormatError, match=r"views/simclr/index\.json has"):
            served.newest()
    install(two_generations[1], live, "manifest.json")
    assert served.newest() is not None


def test_a_stream_that_runs_reads_the_old_generation_to_its_end(
    live: Path, two_generations: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "CHUNK_BYTES", 100)

    async def across() -> tuple[str, str]:
        served = LocalStore("s", live)
        generation = await served.generation()
        assert generation is not None
        listed = generation.files[NAMES[0]]
        body = generation.body(listed, 0, listed.size)
        data = await anext(body)
        install(two_generations[1], live, *NAMES, "manifest.json")
        newest = await served.generation(fresh=True)
        assert newest is not None
        assert newest.files[NAMES[0]].sha256 != listed.sha256
        del generation
        async for piece in body:
            data += piece
        return hashlib.sha256(data).hexdigest(), listed.sha256

    found, expected = asyncio.run(across())
    assert found == expected


def test_who_asks_while_the_first_generation_is_read_waits_for_it(live: Path) -> None:
    async def all_at_once() -> list[LocalGeneration | None]:
        served = LocalStore("s", live)
        first = asyncio.create_task(served.generation())
        found = []
        while not first.done():
            await asyncio.sleep(0.001)
            found.append(await served.generation())
        return [await first, *found]

    first, *others = asyncio.run(all_at_once())
    assert first is not None
    assert all(each is first for each in others)


def test_a_request_for_the_manifest_sees_the_newest_one_and_then_all_are_new(
    live: Path, two_generations: tuple[Path, Path]
) -> None:
    with serving(live) as server:
        first = ask(server, "/v1/stores/s/manifest.json")
        install(two_generations[1], live, *NAMES, "manifest.json")
        second = ask(server, "/v1/stores/s/manifest.json", If_None_Match=first.headers["etag"])
        assert (second.status, json.loads(second.body)["generation"]) == (200, 2)
        for name in NAMES:
            body = ask(server, f"/v1/stores/s/{name}").body
            assert body == (two_generations[1] / name).read_bytes()
        until(lambda: not [each for each in descriptors(server) if each.endswith("(deleted)")])
        kept = [each for each in descriptors(server) if each.startswith(f"{live}/")]
        assert sorted(kept) == sorted(str(live / name) for name in NAMES)


def test_others_see_it_a_second_later(live: Path, two_generations: tuple[Path, Path]) -> None:
    new = (two_generations[1] / NAMES[0]).read_bytes()
    with serving(live) as server:
        assert ask(server, f"/v1/stores/s/{NAMES[0]}").body != new
        install(two_generations[1], live, *NAMES, "manifest.json")
        until(lambda: ask(server, f"/v1/stores/s/{NAMES[0]}").body == new)


def test_a_store_without_a_manifest_has_no_names_until_it_has_one(tmp_path: Path) -> None:
    source = write_npz(tmp_path / "images.npz")
    (tmp_path / "s").mkdir()
    served = LocalStore("s", tmp_path / "s")
    assert asyncio.run(served.generation()) is None
    with pytest.raises(ViewStoreError):
        served.store()
    with serving(tmp_path / "s") as server:
        assert ask(server, "/v1/stores/s/manifest.json").status == 404
        (listed,) = json.loads(ask(server, "/v1/stores").body)["stores"]
        assert (listed["name"], listed["generation"], listed["bytes"]) == ("s", None, 0)
        build_small(tmp_path / "s", source)
        assert ask(server, "/v1/stores/s/manifest.json").status == 200
        assert ask(server, f"/v1/stores/s/{NAMES[0]}").status == 200


def test_a_folder_that_is_deleted_and_built_again_is_followed(tmp_path: Path) -> None:
    build_small(tmp_path / "s", write_npz(tmp_path / "a.npz"))
    with serving(tmp_path / "s") as server:
        first = ask(server, "/v1/stores/s/sources/sources.json")
        shutil.rmtree(tmp_path / "s")
        assert ask(server, "/v1/stores/s/manifest.json").status == 404
        assert ask(server, "/v1/stores/s/sources/sources.json").status == 404
        build_small(tmp_path / "s", write_npz(tmp_path / "b.npz", rows=12))
        assert ask(server, "/v1/stores/s/manifest.json").status == 200
        second = ask(server, "/v1/stores/s/sources/sources.json")
        assert (second.status, second.headers["cache-control"]) == (200, "no-cache")
        assert second.headers["etag"] != first.headers["etag"]
        assert second.body == (tmp_path / "s" / "sources" / "sources.json").read_bytes()


def test_a_touched_file_keeps_its_etag(live: Path) -> None:
    shard = next((live / "views" / "simclr").glob("*.tar")).relative_to(live)
    names = ("manifest.json", "sources/sources.json", *NAMES, str(shard))
    with serving(live) as server:
        before = [ask(server, f"/v1/stores/s/{name}") for name in names]
        for name in names:
            os.utime(live / name)
        assert [ask(server, f"/v1/stores/s/{name}") for name in names] == before


def test_a_derived_file_that_is_cut_in_its_place_is_not_begun(live: Path) -> None:
    with serving(live) as server:
        assert server.ask(f"/v1/stores/s/{NAMES[0]}").status == 200
        os.truncate(live / NAMES[0], 10)
        cut = server.ask(f"/v1/stores/s/{NAMES[0]}")
        assert (cut.status, b"has 10 bytes" in cut.body) == (500, True)


def test_the_open_store_is_one_for_each_generation(
    live: Path, two_generations: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = LocalStore("s", live)
    found = []
    threads = [threading.Thread(target=lambda: found.append(served.store())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(each) for each in found}) == 1
    install(two_generations[1], live, *NAMES, "manifest.json")
    old = found[0].view_sets["simclr"]  # opened only now, and yet of the first generation
    assert sorted(old.shards) == [0, 1]
    assert len(old.members) == 20
    monkeypatch.setattr(local, "LOOK_SECONDS", 0.0)
    assert served.store() is not found[0]
    assert sorted(served.store().view_sets["simclr"].shards) == [0, 1, 2]
    assert served.store().view_sets["simclr"][17].shape == (2, 16, 16, 3)


def test_a_view_set_that_is_gone_from_disk_leaves_the_others_readable(
    kinds: Path, tmp_path: Path
) -> None:
    shutil.copytree(kinds, tmp_path / "s")
    shutil.rmtree(tmp_path / "s" / "views" / "jpgs")
    with serving(tmp_path / "s") as server:
        assert ask(server, "/v1/stores/s/views/jpgs/index.json").status == 404
        assert ask(server, "/v1/stores/s/views/simclr/index.json").status == 200


def epochs(url: str, folder: Path, ended: threading.Event) -> list[set[bytes]]:
    """Load epochs until told to end, and two at least; return the views that each brought."""
    store = viewstore.open(url, cache=CacheSettings(directory=folder, limit_bytes=1 << 30))
    found: list[set[bytes]] = []
    with ViewLoader(store, [Cached("simclr", n=2)], batch_size=4) as loader:
        while not (ended.is_set() and len(found) > 1):
            views = (each.pixels for batch in loader for each in batch.views)
            found.append(
                {image.tobytes() for u in views for image in u.permute(0, 2, 3, 1).numpy()}
            )
    return found


def mixtures(server: Server, ended: threading.Event) -> list[str]:
    """Read all derived files that a manifest lists, again and again; return those of another."""
    found = []
    while not ended.is_set():
        manifest = ask(server, "/v1/stores/s/manifest.json")
        for name, entry in json.loads(manifest.body)["view_sets"].items():
            for path in DERIVED:
                body = ask(server, f"/v1/stores/s/views/{name}/{path}").body
                if hashlib.sha256(body).hexdigest() != entry["derived"][path][1]:
                    found.append(f"{name}/{path}")
    return found


def test_a_second_view_set_is_finalised_while_two_jobs_read(tmp_path: Path) -> None:
    source = write_npz(tmp_path / "images.npz")
    build_small(tmp_path / "s", source)
    done = threading.Event()
    results: dict[str, list[Any]] = {}

    def run(name: str, work: Callable[[], list[Any]]) -> threading.Thread:
        thread = threading.Thread(target=lambda: results.__setitem__(name, work()))
        thread.start()
        return thread

    with serving(tmp_path / "s") as server:
        url = store_url(server, "s")
        threads = [
            run("one", lambda: epochs(url, tmp_path / "c1", done)),
            run("two", lambda: epochs(url, tmp_path / "c2", done)),
            run("mixed", lambda: mixtures(server, done)),
        ]
        try:
            build_small(tmp_path / "s", source, view_set="second")
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert list(viewstore.open(url).view_sets) == ["second", "simclr"]
    assert results["mixed"] == []  # adding a view set changes no file of the others
    stored = viewstore.open(tmp_path / "s").view_sets["simclr"]
    expected = {view.tobytes() for views in stored for view in views}
    assert len(expected) == 40
    assert all(each == expected for each in [*results["one"], *results["two"]])
