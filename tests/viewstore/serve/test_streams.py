"""What a client does while it is sent a file: go away, or take nothing."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from tests.viewstore.serve.requests import connected, descriptors
from tests.viewstore.serve.servers import serving, until
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.inspect.pages.site import Site
from viewstore.serve import app, server
from viewstore.serve.app import application
from viewstore.serve.guard import Access
from viewstore.serve.limits import Limits, Running
from viewstore.serve.local import LocalGeneration, LocalStore
from viewstore.serve.metrics import Metrics
from viewstore.serve.objects import Listed
from viewstore.serve.server import Listening
from viewstore.serve.service import service

LARGE = {"views": 8, "height": 224, "width": 224}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with shards of 9 MB: more than lies in the buffers of a connection."""
    folder = tmp_path_factory.mktemp("large")
    build_small(folder / "s", write_npz(folder / "images.npz"), settings=LARGE, codec="raw")
    return folder / "s"


@pytest.fixture
def shard(large: Path) -> Path:
    return next((large / "views" / "simclr").glob("000000-*.tar"))


async def started() -> None:
    pass


def open_here(folder: Path) -> list[str]:
    found = []
    for each in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(each.readlink()))
        except FileNotFoundError:
            continue
    return [each for each in found if each.startswith(f"{folder}/") and each.endswith(".tar")]


def test_a_client_that_goes_away_leaves_no_file_open(large: Path, shard: Path) -> None:
    with serving(large) as running:
        for _ in range(20):
            with connected(running) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                name = f"/v1/stores/s/{shard.relative_to(large)}"
                client.sendall(f"GET {name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                assert client.recv(100).startswith(b"HTTP/1.1 200 OK")
                assert str(shard) in descriptors(running)
        until(lambda: str(shard) not in descriptors(running))
        assert len(running.log) == 2  # where it serves


def test_the_connection_of_a_client_that_takes_nothing_ends(
    large: Path, shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (app, server):
        monkeypatch.setattr(module, "SEND_SECONDS", 0.5)
    listening, running = Listening(port=0), Running()
    served = [LocalStore("s", large)]
    metrics = Metrics("1", running)
    site = Site({"s": served[0].store})
    access, limits = Access(), Limits()
    guarded = service(served, site, access=access, limits=limits, running=running, metrics=metrics)
    runs = server.Server(guarded, listening, running, started)
    socket_ = server.listen(listening)
    thread = threading.Thread(target=runs.run, args=[[socket_]])
    thread.start()
    with socket.create_connection(socket_.getsockname()) as client:
        name = f"/v1/stores/s/{shard.relative_to(large)}"
        client.sendall(f"GET {name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert client.recv(15) == b"HTTP/1.1 200 OK"
        until(lambda: not runs.server_state.connections)
    runs.should_exit = True
    thread.join()
    assert open_here(large) == []


def test_a_client_that_takes_nothing_is_left(
    large: Path, shard: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(app, "SEND_SECONDS", 0.05)
    served = LocalStore("s", large)
    asgi = application([served], Site({"s": served.store}))
    path = f"/v1/stores/s/{shard.relative_to(large)}"
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "headers": [],
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:  # noqa: ANN401
        sent.append(message)
        if len(sent) == 3:
            assert open_here(large) == [str(shard)]
            await asyncio.get_running_loop().create_future()

    with caplog.at_level(logging.WARNING):
        asyncio.run(asgi({**scope, "query_string": b""}, receive, send))
    assert [message["type"] for message in sent] == [
        "http.response.start",
        *["http.response.body"] * 2,
    ]
    assert sent[1]["more_body"] is True
    assert open_here(large) == []
    (said,) = caplog.messages
    assert said.endswith("was broken off: nothing taken for 0.05 s")


class Waiting(LocalGeneration):
    """A generation whose bytes do not come yet, as where an origin is slow."""

    ended = False

    async def body(self, listed: Listed, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        try:
            await asyncio.get_running_loop().create_future()
            yield b""
        finally:
            self.ended = True


def test_a_client_that_goes_away_before_the_first_byte_waits_for_none(
    large: Path, shard: Path
) -> None:
    served = LocalStore("s", large)
    served.newest()
    served._generation = waiting = Waiting(large)
    asgi = application([served], Site({"s": served.store}))
    path = f"/v1/stores/s/{shard.relative_to(large)}"
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:  # noqa: ANN401
        sent.append(message)

    asyncio.run(asgi(scope, receive, send))
    assert (sent, waiting.ended) == ([], True)
