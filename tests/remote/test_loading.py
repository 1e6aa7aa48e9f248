"""Loading over a URL: what comes ahead, what is mixed, what is damaged, and worker processes."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

import viewstore
from tests.loaders.adapters.test_torch_data import digests
from tests.loaders.families import say_parents
from tests.loaders.stores import SHARD_ROWS, digits_store
from tests.loaders.test_loader import traces
from tests.remote.conftest import Open
from tests.remote.servers import PATIENCE_SECONDS, Faults, Gate, proxy, ranged_server
from viewstore.errors import FormatError, UnavailableError
from viewstore.files import blob_cache
from viewstore.files.fetch import Retry
from viewstore.loaders import Cached, Mix, Online, ViewIterableDataset, ViewLoader
from viewstore.loaders.adapters.recipe import Recipe
from viewstore.loaders.read.memory import keep_resident
from viewstore.loaders.read.set_reader import ViewSetReader
from viewstore.loaders.settings import LoaderSettings
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """30 digits with the same view sets as `digits`, seeded otherwise."""
    return digits_store(tmp_path_factory.mktemp("remote") / "others", limit=30, seed=9)


@pytest.fixture
def others_url(others: Store) -> Iterator[str]:
    with ranged_server(others.root) as url:
        yield url


@pytest.fixture
def digits_url(digits: Store) -> Iterator[str]:
    with ranged_server(digits.root) as url:
        yield url


def here(views: ViewSet) -> list[int]:
    """Return the shards in the cache, once nothing comes any more."""
    for thread in threading.enumerate():
        if thread.name == "viewstore-ahead":
            thread.join(PATIENCE_SECONDS)
    return [number for number in views.shards if views.at_hand(number)]


def in_order(store: Store | list[Store], **changes: Any) -> ViewLoader:  # noqa: ANN401
    settings = {"batch_size": SHARD_ROWS, "shuffle": "none", "num_threads": 0, **changes}
    return ViewLoader(store, "hard", **settings)


def test_two_shards_come_ahead_and_no_more(digits_url: str, open_remote: Open) -> None:
    store = open_remote(digits_url)
    views = store.view_sets["hard"]
    with in_order(store, tail="keep") as loader:
        assert here(views) == []
        found = [here(views) for _ in loader]
    every = [0, 1, 2, 3, 4]
    assert found == [[0, 1, 2], [0, 1, 2, 3], every, every, every]


def test_shards_that_are_open_do_not_hide_those_to_come(digits_url: str, open_remote: Open) -> None:
    """Batches of one row: what follows in the same window is here, and is not what is awaited."""
    store = open_remote(digits_url)
    with in_order(store, batch_size=1, shuffle="block:3", seed=2) as loader:
        window = {int(loader.batch(0, step).index) // SHARD_ROWS for step in range(12)}
        assert len(window) == 3
        here(store.view_sets["hard"])
        loader.batch(0, 12)
        assert here(store.view_sets["hard"]) == [0, 1, 2, 3, 4]


def test_prefetch_stays_under_its_bytes(
    digits_url: str, open_remote: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_remote(digits_url)
    views = store.view_sets["hard"]
    sizes = [shard.blob.bytes for shard in views.shards.values()]
    monkeypatch.setattr(blob_cache, "AHEAD_BYTES", sizes[1] + sizes[2] - 1)
    with in_order(store) as loader:
        loader.batch(0, 0)
        assert here(views) == [0, 1]


def test_no_more_than_two_shards_come_at_one_time(digits: Store, open_remote: Open) -> None:
    gate = Gate(only=".tar")
    with ranged_server(digits.root) as upstream, proxy(upstream, gate) as url:
        views = open_remote(url, retry=Retry()).view_sets["hard"]
        views.prefetch([0, 1, 2])
        views.prefetch([2, 3])
        views.prefetch([4])
        gate.open()
        assert here(views) == [0, 1]
    assert len(gate.asked) == 2


def test_each_of_several_stores_has_its_shards_come_ahead(
    digits_url: str, others_url: str, open_remote: Open
) -> None:
    stores = [open_remote(digits_url), open_remote(others_url)]
    with in_order(stores) as loader:
        loader.batch(0, 0)
        assert here(stores[0].view_sets["hard"]) == [0, 1, 2]
        loader.batch(0, 4)
        assert here(stores[1].view_sets["hard"]) == [0, 1]


def test_shards_that_are_read_by_ranges_are_not_fetched(digits_url: str, open_remote: Open) -> None:
    store = open_remote(digits_url)
    with in_order(store, rows=[0, 1, 17, 33, 49, 65], batch_size=1) as loader:
        assert len(list(loader)) == 6
    assert here(store.view_sets["hard"]) == []
    with in_order(store, rows=[*range(2 * SHARD_ROWS), 33]) as loader:
        loader.batch(0, 0)
        assert here(store.view_sets["hard"]) == [0, 1]


@pytest.mark.parametrize("limit_bytes", [0, 1 << 30])
def test_mixed_view_sets_of_a_remote_store_are_those_of_the_local_one(
    digits_url: str, digits: Store, open_remote: Open, limit_bytes: int
) -> None:
    views = [Mix({"hard": 3.0, "digits": 1.0}, n=2, then="flip"), Cached("hard", then="crop")]
    settings: dict[str, Any] = {"batch_size": 10, "seed": 2, "num_threads": 2}
    with ViewLoader(digits, views, **settings) as local:
        expected = traces(local, epochs=2)
    with ViewLoader(open_remote(digits_url, limit_bytes=limit_bytes), views, **settings) as loader:
        assert traces(loader, epochs=2) == expected


@pytest.mark.parametrize("limit_bytes", [0, 1 << 30])
def test_views_of_views_of_a_remote_store_are_those_of_the_local_one(
    digits_url: str, digits: Store, open_remote: Open, limit_bytes: int
) -> None:
    views = [Cached("digits"), Cached("hard", follow=0), Online("simclr", on=1)]
    settings: dict[str, Any] = {"batch_size": 10, "seed": 2, "num_threads": 2}
    found = []
    for store in (
        viewstore.open(digits.root),
        open_remote(digits_url, limit_bytes=limit_bytes),
    ):
        say_parents(store, "hard", "digits", [0, 1, 2, 0])
        with ViewLoader(store, views, **settings) as loader:
            found.append(traces(loader, epochs=2))
    assert found[0] == found[1]


@pytest.mark.parametrize("limit_bytes", [0, 1 << 30])
def test_several_remote_stores_are_the_several_local_ones(
    digits_url: str,
    others_url: str,
    digits: Store,
    others: Store,
    open_remote: Open,
    limit_bytes: int,
) -> None:
    settings: dict[str, Any] = {"rates": [0.7, 1.2], "batch_size": 9, "seed": 2, "num_threads": 2}
    with ViewLoader([digits, others], "hard+flip,simclr", **settings) as local:
        expected = traces(local, epochs=2)
    urls = (digits_url, others_url)
    stores = [open_remote(url, limit_bytes=limit_bytes) for url in urls]
    with ViewLoader(stores, "hard+flip,simclr", **settings) as loader:
        assert traces(loader, epochs=2) == expected


def damaged_copy(store: Store, folder: Path, rows: list[int]) -> Store:
    """Return a copy in which a bit of the views of some rows is another one."""
    shutil.copytree(store.root, folder)
    views = store.view_sets["hard"]
    for row in rows:
        place = views.members[row, views.plan.members.index("views.npy")]
        path = folder / views.shards[row // SHARD_ROWS].path.relative_to(store.root)
        path.chmod(0o644)
        with path.open("r+b") as file:
            file.seek(int(place["offset"]) + int(place["size"]) // 2)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 4]))
    return Store(type(store.paths)(folder), store.manifest)


def test_of_a_damaged_shard_ranges_lose_only_the_damaged_rows(
    digits: Store, open_remote: Open, tmp_path: Path
) -> None:
    local = damaged_copy(digits, tmp_path / "damaged", [5, 20])
    settings: dict[str, Any] = {"batch_size": 14, "num_threads": 2, "on_corrupt": "quarantine"}
    with ViewLoader(local, "hard+flip", **settings) as loader:
        expected = list(loader)
    with ranged_server(local.root) as url:
        store = open_remote(url, limit_bytes=0)
        with ViewLoader(store, "hard+flip", **settings) as loader:
            found = list(loader)
        with (
            ViewLoader(store, "hard", batch_size=14, num_threads=0) as loader,
            pytest.raises(FormatError, match="does not match its CRC-32"),
        ):
            list(loader)
    lost = {int(row) for batch in found for row in batch.index[~batch.valid]}
    assert lost == {5, 20}
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.valid.equal(theirs.valid)
        assert mine.views[0].pixels.equal(theirs.views[0].pixels)
        assert not mine.views[0].pixels[~mine.valid].any()


def test_of_a_damaged_shard_a_download_loses_all_rows(
    digits: Store, open_remote: Open, tmp_path: Path
) -> None:
    """Its sha256 is wrong: which of its bytes are right is not known without the member table."""
    local = damaged_copy(digits, tmp_path / "damaged", [5])
    settings: dict[str, Any] = {"batch_size": 14, "num_threads": 2, "on_corrupt": "quarantine"}
    with ranged_server(local.root) as url, ViewLoader(open_remote(url), "hard", **settings) as it:
        lost = {int(row) for batch in it for row in batch.index[~batch.valid]}
    assert lost == set(range(SHARD_ROWS))


def test_a_remote_set_is_kept_in_memory_once_its_shards_are_here(
    digits_url: str, digits: Store, open_remote: Open
) -> None:
    views = open_remote(digits_url).view_sets["hard"]
    reader = ViewSetReader(views)
    keep_resident([(reader, False)], "auto", ranks=1)
    assert reader.resident is None
    for number in views.shards:
        os.close(views.shards[number].open())
    keep_resident([(reader, False)], "auto", ranks=1)
    assert reader.resident is not None
    settings: dict[str, Any] = {"batch_size": 10, "num_threads": 0, "resident": True}
    with ViewLoader(digits, "hard+flip", batch_size=10, num_threads=0) as local:
        expected = traces(local)
    with ViewLoader(open_remote(digits_url), "hard+flip", **settings) as loader:
        assert traces(loader) == expected


def test_params_come_several_at_one_time(digits: Store, open_remote: Open) -> None:
    """One after another they would wait at the gate, each for the next one."""
    gate = Gate(only=".params", most=5)
    with ranged_server(digits.root) as upstream, proxy(upstream, gate) as url:
        params = open_remote(url, retry=Retry()).view_sets["hard"].params
        assert np.array_equal(params["flip"], digits.view_sets["hard"].params["flip"])
    assert not gate.late
    assert len(gate.asked) == 5


def test_params_of_a_cache_that_keeps_nothing_cost_their_own_bytes(
    digits: Store, open_remote: Open
) -> None:
    faults = Faults(only=".params")
    with ranged_server(digits.root) as upstream, proxy(upstream, faults) as url:
        params = open_remote(url, limit_bytes=0).view_sets["hard"].params
        rows = np.array([3, 40])
        found, expected = params.rows("flip", rows), digits.view_sets["hard"].params["flip"][rows]
        assert np.array_equal(found, expected)
    sizes = []
    for wanted in faults.ranges:
        first, last = wanted.removeprefix("bytes=").split("-")
        sizes.append(int(last) - int(first) + 1)
    assert sizes == [SHARD_ROWS * expected[0].nbytes + 4] * 2


def test_a_process_forked_after_a_read_refuses_what_would_hang(
    digits_url: str, open_remote: Open
) -> None:
    views = open_remote(digits_url).view_sets["hard"]
    assert views[0].any()
    child = os.fork()
    if child == 0:
        signal.alarm(PATIENCE_SECONDS)
        try:
            _ = views[SHARD_ROWS]
        except UnavailableError as error:
            os._exit(7 if "spawn or forkserver" in str(error.fix) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_ctrl_c_ends_a_loop_that_waits_for_a_server(digits: Store, tmp_path: Path) -> None:
    """The patience of the threads is hours; without the program nobody needs what they fetch."""
    program = (
        "import pathlib, signal, sys, viewstore\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have jobs ignore it\n"
        "from viewstore.files.cache_settings import CacheSettings\n"
        "from viewstore.files.fetch import Retry\n"
        "from viewstore.loaders import ViewLoader\n"
        "cache = CacheSettings(directory=pathlib.Path(sys.argv[2]))\n"
        "retry = Retry(first_seconds=1e5, longest_seconds=1e5, total_seconds=2e5)\n"
        "store = viewstore.open(sys.argv[1], cache=cache, retry=retry)\n"
        "for batch in ViewLoader(store, 'hard', batch_size=16, num_threads=2): pass\n"
    )
    gate = Gate(only=".tar", most=1, rate=1.0, kinds=("503",))
    with ranged_server(digits.root) as upstream, proxy(upstream, gate) as url:
        process = subprocess.Popen(
            [sys.executable, "-c", program, url, str(tmp_path / "cache")],
            stderr=subprocess.PIPE,
            text=True,
        )
        gate.wait()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert errors.endswith("KeyboardInterrupt\n")


def test_a_recipe_takes_the_cache_and_the_patience_along(
    digits_url: str, open_remote: Open
) -> None:
    store = open_remote(digits_url, eviction="lru")
    again = pickle.loads(
        pickle.dumps(Recipe([store, store], "hard", LoaderSettings(batch_size=10)))
    )
    with again.loader as loader:
        assert len(loader) == 14
    sent = Recipe.__getstate__(again)["_stores"]
    assert [each[::2] for each in sent] == [(digits_url, store.store_id)] * 2
    assert sent[0][1]["cache"].eviction == "lru"


def test_worker_processes_read_a_url_through_the_same_cache(
    digits_url: str,
    digits: Store,
    open_remote: Open,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("VIEWSTORE_CACHE__DIRECTORY", str(tmp_path / "of the environment"))
    settings: dict[str, Any] = {"batch_size": 10, "seed": 3}
    with ViewLoader(digits, "hard,online:digits", num_threads=0, **settings) as local:
        expected = digests(local)
    dataset = ViewIterableDataset(open_remote(digits_url), "hard,online:digits", **settings)
    workers: DataLoader[Any] = DataLoader(
        dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn"
    )
    assert digests(workers) == expected
    assert not (tmp_path / "of the environment").exists()
