"""Replicas are restarted one after another under running jobs, which notice nothing."""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import viewstore
from tests.remote.test_serve_through import BELOW, epoch, through, wait_until
from tests.viewstore.serve.origins import Gates, gated_server, large_store
from tests.viewstore.serve.servers import LONG, Server
from viewstore.files.cache_settings import CacheSettings
from viewstore.store.store import Store

JOBS = 4


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """24 digits in 3 shards of a megabyte each."""
    return large_store(tmp_path_factory.mktemp("rolling") / "digits")


def is_ready(port: int) -> bool:
    """Ask a replica whether it takes requests, as a load balancer does."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONG)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Balancer:
    """Passes each connection on to a replica that says it is ready."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.ports = list(ports)
        self.passed = [0] * len(ports)
        self._turn = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(LONG)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._pass_on, args=[client], daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, self._replica() as replica:
            back = threading.Thread(target=_copy, args=[replica, client], daemon=True)
            back.start()
            _copy(client, replica)
            back.join()

    def _replica(self) -> socket.socket:
        for _ in self.ports:
            self._turn += 1
            number = self._turn % len(self.ports)
            if is_ready(self.ports[number]):
                self.passed[number] += 1
                return socket.create_connection(("127.0.0.1", self.ports[number]))
        raise OSError("no replica is ready")


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def balanced(ports: Sequence[int]) -> Iterator[Balancer]:
    found = Balancer(ports)
    try:
        yield found
    finally:
        found.close()


def roll(large: Store, tmp_path: Path, times: int) -> None:
    """Restart two replicas `times` times under four jobs, which read epoch after epoch."""
    gates = Gates()
    gates.gate.set()
    done = threading.Event()
    expected = [epoch(large, seed) for seed in range(JOBS)]

    def job(seed: int, url: str) -> int:
        epochs = 0
        while not done.is_set():
            cache = CacheSettings(directory=tmp_path / f"job-{seed}-{epochs}")
            assert epoch(viewstore.open(url, cache=cache), seed) == expected[seed]
            epochs += 1
        return epochs

    def replica(number: int, origin: str, port: int = 0) -> Server:
        cache = tmp_path / f"server-{number}"
        server = running.enter_context(through(origin, cache, port=port))
        wait_until(lambda: is_ready(server.port), "it is ready")
        return server

    with contextlib.ExitStack() as running, ThreadPoolExecutor(JOBS) as pool:
        origin = running.enter_context(gated_server(large.root, gates))
        replicas = [replica(number, origin) for number in range(2)]
        balancer = running.enter_context(balanced([each.port for each in replicas]))
        url = f"http://127.0.0.1:{balancer.port}/{BELOW}"
        jobs = [pool.submit(job, seed, url) for seed in range(JOBS)]
        try:
            for _ in range(times):
                for number, old in enumerate(replicas):
                    before = balancer.passed[number]
                    old.signal(signal.SIGTERM)
                    assert old.wait() == 0
                    replicas[number] = replica(number, origin, old.port)
                    wait_until(
                        lambda number=number, before=before: balancer.passed[number] > before,
                        "jobs read from it again",
                    )
        finally:
            done.set()
        assert all(each.result() > 0 for each in jobs)


def test_a_rolling_restart_is_not_noticed_by_jobs(large: Store, tmp_path: Path) -> None:
    roll(large, tmp_path, 1)


@pytest.mark.slow
def test_three_rolling_restarts_are_not_noticed_by_jobs(large: Store, tmp_path: Path) -> None:
    roll(large, tmp_path, 3)
