"""Eight ranks of a host read one store, here and over a URL: order, cover, requests, open files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.loaders.host import RANKS, REPO, Host, Told, host
from tests.loaders.stores import NUM_DIGITS, SHARD_ROWS, digits_store
from tests.remote.servers import Faults, proxy, ranged_server
from viewstore.loaders.plan.cut import Cut, Tail
from viewstore.loaders.plan.order import Order
from viewstore.store.store import Store

GUIDE = REPO / "docs/scale.md"
BATCH = 16
SHARDS = 5
HOSTS = 8
FEW_FILES = 8  # descriptors that a loader may have open beside those of the process


class Requests(Faults):
    """Counts the requests for each file: whole ones, and ranges of it."""

    def __init__(self) -> None:
        super().__init__()
        self.whole: Counter[str] = Counter()
        self.parts: Counter[str] = Counter()

    def next(self, method: str, path: str, wanted: str | None) -> tuple[None, float]:
        with self._lock:
            (self.parts if wanted else self.whole)[path.strip("/")] += 1
        return None, 0.0

    def of_shards(self) -> Counter[str]:
        """Return how often each shard was asked for whole."""
        return Counter({name: count for name, count in self.whole.items() if name.endswith(".tar")})


@pytest.fixture(scope="module")
def ranks() -> Iterator[Host]:
    with host() as started:
        yield started


@pytest.fixture(scope="module")
def crumbs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """70 digits in 35 shards."""
    return digits_store(tmp_path_factory.mktemp("scale") / "crumbs", shard_rows=2)


@pytest.fixture
def requests() -> Requests:
    return Requests()


@pytest.fixture
def url(digits: Store, requests: Requests) -> Iterator[str]:
    with ranged_server(digits.root) as upstream, proxy(upstream, requests) as address:
        yield address


def global_batches(told: list[Told], what: str) -> list[list[Any]]:
    """Return what the ranks told of each step, joined in the order of the ranks."""
    assert len({len(each[what]) for each in told}) == 1, "ranks differ in their number of steps"
    steps = zip(*(each[what] for each in told), strict=True)
    return [[sample for part in step for sample in part] for step in steps]


def fill(url: str, cache: Path) -> None:
    """Fetch all shards of a view set into the cache of this host, as docs/scale.md says."""
    (block,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    named = block.replace('"s3://bucket/views", "w-search"', f'"{url}", "hard"')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIEWSTORE_CACHE__DIRECTORY", str(cache))
        exec(compile(named, str(GUIDE), "exec"), {})


def planned(shuffle: str, tail: Tail, epoch: int, batch_size: int = BATCH) -> list[list[int]]:
    """Return the rows of each global batch, as order and cut say."""
    order = Order(shuffle=shuffle, num_rows=NUM_DIGITS, seed=0, shard_rows=SHARD_ROWS)
    cut = Cut(num_rows=NUM_DIGITS, global_batch=batch_size, tail=tail)
    return [order.rows(cut.positions(step)[0], epoch).tolist() for step in range(cut.steps)]


@pytest.mark.parametrize("tail", ["drop", "pad", "keep"])
@pytest.mark.parametrize("shuffle", ["global", "block:2", "none"])
def test_eight_ranks_read_each_row_once_in_the_planned_order(
    ranks: Host, digits: Store, shuffle: str, tail: Tail
) -> None:
    uneven = tail == "keep"
    told = ranks.read(digits.root, shuffle=shuffle, tail=tail, epoch=3, uneven=uneven)
    rows, valid = global_batches(told, "rows"), global_batches(told, "valid")
    assert rows == planned(shuffle, tail, epoch=3)
    shown = [row for step, kept in zip(rows, valid, strict=True) for row in np.array(step)[kept]]
    left_out = NUM_DIGITS % BATCH if tail == "drop" else 0
    assert len(shown) == len(set(shown)) == NUM_DIGITS - left_out
    padding = sum(map(len, rows)) - len(shown)
    assert padding == (-NUM_DIGITS % BATCH if tail == "pad" else 0)


def test_a_sample_shows_the_same_views_whatever_ranks_and_threads_read_it(
    ranks: Host, digits: Store
) -> None:
    """Pixels of eight ranks are those of two, of one, and of ranks without threads."""
    told = [
        ranks.read(digits.root, world=world, num_threads=threads, tail="pad")
        for world, threads in ((RANKS, 1), (RANKS, 0), (2, 2), (1, 1))
    ]
    for what in ("rows", "pixels"):
        first, *others = (global_batches(each, what) for each in told)
        assert others == [first] * 3
    assert len({pixels for step in first for pixels in step}) == NUM_DIGITS


def test_four_ranks_go_on_where_eight_stopped(ranks: Host, digits: Store) -> None:
    whole = global_batches(ranks.read(digits.root, epoch=2), "pixels")
    stopped = ranks.read(digits.root, epoch=2, steps=2)
    states = [each["state"] for each in stopped]
    assert states == [states[0]] * RANKS
    gone_on = ranks.read(digits.root, world=4, state=states[0])
    assert whole == global_batches(stopped, "pixels") + global_batches(gone_on, "pixels")


def test_eight_ranks_fetch_each_shard_once_for_their_host(
    ranks: Host, digits: Store, url: str, requests: Requests, tmp_path: Path
) -> None:
    """Through the cache that they share; the second epoch, and the next job, fetch none."""
    local = ranks.read(digits.root)
    for epoch in (0, 1, 0):
        told = ranks.read(url, cache=str(tmp_path / "cache"), epoch=epoch)
        assert requests.parts == {}
        assert sorted(requests.of_shards().values()) == [1] * SHARDS
    assert global_batches(told, "pixels") == global_batches(local, "pixels")


def test_a_rank_opens_a_remote_store_with_as_many_requests_as_one_that_is_alone(
    ranks: Host, url: str, requests: Requests, tmp_path: Path
) -> None:
    ranks.read(url, world=1, cache=str(tmp_path / "one"), steps=1)
    alone = Counter({name: n for name, n in requests.whole.items() if "hard/0" not in name})
    requests.whole.clear()
    ranks.read(url, cache=str(tmp_path / "eight"), steps=1)
    together = {name: n for name, n in requests.whole.items() if "hard/0" not in name}
    assert together == {name: RANKS * n for name, n in alone.items()}
    assert alone.total() < 20


def test_ranks_of_one_host_among_many_read_ranges_until_their_cache_is_filled(
    ranks: Host, digits: Store, url: str, requests: Requests, tmp_path: Path
) -> None:
    """Each host uses little of each shard in an epoch: a fetch of all is for the user to say."""
    asked = {"world": RANKS * HOSTS, "batch_size": RANKS * HOSTS, "cache": str(tmp_path / "cache")}
    local = ranks.read(digits.root, world=RANKS * HOSTS, batch_size=RANKS * HOSTS)
    for epoch in (0, 0):
        requests.parts.clear()
        told = ranks.read(url, epoch=epoch, **asked)
        assert requests.of_shards() == {}
        assert 0 < requests.parts.total() <= RANKS
        assert global_batches(told, "pixels") == global_batches(local, "pixels")
    fill(url, tmp_path / "cache")
    assert sorted(requests.of_shards().values()) == [1] * SHARDS
    requests.parts.clear()
    told = ranks.read(url, **asked)
    assert requests.parts == {}
    assert sorted(requests.of_shards().values()) == [1] * SHARDS
    assert global_batches(told, "pixels") == global_batches(local, "pixels")


@pytest.mark.parametrize("remote", [False, True])
def test_open_files_and_maps_of_a_rank_are_bounded_whatever_the_shards(
    ranks: Host, crumbs: Store, tmp_path: Path, *, remote: bool
) -> None:
    """Here a map is no descriptor; over a URL a rank maps its share of the cache."""
    largest = max(shard.blob.bytes for shard in crumbs.view_sets["hard"].shards.values())
    asked: dict[str, Any] = {"shuffle": "block:4"}
    place, most = str(crumbs.root), len(crumbs.view_sets["hard"].shards)
    if remote:
        place, most = f"local://{crumbs.root}", 3  # two ahead, one in use
        asked |= {"cache": str(tmp_path / "cache"), "limit": (RANKS * most + 1) * largest}
    for each in ranks.read(place, **asked):
        assert each["files"] <= each["files_before"] + FEW_FILES
        assert 0 < each["maps"] <= most + 2  # one that was closed lives as long as its last view
