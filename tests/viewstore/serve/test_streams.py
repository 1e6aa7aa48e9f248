"""What a client does while it is sent a file: go away, or take nothing."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.viewstore.serve.requests import connected, descriptors
from tests.viewstore.serve.servers import serving, until
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.inspect.pages.site import Site
from viewstore.serve import app
from viewstore.serve.app import application
from viewstore.serve.local import LocalStore

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


def open_here(folder: Path) -> list[str]:
    found = []
    for each in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(each.readlink()))
        except FileNotFoundError:
            continue
    return [each for each in found if each.startswith(f"{folder}/") and each.endswith(".tar")]


def test_a_client_that_goes_away_leaves_no_file_open(large: Path, shard: Path) -> None:
    with serving(large) as server:
        for _ in range(20):
            with connected(server) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                name = f"/v1/stores/s/{shard.relative_to(large)}"
                client.sendall(f"GET {name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                assert client.recv(100).startswith(b"HTTP/1.1 200 OK")
                assert str(shard) in descriptors(server)
        until(lambda: str(shard) not in descriptors(server))
        assert len(server.log) == 2  # where it serves


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
