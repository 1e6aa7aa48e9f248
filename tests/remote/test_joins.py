"""Joined columns and picks of a store at a URL: those of the local store, and what comes ahead."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import viewstore
from tests.loaders.families import family_store
from tests.loaders.stores import SHARD_ROWS
from tests.loaders.told import tell
from tests.remote.conftest import Open
from tests.remote.servers import ranged_server
from viewstore.errors import ConfigError, FormatError
from viewstore.files.eviction import needed_bytes
from viewstore.loaders import Cached, ViewLoader
from viewstore.loaders.plan.joined import joined_columns
from viewstore.store import params
from viewstore.store.store import Store

FEATURE, SCORE = "teacher.feature", "teacher.score"
VIEWS = [
    Cached("cands", n=2, pick="teacher", params=(FEATURE, SCORE)),
    Cached("cands", params=(FEATURE,)),
]
PATIENCE_SECONDS = 300


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """70 digits: 6 views of each, and a teacher that tells 300 numbers of each view."""
    out = tmp_path_factory.mktemp("joins") / "store"
    family_store(out, {"cands": 6})
    return tell(out, "teacher", "cands", dim=300, groups=3, choose=2)


@pytest.fixture
def url(told: Store) -> Iterator[str]:
    with ranged_server(told.root) as url:
        yield url


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features are too large to stay in memory."""
    monkeypatch.setattr(params, "WHOLE_BYTES", 70 * 6 * 4 * 2)


def make(store: Store, **changes: Any) -> ViewLoader:  # noqa: ANN401
    settings = {"batch_size": 12, "missing": "resample", "seed": 2, "num_threads": 0}
    return ViewLoader(store, VIEWS, **settings | changes)


def traces(loader: ViewLoader) -> list[Any]:
    with loader:
        return [
            [
                [view.view.tolist(), *(view.params[name].numpy().tobytes() for name in view.params)]
                for view in batch.views
            ]
            for batch in loader
        ]


@pytest.mark.parametrize("threads", [0, 3])
@pytest.mark.parametrize("limit_bytes", [1 << 30, 0])
def test_they_are_those_of_the_local_store(
    told: Store, url: str, open_remote: Open, threads: int, limit_bytes: int, mapped: None
) -> None:
    """Also through a cache that keeps nothing."""
    remote = open_remote(url, limit_bytes=limit_bytes)
    assert traces(make(remote, num_threads=threads)) == traces(make(told))


def test_a_cache_must_hold_chunks_beside_their_shards(
    told: Store, url: str, open_remote: Open
) -> None:
    shard = max(each.blob.bytes for each in told.view_sets["cands"].shards.values())
    feature, score = joined_columns(told, told.view_sets["cands"], [FEATURE, SCORE])
    chunk = feature.largest_file
    assert chunk > SHARD_ROWS * 6 * 300 * 2
    assert score.largest_file == 0
    needed = needed_bytes(shard + chunk, 1)
    make(open_remote(url, limit_bytes=needed)).close()
    with pytest.raises(ConfigError, match=f"^cache limit must be at least {needed} bytes, got"):
        make(open_remote(url, limit_bytes=needed - 1))


def test_chunks_come_ahead_with_their_shards(url: str, open_remote: Open, mapped: None) -> None:
    store = open_remote(url)
    settings = {"batch_size": SHARD_ROWS // 2, "shuffle": "none", "tail": "keep"}
    teacher = store.view_sets["teacher"]

    def here() -> list[int]:
        for thread in threading.enumerate():
            if thread.name == "viewstore-ahead":
                thread.join(PATIENCE_SECONDS)
        cache = store.files.cache
        assert cache is not None
        return [
            number
            for number, shard in teacher.shards.items()
            if cache.holds(shard.entry.file("column:feature").sha256)
        ]

    with make(store, **settings) as loader:
        batches = iter(loader)
        found = []
        for _ in range(3):
            next(batches)
            found.append(here())
    assert found[0][0] == 0
    assert found[2][:3] == [0, 1, 2]


def test_a_damaged_chunk_is_named(
    told: Store, tmp_path: Path, open_remote: Open, mapped: None
) -> None:
    out = tmp_path / "store"
    shutil.copytree(told.root, out)
    blob = viewstore.open(out).view_sets["teacher"].shards[2].entry.file("column:feature")
    path = out / "views" / "teacher" / blob.name
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    with ranged_server(out) as url, make(open_remote(url), shuffle="none") as loader:
        batches = iter(loader)
        next(batches)
        next(batches)
        with pytest.raises(
            FormatError, match="column feature of shard 2 of teacher is damaged"
        ) as caught:
            next(batches)
    assert caught.value.code == "VS203"
    assert "--view-set teacher --only 2" in str(caught.value.fix)
