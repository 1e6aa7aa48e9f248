"""`viewstore serve URL` between jobs and an origin: one fetch, right bytes, whatever breaks."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import pytest

import viewstore
from tests.loaders.test_loader import traces
from tests.remote import blobs
from tests.remote.servers import Fault, Faults, proxy, ranged_server
from tests.remote.test_many_reads import KINDS
from tests.viewstore.serve.origins import (
    IMPATIENT,
    PATIENCE_SECONDS,
    Gates,
    gated_server,
    large_store,
)
from tests.viewstore.serve.servers import Server, serving
from viewstore.errors import ViewStoreError
from viewstore.files.cache_settings import CacheSettings
from viewstore.files.fetch import Retry
from viewstore.files.locks import locked
from viewstore.files.remote import RemoteFiles
from viewstore.loaders import ViewLoader
from viewstore.serve.local import LocalGeneration
from viewstore.serve.objects import Listed
from viewstore.store.store import Store

BELOW = "v1/stores/digits"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """24 digits in 3 shards of a megabyte each."""
    return large_store(tmp_path_factory.mktemp("serve") / "digits")


@pytest.fixture
def gates() -> Gates:
    return Gates()


@pytest.fixture
def origin(large: Store, gates: Gates) -> Iterator[str]:
    with gated_server(large.root, gates) as url:
        yield url


@contextlib.contextmanager
def through(
    url: str, cache: Path, *options: object, limit: int = 1 << 30, port: int = 0
) -> Iterator[Server]:
    """Run `viewstore serve digits=URL` with a cache of its own."""
    environment = {
        "VIEWSTORE_CACHE__DIRECTORY": str(cache),
        "VIEWSTORE_CACHE__LIMIT": str(limit),
    }
    given = (f"digits={url}", "--max-streams-per-client", 256, *options)
    with serving(*given, environment=environment, port=port) as server:
        yield server


def opened(server: Server, cache: Path, retry: Retry = IMPATIENT) -> Store:
    settings = CacheSettings(directory=cache)
    return viewstore.open(server.url + BELOW, cache=settings, retry=retry)


def epoch(store: Store, seed: int = 0) -> list[str]:
    with ViewLoader(store, "cached:digits", batch_size=8, seed=seed, num_threads=0) as loader:
        return traces(loader, epochs=1)


def metrics(server: Server) -> str:
    return server.ask("/metrics").body.decode()


def counter(server: Server, name: str, **labels: str) -> float:
    """Return a number of /metrics."""
    inner = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    found = re.search(rf"^viewstore_{name}{{{inner}}} (\S+)$", metrics(server), re.MULTILINE)
    return 0.0 if found is None else float(found[1])


def origin_bytes(server: Server) -> float:
    return counter(server, "origin_bytes_total", store="digits")


def results(server: Server) -> dict[str, int]:
    """Return how often an object was here, fetched, awaited with others, or passed on."""
    names = ("hit", "miss", "joined", "passed")
    counts = {n: counter(server, "cache_requests_total", result=n, store="digits") for n in names}
    return {name: int(count) for name, count in counts.items() if count}


def shards(store: Store) -> list[Listed]:
    files = LocalGeneration(store.root).files.values()
    return [each for each in files if each.name.endswith(".tar")]


def fetched(server: Server, listed: Listed) -> bytes:
    """Return a file as a stock client gets it; HTTPException where it is broken off."""
    with urlopen(f"{server.url}{BELOW}/{listed.name}", timeout=PATIENCE_SECONDS) as answer:
        return bytes(answer.read())


def wait_until(happened: object, what: str) -> None:
    assert callable(happened)
    until = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < until, what
        time.sleep(0.005)


def test_eight_jobs_read_the_origin_once_and_a_second_epoch_not_at_all(
    large: Store, origin: str, gates: Gates, tmp_path: Path
) -> None:
    gates.gate.set()
    store_bytes = sum(each.size for each in LocalGeneration(large.root).files.values())
    expected = [epoch(large, seed) for seed in range(8)]
    with through(origin, tmp_path / "server") as server, ThreadPoolExecutor(8) as jobs:
        for number in range(2):

            def job(seed: int, number: int = number) -> list[str]:
                return epoch(opened(server, tmp_path / f"job-{number}-{seed}"), seed)

            before = origin_bytes(server)
            assert list(jobs.map(job, range(8))) == expected
            assert origin_bytes(server) - before <= (0 if number else 1.01 * store_bytes)
        assert origin_bytes(server) == gates.sent
        assert max(gates.asked[each.name] for each in shards(large)) == 1
        assert "passed" not in results(server)


def test_the_first_byte_comes_before_the_origin_has_sent_the_last(
    large: Store, origin: str, gates: Gates, tmp_path: Path
) -> None:
    listed = shards(large)[0]
    with through(origin, tmp_path / "server") as server:
        connection = server.connection()
        connection.request("GET", f"/{BELOW}/{listed.name}")
        answer = connection.getresponse()
        first = answer.read(1000)
        assert not gates.gate.is_set()
        gates.gate.set()
        assert first + answer.read() == (large.root / listed.name).read_bytes()
        connection.close()


def test_a_reader_that_leaves_in_the_middle_takes_nothing_from_the_others(
    large: Store, origin: str, gates: Gates, tmp_path: Path
) -> None:
    listed = shards(large)[0]
    with through(origin, tmp_path / "server") as server, ThreadPoolExecutor(3) as others:
        leaves = server.connection()
        leaves.request("GET", f"/{BELOW}/{listed.name}")
        leaves.getresponse().read(1000)
        waiting = [others.submit(fetched, server, listed) for _ in range(3)]
        leaves.close()
        wait_until(lambda: results(server).get("joined", 0) == 3, "three joined")
        gates.gate.set()
        data = (large.root / listed.name).read_bytes()
        assert [each.result() for each in waiting] == [data] * 3
        assert gates.asked[listed.name] == 1


def test_one_fill_more_than_may_run_is_told_when_to_come_back(
    large: Store, origin: str, gates: Gates, tmp_path: Path
) -> None:
    first, second, _ = shards(large)
    with through(origin, tmp_path / "server", "--fills", 1) as server:
        runs = server.connection()
        runs.request("GET", f"/{BELOW}/{first.name}")
        answer = runs.getresponse()
        refused = server.ask(f"/{BELOW}/{second.name}")
        assert (refused.status, refused.headers["retry-after"]) == (503, "2")
        assert refused.body == b"retry-after: 2\n"
        assert server.ask("/healthz").status == 200
        gates.gate.set()
        answer.read()
        runs.close()
        wait_until(lambda: server.ask(f"/{BELOW}/{second.name}").status == 200, "it comes")


def test_without_the_origin_an_epoch_and_a_new_open_go_on(
    large: Store, origin: str, gates: Gates, tmp_path: Path
) -> None:
    gates.gate.set()
    with through(origin, tmp_path / "server") as server:
        assert epoch(opened(server, tmp_path / "first")) == epoch(large)
        gates.down = True
        time.sleep(5.1)  # the manifest is old now, and is asked for
        assert epoch(opened(server, tmp_path / "second"), seed=3) == epoch(large, seed=3)
        wait_until(lambda: any("last manifest" in line for line in server.log), "it is told")


def test_a_restart_loses_nothing_that_was_whole(
    large: Store, origin: str, gates: Gates, tmp_path: Path
) -> None:
    gates.gate.set()
    for number in range(2):
        with through(origin, tmp_path / "server") as server:
            assert epoch(opened(server, tmp_path / f"job-{number}")) == epoch(large)
            assert (origin_bytes(server) < 20_000) == bool(number)  # the records are read again
            server.signal(signal.SIGKILL)
    assert {gates.asked[each.name] for each in shards(large)} == {1}


@pytest.mark.filterwarnings("ignore:.* does not answer, trying again")  # it starts in seconds
def test_a_killed_server_that_comes_back_is_not_noticed_by_a_job(
    large: Store, origin: str, gates: Gates, tmp_path: Path
) -> None:
    patient = Retry(tries=10_000, total_seconds=PATIENCE_SECONDS, longest_seconds=0.5)
    with contextlib.ExitStack() as running, ThreadPoolExecutor(1) as job:
        server = running.enter_context(through(origin, tmp_path / "server"))
        store = opened(server, tmp_path / "job", retry=patient)
        assert store.files.cache is not None
        traffic = store.files.cache.traffic
        before = traffic.fetched_bytes
        reads = job.submit(epoch, store)
        wait_until(lambda: traffic.fetched_bytes > before + 100_000, "it is in mid-shard")
        server.signal(signal.SIGKILL)
        server.wait()
        assert not reads.done()
        gates.gate.set()
        running.enter_context(through(origin, tmp_path / "server", port=server.port))
        assert reads.result() == epoch(large)


def test_two_servers_share_a_cache_and_do_not_wait_for_one_another(
    large: Store, origin: str, gates: Gates, tmp_path: Path
) -> None:
    listed = shards(large)[0]
    data = (large.root / listed.name).read_bytes()
    with (
        through(origin, tmp_path / "cache") as one,
        through(origin, tmp_path / "cache") as other,
        ThreadPoolExecutor(2) as clients,
    ):
        first = clients.submit(fetched, one, listed)
        wait_until(lambda: gates.asked[listed.name] == 1, "the first one fetches it")
        second = clients.submit(fetched, other, listed)
        wait_until(lambda: gates.asked[listed.name] == 2, "the second one passes it on")
        gates.gate.set()
        assert first.result() == second.result() == data
        wait_until(lambda: (tmp_path / "cache" / "obj" / listed.sha256).exists(), "it is kept")
        for server in (one, other):
            assert fetched(server, listed) == data
        assert gates.asked[listed.name] == 2
        assert results(other)["passed"] == 1


def test_jobs_that_need_more_fills_than_may_run_wait_and_complete(
    large: Store, origin: str, gates: Gates, tmp_path: Path
) -> None:
    """Refusals are no failed tries: a reader that may fail once only gets all the same."""
    first, second, _ = shards(large)
    once = Retry(tries=1, hash_tries=1)
    with (
        through(origin, tmp_path / "server", "--fills", 1) as server,
        ThreadPoolExecutor(1) as other,
    ):
        runs = other.submit(fetched, server, first)
        wait_until(lambda: gates.asked[first.name] == 1, "the only fill runs")
        cache = CacheSettings(directory=tmp_path / "job")
        files = RemoteFiles(server.url + BELOW, cache=cache, retry=once)
        refused: list[float] = []

        def sleep(seconds: float) -> None:
            refused.append(seconds)
            gates.gate.set()
            runs.result()
            wait_until(lambda: (tmp_path / "server" / "obj" / first.sha256).exists(), "it is kept")

        files.cache.fetcher.sleep = sleep
        descriptor = files.open(Path(second.name), second.size, second.sha256)
        with os.fdopen(descriptor, "rb") as file:
            file.seek(0)
            assert file.read() == (large.root / second.name).read_bytes()
        assert 2 <= refused[0] <= 3


def test_a_store_in_s3_is_served(digits: Store, s3_url: str, tmp_path: Path) -> None:
    with through(s3_url, tmp_path / "server") as server:
        files = LocalGeneration(digits.root).files
        for listed in files.values():
            assert fetched(server, listed) == (digits.root / listed.name).read_bytes()
        store = opened(server, tmp_path / "job")
        with ViewLoader(store, "hard", batch_size=8, num_threads=0) as loader:
            found = traces(loader, epochs=1)
        with ViewLoader(digits, "hard", batch_size=8, num_threads=0) as loader:
            assert traces(loader, epochs=1) == found
        assert origin_bytes(server) <= sum(each.size for each in files.values())


@pytest.mark.parametrize("kept", [True, False])
def test_a_server_that_ends_does_not_wait_for_an_origin_that_is_silent(
    large: Store, origin: str, gates: Gates, tmp_path: Path, kept: bool
) -> None:
    listed = shards(large)[0]
    with through(origin, tmp_path / "server") as server, contextlib.ExitStack() as others:
        if not kept:  # another process brings it
            lock = tmp_path / "server" / "lock" / listed.sha256[:3]
            others.enter_context(locked(lock))
        client = server.connection()
        client.request("GET", f"/{BELOW}/{listed.name}")
        client.getresponse().read(1000)
        if kept:  # the fill goes on without its client
            client.close()
            wait_until(lambda: "viewstore_streams 0.0" in metrics(server), "it has gone")
            server.signal(signal.SIGTERM)
        else:
            for _ in range(2):
                server.signal(signal.SIGTERM)
                time.sleep(0.2)  # two signals at once are one
        assert server.wait() == 0
        assert gates.waiting == 1
        client.close()


def flips(large: Store, tmp_path: Path, rate: float, reads: int) -> Counter[str]:
    """Read shards as a stock client through a server whose origin flips bits."""
    limit = 2 * max(each.size for each in shards(large))  # so that two of three shards fit
    faults = Faults(rate=rate, kinds=("flip",), only=".tar", seed=1)
    counts: Counter[str] = Counter()
    draw = random.Random(2)
    with (
        ranged_server(large.root) as upstream,
        proxy(upstream, faults) as url,
        through(url, tmp_path / "server", "--fills", 1, limit=limit) as server,
    ):
        for _ in range(reads):
            listed = draw.choice(shards(large))
            try:
                data = fetched(server, listed)
            except (HTTPException, OSError):
                counts["broken off"] += 1
            else:
                right = hashlib.sha256(data).hexdigest() == listed.sha256
                counts["right" if right else "wrong"] += 1
            assert blobs.used_bytes(tmp_path / "server") <= limit
        counts["flipped"] = faults.done["flip"]
        counts["fetched again"] = int(counter(server, "corrupt_refetched_total", store="digits"))
    return counts


def test_a_stock_client_never_gets_a_whole_file_with_a_flipped_bit(
    large: Store, tmp_path: Path
) -> None:
    counts = flips(large, tmp_path, 0.5, 40)
    assert counts["wrong"] == 0
    assert counts["right"] > 0
    assert counts["broken off"] > 0
    assert counts["flipped"] > 0
    assert counts["fetched again"] > 0


def read_through_lies(
    digits: Store, tmp_path: Path, count: int, kinds: tuple[Fault, ...] = KINDS
) -> None:
    """Read shards over two broken networks: from origin to server, from server to reader."""
    listed = [each for each in LocalGeneration(digits.root).files.values() if each.immutable]
    listed = [each for each in listed if "/views/" in f"/{each.name}"]
    largest = max(each.size for each in listed)
    ours, theirs = 5 * largest, 7 * largest  # 4 fills; 6 threads
    near, far = (Faults(rate=0.3, kinds=kinds, stall_seconds=0.05, only="views/") for _ in "ab")
    counts: Counter[str] = Counter()
    peak = 0
    lock = threading.Lock()
    with (
        ranged_server(digits.root) as upstream,
        proxy(upstream, far) as url,
        through(url, tmp_path / "server", "--fills", 4, limit=ours) as server,
        proxy(server.url.rstrip("/"), near) as lying,
    ):
        files = RemoteFiles(
            f"{lying}/{BELOW}",
            cache=CacheSettings(directory=tmp_path / "job", limit_bytes=theirs),
            retry=blobs.IMPATIENT,
        )

        def work(seed: int) -> None:
            nonlocal peak
            draw = random.Random(seed)
            for _ in range(count // 6):
                one = draw.choice(listed)
                try:
                    descriptor = files.open(Path(one.name), one.size, one.sha256)
                    with os.fdopen(descriptor, "rb") as file:
                        file.seek(0)
                        found = hashlib.sha256(file.read()).hexdigest() == one.sha256
                    said = "right" if found else "wrong"
                except ViewStoreError as error:
                    said = type(error).__name__
                used = blobs.used_bytes(tmp_path / "server")
                with lock:
                    counts[said] += 1
                    peak = max(peak, used)

        workers = [threading.Thread(target=work, args=[seed]) for seed in range(6)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        print(f"\n{dict(counts)}; {results(server)}; near {dict(near.done)}; far {dict(far.done)}")
        assert counts["wrong"] == 0
        assert counts["right"] >= 0.98 * count
        assert peak <= ours
        assert sum(near.done[kind] for kind in kinds) > 0.1 * sum(near.done.values())
        assert sum(far.done[kind] for kind in kinds) > 0.1 * sum(far.done.values())


def test_reads_through_lies_on_both_ways_are_right(digits: Store, tmp_path: Path) -> None:
    read_through_lies(digits, tmp_path, 300)


@pytest.mark.slow
def test_ten_thousand_reads_through_lies_on_both_ways_are_right(
    digits: Store, tmp_path: Path
) -> None:
    read_through_lies(digits, tmp_path, 10_002)
