"""Our reader and a server that is full: it waits as it is asked to, and completes."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import viewstore
from tests.viewstore.serve.servers import Server, serving, until
from tests.viewstore.serve.streams import Stream, shard_of
from viewstore.files.cache_settings import CacheSettings
from viewstore.files.fetch import Retry
from viewstore.store.store import Store

ONCE = Retry(tries=1)  # the first failure that counts as one is the last


def refused(server: Server) -> int:
    """Return how many requests the server refused because a client had too many."""
    lines = server.ask("/metrics").body.decode().splitlines()
    counted = [line for line in lines if line.startswith("viewstore_rejected_total{")]
    return sum(int(float(line.rpartition(" ")[2])) for line in counted)


def test_a_reader_waits_while_its_client_has_too_many_streams(large: Store, tmp_path: Path) -> None:
    """For one answer that nobody reads; each request of the reader is refused until it ends."""
    cache = CacheSettings(directory=tmp_path / "cache")
    got: list[NDArray[np.uint8]] = []
    with serving(large.root, "--max-streams-per-client", "1") as server:
        url = f"{server.url}v1/stores/{large.name}"

        def read() -> None:
            store = viewstore.open(url, cache=cache, retry=ONCE)
            got.append(next(iter(store.view_sets.values()))[7])

        stream = Stream(server, shard_of(large)[0])
        reader = threading.Thread(target=read)
        reader.start()
        until(lambda: refused(server) >= 2)
        assert got == []
        stream.close()
        reader.join(60)
    views = next(iter(large.view_sets.values()))
    assert len(got) == 1
    assert np.array_equal(got[0], views[7])
