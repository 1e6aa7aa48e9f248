"""A damaged file in the cache: dropped and fetched once more before the remote store is blamed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.remote.conftest import Open
from tests.remote.servers import plain_server, ranged_server
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.errors import FormatError, RemoteError, UnavailableError
from viewstore.files import local
from viewstore.files.cache import Cache
from viewstore.files.cache_settings import CacheSettings
from viewstore.loaders import ViewLoader
from viewstore.store.store import Store, open_store
from viewstore.store.verify_remote import verify_remote

ROW = 3
EMPTY = hashlib.sha256().hexdigest()


@pytest.fixture(scope="module", params=["raw", "jpg", "png", "webp"])
def store(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Store:
    """A small store for each way to keep views."""
    folder = tmp_path_factory.mktemp("kept")
    build_small(folder / "s", write_npz(folder / "images.npz"), codec=request.param)
    return open_store(folder / "s")


@pytest.fixture
def url(store: Store) -> Iterator[str]:
    with ranged_server(store.root) as url:
        yield url


def flip(path: Path, *places: int) -> Path:
    """Change some bytes of a file that may only be read, as a bad disk does: its times stay."""
    before = path.stat()
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    for place in set(places):
        data[place] ^= 0xFF
    with path.open("r+b") as file:  # the same inode: what is mapped changes too
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    path.chmod(0o444)
    return path


def cached_shard(store: Store, cache: Path, row: int = ROW) -> Path:
    """Return the copy in the cache of the shard that holds a row."""
    shard = store.view_sets["simclr"].shards[row // store.shard_rows]
    return cache / "obj" / shard.blob.sha256


def within(store: Store, row: int = ROW, view: int = 0) -> int:
    """Return a place in the pixels of a view, or before them in the file of the view."""
    views = store.view_sets["simclr"]
    names = [name for name in views.plan.members if name != "json"]
    column = views.plan.members.index(names[min(view, len(names) - 1)])
    return int(views.members[row, column]["offset"]) + 140


def pixels(store: Store, **settings: Any) -> np.ndarray:  # noqa: ANN401
    """Return what an epoch of a loader shows, in row order."""
    defaults = {"batch_size": 4, "shuffle": "none", "num_threads": 0}
    with ViewLoader(store, "cached:simclr,cached:simclr", **(defaults | settings)) as loader:
        return np.concatenate([batch.views[0].pixels.numpy() for batch in loader])


def test_a_view_is_read_from_a_copy_fetched_again(
    store: Store, url: str, open_remote: Open, tmp_path: Path
) -> None:
    for warm in (False, True):  # of another process, and of this one, which mapped the file
        views = open_remote(url).view_sets["simclr"]
        expected = store.view_sets["simclr"][ROW]
        if warm:
            assert np.array_equal(views[ROW], expected)
        else:
            os.close(views.shards[0].open())
        copy = flip(cached_shard(store, tmp_path / "cache"), within(store))
        assert np.array_equal(views[ROW], expected)
        assert np.array_equal(views[ROW], expected)
        assert copy.read_bytes() == store.view_sets["simclr"].shards[0].path.read_bytes()
    assert list(verify_remote(url)) == []


@pytest.mark.parametrize("settings", [{}, {"num_threads": 2}, {"resident": False}])
def test_a_loader_shows_the_right_views_over_a_damaged_cache(
    store: Store, url: str, open_remote: Open, tmp_path: Path, settings: dict[str, Any]
) -> None:
    expected = pixels(store)
    assert np.array_equal(pixels(open_remote(url)), expected)
    places = [within(store, row, view) for row in (ROW, ROW + 1) for view in (0, 1)]
    copy = flip(cached_shard(store, tmp_path / "cache"), *places)
    remote = open_remote(url)
    assert np.array_equal(pixels(remote, **settings), expected)
    assert remote.files.cache is not None
    assert remote.files.cache.traffic.misses == 1
    assert copy.read_bytes() == store.view_sets["simclr"].shards[0].path.read_bytes()


def test_a_view_that_does_not_decode_is_fetched_again_without_checks(
    store: Store, url: str, open_remote: Open, tmp_path: Path
) -> None:
    views = store.view_sets["simclr"]
    if not views.codec.encoded:
        pytest.skip("raw views decode from any bytes")
    expected = pixels(store)
    assert np.array_equal(pixels(open_remote(url)), expected)
    start = int(views.members[ROW, views.plan.members.index(f"v0.{views.codec.suffix}")]["offset"])
    flip(cached_shard(store, tmp_path / "cache"), *range(start, start + 60))
    assert np.array_equal(pixels(open_remote(url), verify="off"), expected)


@pytest.mark.parametrize("column", ["crop_box", "status"])
def test_params_are_read_from_a_copy_fetched_again(
    store: Store, url: str, open_remote: Open, tmp_path: Path, column: str
) -> None:
    local_views = store.view_sets["simclr"]
    expected = local_views.params[column]
    entry = local_views.shards[1].entry
    begin, size, _ = entry.columns[column]
    for place in (begin, begin + size - 1):
        views = open_remote(url).view_sets["simclr"]
        assert np.array_equal(views.params[column], expected)
        flip(tmp_path / "cache" / "obj" / entry.file("params").sha256, place)
        views = open_remote(url).view_sets["simclr"]
        assert np.array_equal(views.params[column], expected)


def test_a_derived_file_is_read_from_a_copy_fetched_again(
    store: Store, url: str, open_remote: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large ones go through the cache; wrong places of members would show other views."""
    monkeypatch.setattr(local, "CACHED_BYTES", 0)
    expected = store.view_sets["simclr"].members
    assert np.array_equal(open_remote(url).view_sets["simclr"].members, expected)
    _, sha256 = store.manifest.view_sets["simclr"].derived["index/members.npy"]
    flip(tmp_path / "cache" / "obj" / sha256, 200)
    assert np.array_equal(open_remote(url).view_sets["simclr"].members, expected)


def test_a_copy_that_cannot_be_fetched_again_is_named(
    store: Store, open_remote: Open, tmp_path: Path
) -> None:
    with plain_server(store.root) as url:
        remote = open_remote(url)
        views = remote.view_sets["simclr"]
        assert np.array_equal(views[ROW], store.view_sets["simclr"][ROW])
        assert len(views.params["crop_box"])
        params = open_remote(url).view_sets["simclr"].params
    copy = flip(cached_shard(store, tmp_path / "cache"), within(store))
    with pytest.raises(RemoteError, match="did not give") as caught:
        views[ROW]
    assert str(copy) in str(caught.value.why)
    entry = views.shards[0].entry
    copy = flip(tmp_path / "cache" / "obj" / entry.file("params").sha256, entry.columns["flip"][0])
    with pytest.raises(RemoteError, match="did not give") as caught:
        params["flip"]
    assert str(copy) in str(caught.value.why)


def test_a_store_whose_members_are_wrong_is_blamed_with_its_copy(
    store: Store, url: str, open_remote: Open, tmp_path: Path
) -> None:
    """The copy is what the index says: it stays, and the error names both."""
    views = open_remote(url).view_sets["simclr"]
    views.members = views.members.copy()
    views.members["crc32"][ROW] ^= 1
    copy = cached_shard(store, tmp_path / "cache")
    with pytest.raises(FormatError, match=f"row {ROW} of simclr does not match") as caught:
        views[ROW]
    assert caught.value.where == f"{url}/views/simclr/{views.shards[0].blob.name}, read from {copy}"
    assert copy.exists()


@pytest.fixture
def not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Path]]:
    """What makes the folder `cache` one that this user may read, and no more."""
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)  # from here on no folder above it has to be searched
    user = os.geteuid()

    def give_away() -> Path:
        for folder in (tmp_path / "cache").rglob("*"):
            if folder.is_dir():
                folder.chmod(0o555)
        (tmp_path / "cache").chmod(0o555)
        if user == 0:
            os.seteuid(65534)
        return Path("cache")

    yield give_away
    os.seteuid(user)
    for folder in (tmp_path / "cache", *(tmp_path / "cache").rglob("*")):
        if folder.is_dir():
            folder.chmod(0o755)


def test_a_cache_that_another_user_owns_is_read(
    tmp_path: Path, not_ours: Callable[[], Path]
) -> None:
    data = {hashlib.sha256(text).hexdigest(): text for text in (b"here", b"dead", b"gone")}
    here, dead, gone = data
    ours = Cache(CacheSettings(directory=tmp_path / "cache"))
    for sha256 in (here, dead):
        os.close(ours.open(sha256, 4, lambda: iter([data[sha256]]), "URL"))  # noqa: B023
    flip(ours.path_of(dead), 1)
    for seen in (tmp_path / "cache" / "seen").iterdir():  # it was filled before the last boot
        seen.rename(seen.with_name("another.boot"))
    theirs = Cache(CacheSettings(directory=not_ours()))
    for _ in range(2):
        descriptor = theirs.open(here, 4, lambda: iter([b"none"]), "URL")
        assert os.pread(descriptor, 4, 0) == b"here"
        os.close(descriptor)
    for sha256 in (dead, gone):
        with pytest.raises(UnavailableError, match="cache cannot be used") as caught:
            theirs.open(sha256, 4, lambda: iter([data[sha256]]), "URL")  # noqa: B023
        assert (sha256 == dead) == (str(caught.value.where) == f"cache/obj/{dead}")
        assert "VIEWSTORE_CACHE__DIRECTORY" in str(caught.value.fix)
    theirs.drop_if_damaged(here)
    with pytest.raises(UnavailableError, match="cache cannot be used") as caught:
        theirs.drop_if_damaged(dead)
    assert caught.value.where == f"cache/obj/{dead}"


def test_a_cache_that_may_not_be_searched_is_an_error_with_its_path(
    tmp_path: Path, not_ours: Callable[[], Path]
) -> None:
    os.close(
        Cache(CacheSettings(directory=tmp_path / "cache")).open(EMPTY, 0, lambda: iter([]), "URL")
    )
    directory = not_ours()
    if os.geteuid() != os.getuid():
        os.seteuid(os.getuid())
        (tmp_path / "cache" / "obj").chmod(0o700)
        os.seteuid(65534)
    else:
        (tmp_path / "cache" / "obj").chmod(0)
    theirs = Cache(CacheSettings(directory=directory))
    assert not theirs.holds(EMPTY)
    with pytest.raises(UnavailableError, match="cache cannot be used") as caught:
        theirs.open(EMPTY, 0, lambda: iter([]), "URL")
    assert caught.value.where == f"cache/obj/{EMPTY}"
