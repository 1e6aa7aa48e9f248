"""Counts of a remote store: shards that were in the cache, shards that came, and bytes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.remote.conftest import Open
from tests.remote.servers import Fault, Faults, proxy, ranged_server
from viewstore.loaders import ViewLoader
from viewstore.store.store import Store

SHARDS = 5
LATE_SECONDS = 0.4


@pytest.fixture
def digits_url(digits: Store) -> Iterator[str]:
    with ranged_server(digits.root) as url:
        yield url


def epoch(store: Store | list[Store], **changes: Any) -> dict[str, float]:  # noqa: ANN401
    """Return the stats of a loader after an epoch, and after all that it asked for came."""
    settings = {"batch_size": 10, "num_threads": 0, "resident": False, **changes}
    with ViewLoader(store, "hard", **settings) as loader:
        params = [batch.views[0].params["flip"] for batch in loader]
        assert len(params) == 7
        for thread in threading.enumerate():
            if thread.name == "viewstore-ahead":
                thread.join()
        return loader.stats()


def shard_bytes(store: Store) -> int:
    return sum(shard.blob.bytes for shard in store.view_sets["hard"].shards.values())


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("shuffle", ["none", "global", "block:2"])
def test_shards_that_came_are_misses_and_those_found_are_hits(
    digits_url: str, open_remote: Open, shuffle: str, threads: int
) -> None:
    cold = epoch(open_remote(digits_url), shuffle=shuffle, num_threads=threads)
    assert (cold["cache_hits"], cold["cache_misses"]) == (0, SHARDS)
    store = open_remote(digits_url)
    assert cold["fetched_bytes"] >= shard_bytes(store)
    warm = epoch(store, shuffle=shuffle, num_threads=threads)
    assert (warm["cache_hits"], warm["cache_misses"]) == (SHARDS, 0)
    assert warm["fetched_bytes"] <= cold["fetched_bytes"] - shard_bytes(store)


def test_loaders_of_one_store_count_together(digits_url: str, open_remote: Open) -> None:
    store = open_remote(digits_url)
    epoch(store)
    both = epoch(store)
    assert (both["cache_hits"], both["cache_misses"]) == (SHARDS, SHARDS)
    again = epoch([store, store], rates=[0.5, 0.5])
    assert again["cache_misses"] == SHARDS


def test_ranges_are_neither_hits_nor_misses(digits_url: str, open_remote: Open) -> None:
    found = epoch(open_remote(digits_url, limit_bytes=0))
    assert (found["cache_hits"], found["cache_misses"]) == (0, 0)
    assert found["fetched_bytes"] > 0
    assert found["fetch_seconds"] > 0
    assert found["copy_seconds"] > 0


def test_what_came_in_vain_is_counted_too(digits: Store, open_remote: Open) -> None:
    """A shard with a wrong byte comes again; it is one shard."""
    with ranged_server(digits.root) as upstream:
        whole = epoch(open_remote(upstream), shuffle="none")
        store = open_remote(upstream)
        for path in store.files.cache.disk.settings.directory.glob("obj/*"):  # type: ignore[union-attr]
            path.unlink()
        faults = Faults(["flip"], only=".tar")
        with proxy(upstream, faults) as url:
            found = epoch(open_remote(url), shuffle="none")
    assert found["cache_misses"] == SHARDS
    assert found["fetched_bytes"] > whole["fetched_bytes"]


class Late(Faults):
    """Lets the first request that it is about pass after a while."""

    def next(self, method: str, path: str, wanted: str | None) -> tuple[Fault | None, float]:
        found = super().next(method, path, wanted)
        if self.done.total() == 1:
            time.sleep(LATE_SECONDS)
        return found


def test_waiting_for_a_download_is_fetching(digits: Store, open_remote: Open) -> None:
    first = digits.view_sets["hard"].shards[0].path.name
    with ranged_server(digits.root) as upstream, proxy(upstream, Late(only=first)) as url:
        found = epoch(open_remote(url), shuffle="none")
    assert found["fetch_seconds"] > 0.9 * LATE_SECONDS
    assert found["copy_seconds"] > 0
    assert found["wait_share"] > 0.5
