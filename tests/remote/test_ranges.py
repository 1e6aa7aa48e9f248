"""Byte ranges instead of shards: the same batches from fewer bytes, each member checked."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.loaders.stores import SHARD_ROWS, photograph_store, photographs
from tests.loaders.test_loader import traces
from tests.remote.conftest import Open
from tests.remote.servers import Faults, proxy, ranged_server
from viewstore.errors import FormatError
from viewstore.files import disk
from viewstore.loaders import Mix, ViewLoader
from viewstore.loaders.plan.order import Order
from viewstore.loaders.read.ranged import GAP_BYTES, READ_BYTES, Span, join_spans, ranged_shards
from viewstore.store.store import Store

Spans = st.lists(
    st.tuples(st.integers(0, 5 * GAP_BYTES), st.integers(1, 2 * GAP_BYTES)), max_size=30
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """22 photographs: view sets `jpg` and `png` of 2 views."""
    source = photographs(tmp_path_factory.mktemp("photographs"))
    return photograph_store(tmp_path_factory.mktemp("remote") / "photos", source)


@pytest.fixture
def faults() -> Faults:
    return Faults(only=".tar")


@pytest.fixture
def digits_url(digits: Store, faults: Faults) -> Iterator[str]:
    with ranged_server(digits.root) as upstream, proxy(upstream, faults) as url:
        yield url


@pytest.fixture
def photos_url(photos: Store, faults: Faults) -> Iterator[str]:
    with ranged_server(photos.root) as upstream, proxy(upstream, faults) as url:
        yield url


def settings(**changes: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"batch_size": 10, "seed": 4, "num_threads": 2, **changes}


@given(Spans)
def test_joined_spans_are_whole_near_and_short(places: list[tuple[int, int]]) -> None:
    start = 0
    spans = []
    for number, (gap, size) in enumerate(places):
        start += gap
        spans.append(Span((number, 0), start, size, 0))
        start += size
    groups = join_spans(reversed(spans))
    assert [span for group in groups for span in group] == spans
    for group in groups:
        assert len(group) == 1 or group[-1].stop - group[0].start <= READ_BYTES
        for left, right in pairwise(group):
            assert right.start - left.stop <= GAP_BYTES
    for left, right in pairwise(groups):
        far = right[0].start - left[-1].stop > GAP_BYTES
        assert far or right[0].stop - left[0].start > READ_BYTES


@pytest.mark.parametrize("threads", [0, 2])
def test_batches_by_ranges_are_those_of_the_local_store(
    digits_url: str, digits: Store, open_remote: Open, faults: Faults, threads: int, tmp_path: Path
) -> None:
    views = "hard,hard,cached:digits"
    with ViewLoader(digits, views, **settings()) as local:
        expected = traces(local, epochs=2)
    store = open_remote(digits_url, limit_bytes=0)
    with ViewLoader(store, views, **settings(num_threads=threads)) as remote:
        assert traces(remote, epochs=2) == expected
    assert sum(faults.done.values()) == len([r for r in faults.ranges if r.startswith("bytes=")])
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("view_set", ["jpg", "png"])
def test_members_of_every_codec_are_read_by_ranges(
    photos_url: str, photos: Store, open_remote: Open, view_set: str
) -> None:
    with ViewLoader(photos, view_set, **settings()) as local:
        expected = traces(local)
    with ViewLoader(open_remote(photos_url, limit_bytes=0), view_set, **settings()) as remote:
        assert traces(remote) == expected


def test_a_broken_network_changes_no_batch_that_is_read_by_ranges(
    digits_url: str, digits: Store, open_remote: Open, faults: Faults
) -> None:
    faults.rate, faults.kinds = 0.2, ("503", "cut", "truncate", "reset", "flip")
    with ViewLoader(digits, "hard", **settings()) as local:
        expected = traces(local, epochs=3)
    with ViewLoader(open_remote(digits_url, limit_bytes=0), "hard", **settings()) as remote:
        assert traces(remote, epochs=3) == expected
    assert faults.done["flip"] > 0


def test_a_member_that_stays_wrong_is_an_error_with_its_url(
    digits_url: str, digits: Store, open_remote: Open, faults: Faults
) -> None:
    faults.rate, faults.kinds = 1.0, ("flip",)
    store = open_remote(digits_url, limit_bytes=0)
    loader = ViewLoader(store, "hard", **settings(shuffle="none", rows=[0]) | {"batch_size": 1})
    with (
        loader,
        pytest.raises(
            FormatError, match="of row 0 of hard, shard 0, does not match its CRC"
        ) as caught,
    ):
        list(loader)
    assert caught.value.where == store.view_sets["hard"].shards[0].where
    assert str(caught.value.where).startswith(digits_url)
    assert faults.done == {"flip": 3}


def ranged(store: Store, name: str, shuffle: str = "global", **changes: Any) -> set[int]:  # noqa: ANN401
    view_set = store.view_sets[name]
    order = Order(shuffle=shuffle, num_rows=store.num_samples, seed=0, shard_rows=store.shard_rows)
    arguments: dict[str, Any] = {"slots": 1, "world_size": 1, **changes}
    return set(ranged_shards(view_set, order, arguments.pop("selected", None), **arguments))


def test_shards_of_which_little_is_used_are_read_by_ranges(
    http_url: str, digits: Store, open_remote: Open
) -> None:
    store = open_remote(http_url)
    few, enough = SHARD_ROWS // 4 - 1, SHARD_ROWS // 4
    selected = np.concatenate([np.arange(few), SHARD_ROWS + np.arange(enough)])
    assert ranged(store, "hard") == set()
    assert ranged(store, "hard", selected=selected) == {0, 2, 3, 4}
    assert ranged(store, "hard", world_size=4) == set()
    assert ranged(store, "hard", world_size=5) == {0, 1, 2, 3, 4}
    assert ranged(digits, "hard", world_size=5) == set()


def test_what_few_samples_show_is_read_by_ranges(http_url: str, open_remote: Open) -> None:
    """A view set of small weight in a Mix, or a store of a small rate."""
    store = open_remote(http_url)
    assert ranged(store, "hard", slots=0.25) == set()
    assert ranged(store, "hard", slots=0.24) == {0, 1, 2, 3, 4}
    assert ranged(store, "hard", rate=0.25) == ranged(store, "hard", rate=3.0) == set()
    assert ranged(store, "hard", rate=0.24) == {0, 1, 2, 3, 4}


def test_a_loader_reads_by_ranges_what_few_of_its_samples_show(
    digits_url: str, open_remote: Open, faults: Faults
) -> None:
    store = open_remote(digits_url)
    views = [Mix({"hard": 0.9, "digits": 0.1})]
    with ViewLoader([store, store], views, **settings(rates=[1.0, 0.2])) as loader:
        assert len(list(loader)) == 8
    every = list(range(5))
    assert [store.view_sets["hard"].at_hand(number) for number in every] == [True] * 5
    assert [store.view_sets["digits"].at_hand(number) for number in every] == [False] * 5
    assert faults.ranges


def test_view_sets_that_do_not_fit_the_cache_together_are_read_by_ranges(
    digits_url: str, open_remote: Open
) -> None:
    views = open_remote(digits_url).view_sets["hard"]
    largest = max(shard.blob.bytes for shard in views.shards.values())
    store = open_remote(digits_url, limit_bytes=4 * largest)
    views = store.view_sets["hard"]
    assert [views.most_open(sharing) for sharing in (1, 2)] == [4, 3]  # 2 ahead, one in use
    for shown, downloaded in (("hard,cached:digits", False), ("hard", True)):
        with ViewLoader(store, shown, **settings(shuffle="block:3")) as loader:
            list(loader)
        assert any(views.at_hand(number) for number in range(5)) == downloaded


def test_a_loader_reads_by_ranges_what_an_epoch_has_little_of(
    digits_url: str, open_remote: Open, faults: Faults
) -> None:
    store = open_remote(digits_url)
    with ViewLoader([store, store], "hard", **settings(rates=[0.2, 0.2])) as loader:
        assert len(list(loader)) == 2
    assert not any(store.view_sets["hard"].at_hand(number) for number in range(5))
    assert len(faults.ranges) == faults.done["ok"] > 0


def test_views_that_are_files_of_their_own_count_as_what_is_used(
    photos_url: str, open_remote: Open
) -> None:
    store = open_remote(photos_url)
    assert ranged(store, "jpg", slots=1, world_size=2) == set()
    assert ranged(store, "jpg", slots=1, world_size=3) == {0, 1, 2}
    assert ranged(store, "jpg", slots=2, world_size=3) == set()


def test_shards_that_do_not_fit_together_are_read_by_ranges(
    http_url: str, digits: Store, open_remote: Open
) -> None:
    largest = max(shard.blob.bytes for shard in digits.view_sets["hard"].shards.values())
    store = open_remote(http_url, limit_bytes=4 * largest)
    assert ranged(store, "hard") == {0, 1, 2, 3, 4}
    assert ranged(store, "hard", "block:4") == set()
    assert ranged(store, "hard", "block:5") == {0, 1, 2, 3, 4}
    assert ranged(store, "hard", "none") == set()
    assert ranged(store, "hard", "block:2", remote_sets=2) == set()
    assert ranged(store, "hard", "block:3", remote_sets=2) == {0, 1, 2, 3, 4}


def test_few_rows_of_a_store_cost_few_bytes(
    digits_url: str, digits: Store, open_remote: Open, faults: Faults
) -> None:
    store = open_remote(digits_url)
    rows = [3, 20, 50]
    with ViewLoader(digits, "hard", **settings(rows=rows, batch_size=3)) as local:
        expected = traces(local)
    with ViewLoader(store, "hard", **settings(rows=rows, batch_size=3)) as remote:
        assert traces(remote) == expected
    stride = digits.view_sets["hard"].index.strided.stride  # type: ignore[union-attr]
    assert len(faults.ranges) == 3
    for wanted in faults.ranges:
        first, last = wanted.removeprefix("bytes=").split("-")
        assert int(last) - int(first) < stride


def test_a_full_disk_is_read_around(
    digits_url: str,
    digits: Store,
    open_remote: Open,
    faults: Faults,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(path: Path, size: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with ViewLoader(digits, "hard", **settings()) as local:
        expected = traces(local)
    store = open_remote(digits_url)
    monkeypatch.setattr(disk, "reserve", full)
    with ViewLoader(store, "hard", **settings(num_threads=0)) as remote:
        with pytest.warns(UserWarning, match="takes no more shards"):
            found = traces(remote)
        assert found == expected
    assert faults.ranges
