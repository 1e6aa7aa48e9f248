"""A store at a URL is the store: equal rows, params, views and batches."""

from __future__ import annotations

import hashlib
import pickle
import re
from pathlib import Path

import fsspec
import numpy as np
import pytest

import viewstore
from tests.loaders.test_loader import traces
from tests.remote.conftest import IMPATIENT, Open
from tests.remote.servers import ranged_server
from viewstore.errors import ConfigError, RemoteError, UnavailableError
from viewstore.files.cache_settings import CacheSettings
from viewstore.loaders import ViewLoader
from viewstore.store.store import Store

VIEWS = "hard,hard,online:digits,cached:digits"


@pytest.fixture(params=["s3_url", "http_url"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def assert_equal_stores(remote: Store, local: Store) -> None:
    assert remote.store_id == local.store_id
    assert list(remote.keys) == list(local.keys)
    assert np.array_equal(remote.labels, local.labels)
    for name, views in local.view_sets.items():
        other = remote.view_sets[name]
        assert other.complete
        for row in range(local.num_samples):
            assert np.array_equal(other[row], views[row])
        for column in views.params:
            assert other.params[column].tobytes() == views.params[column].tobytes()
        assert other.stats == views.stats


def test_a_remote_store_says_what_the_local_one_says(
    url: str, digits: Store, open_remote: Open
) -> None:
    assert_equal_stores(open_remote(url), digits)


def test_large_tables_of_a_remote_store_are_pages_of_the_cache(
    http_url: str, digits: Store, open_remote: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ranks of a machine hold one copy of them, which lasts when its file is evicted."""
    monkeypatch.setattr("viewstore.files.local.CACHED_BYTES", 1)
    store = open_remote(http_url)
    members, labels = store.view_sets["hard"].members, store.labels
    mapped = Path("/proc/self/maps").read_text()
    for table in (digits.view_sets["hard"].paths.members, *digits.root.glob("sources/label-*")):
        copy = tmp_path / "cache" / "obj" / hashlib.sha256(table.read_bytes()).hexdigest()
        assert str(copy) in mapped
        copy.unlink()
    assert np.array_equal(members, digits.view_sets["hard"].members)
    assert np.array_equal(labels, digits.labels)


def test_any_file_system_of_fsspec_can_hold_a_store(digits: Store, open_remote: Open) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(digits.root), "/copy", recursive=True)
    try:
        assert_equal_stores(open_remote("memory://copy"), digits)
    finally:
        memory.rm("/copy", recursive=True)


def test_a_file_url_is_a_folder(digits: Store) -> None:
    assert viewstore.open(f"file://{digits.root}").root == digits.root


@pytest.mark.parametrize("threads", [0, 2])
def test_batches_of_a_remote_store_are_those_of_the_local_one(
    url: str, digits: Store, open_remote: Open, threads: int
) -> None:
    settings = {"batch_size": 16, "seed": 4, "num_threads": threads}
    with ViewLoader(digits, VIEWS, **settings) as local:
        expected = traces(local, epochs=2)
    with ViewLoader(open_remote(url), VIEWS, **settings) as remote:
        assert traces(remote, epochs=2) == expected


@pytest.mark.parametrize("eviction", ["keep", "lru"])
def test_batches_are_right_when_few_shards_fit_the_cache(
    s3_url: str, digits: Store, open_remote: Open, eviction: str
) -> None:
    largest = max(s.blob.bytes for s in digits.view_sets["hard"].shards.values())
    store = open_remote(s3_url, limit_bytes=4 * largest, eviction=eviction)
    settings = {"batch_size": 16, "seed": 4, "shuffle": "block:2", "num_threads": 2}
    with ViewLoader(digits, "hard", **settings) as local:
        expected = traces(local, epochs=3)
    with ViewLoader(store, "hard", **settings) as remote:
        assert traces(remote, epochs=3) == expected


def test_a_second_job_downloads_no_shard_again(
    http_url: str, digits: Store, open_remote: Open, tmp_path: Path
) -> None:
    views = open_remote(http_url).view_sets["hard"]
    expected = [views[row] for row in range(len(views))]
    facts = {path.name: path.stat().st_ino for path in (tmp_path / "cache" / "obj").iterdir()}
    again = open_remote(http_url).view_sets["hard"]
    assert all(np.array_equal(again[row], expected[row]) for row in range(len(again)))
    for path in (tmp_path / "cache" / "obj").iterdir():
        assert facts[path.name] == path.stat().st_ino
    assert {s.blob.sha256 for s in digits.view_sets["hard"].shards.values()} <= set(facts)


def test_a_remote_store_can_be_sent_to_a_process(s3_url: str, open_remote: Open) -> None:
    store = open_remote(s3_url)
    again = pickle.loads(pickle.dumps(store.files))
    assert again.where(store.paths.manifest) == f"{s3_url}/manifest.json"
    assert again.cache.settings == store.files.cache.settings  # type: ignore[union-attr]


def test_a_cache_that_is_too_small_is_refused_with_the_size_it_needs(
    s3_url: str, digits: Store, open_remote: Open
) -> None:
    largest = max(s.blob.bytes for s in digits.view_sets["hard"].shards.values())
    store = open_remote(s3_url, limit_bytes=4 * largest - 1)
    with pytest.raises(ConfigError, match=f"at least {4 * largest} bytes, got") as caught:
        ViewLoader(store, "hard", batch_size=16)
    assert caught.value.fix == f"export VIEWSTORE_CACHE__LIMIT={4 * largest}"


def test_ranks_of_this_machine_need_shards_of_their_own(
    s3_url: str, digits: Store, open_remote: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    largest = max(s.blob.bytes for s in digits.view_sets["hard"].shards.values())
    store = open_remote(s3_url, limit_bytes=25 * largest - 1)
    with pytest.raises(ConfigError, match=f"at least {25 * largest} bytes"):
        ViewLoader(store, "hard", batch_size=16)


def test_no_store_at_a_url_is_said_so(http_url: str, s3_url: str, open_remote: Open) -> None:
    for url in (f"{http_url}/views", f"{s3_url}/nowhere"):
        with pytest.raises(ConfigError, match="has no manifest") as caught:
            open_remote(url)
        assert caught.value.where == f"{url}/manifest.json"


@pytest.mark.parametrize(
    ("path", "store"),
    [
        ("", "/v1/stores/NAME"),
        ("/", "/v1/stores/NAME"),
        ("/inspect/digits/", "/v1/stores/digits"),
        ("/inspect/my%20views", "/v1/stores/my%20views"),
        ("/data/inspect/digits/browse", "/data/v1/stores/digits"),
        ("/inspect", "/v1/stores/NAME"),
        ("/v1/stores", "/v1/stores/NAME"),
        ("/v1/stores/nope", None),
    ],
)
def test_who_gives_the_address_of_pages_is_told_that_of_their_store(
    tmp_path: Path, open_remote: Open, path: str, store: str | None
) -> None:
    with ranged_server(tmp_path) as url:
        with pytest.raises(ConfigError, match="has no manifest") as caught:
            open_remote(url + path)
        why, fix = str(caught.value.why), str(caught.value.fix)
        assert ("or it is the address of pages" in why) == (store is not None)
        assert fix.endswith(f" {url}{store}") == (store is not None), fix


def test_a_remote_store_has_no_folder(http_url: str, open_remote: Open) -> None:
    store = open_remote(http_url)
    assert store.location == http_url
    with pytest.raises(ConfigError, match="has no folder here"):
        _ = store.root


def test_a_server_that_is_not_there_is_an_error_of_the_remote_store(open_remote: Open) -> None:
    with pytest.raises(RemoteError, match="tried 10 times") as caught:
        open_remote("http://127.0.0.1:9/views")
    assert caught.value.where == "http://127.0.0.1:9/views/manifest.json"


@pytest.mark.parametrize(
    "url",
    [
        "https://user:word@example.org/views",
        "https://example.org/views?token=1",
        "simplecache::s3://bucket/views",
        "pipe://curl/views",
    ],
)
def test_urls_that_hide_something_are_refused(url: str, open_remote: Open) -> None:
    with pytest.raises(ConfigError, match="without user, query, fragment or chain") as refused:
        open_remote(url)
    assert not re.search("word|token", str(refused.value.where))


def test_an_absent_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for package, url in (("obstore", "s3://bucket/views"), ("fsspec", "memory://views")):
        monkeypatch.setitem(__import__("sys").modules, package, None)
        with pytest.raises(UnavailableError, match=f"needs the package {package}") as caught:
            viewstore.open(url, cache=CacheSettings(directory=tmp_path), retry=IMPATIENT)
        assert caught.value.fix == "pip install 'viewstore[remote]'"
