"""The limiter: how many streams one client has, how many all have, and who does not count."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from starlette.types import Message, Receive, Scope, Send

from tests.viewstore.serve.conftest import TOKEN
from tests.viewstore.serve.servers import serving, until
from tests.viewstore.serve.streams import Stream, shard_of
from viewstore.serve.limits import CLIENT, Limiter, Limits, Running, come_back
from viewstore.store.store import Store

SECOND = "second-token-0123456789"
ALWAYS = ("/healthz", "/readyz", "/metrics")


def test_the_17th_stream_of_a_client_comes_back_later(large: Store) -> None:
    path, _ = shard_of(large)
    with serving(large.root) as server:
        streams = [Stream(server, path) for _ in range(16)]
        for _ in range(3):  # what is refused does not count itself
            answer = server.ask(path)
            assert (answer.status, answer.headers["retry-after"]) == (503, "2")
            assert answer.body == b"retry-after: 2\n"
        assert server.ask(f"/inspect/{large.name}/").status == 503
        for each in ALWAYS:
            assert server.ask(each).status == 200
        assert b"viewstore_streams 16.0\n" in server.ask("/metrics").body
        body, length = streams[0].rest()
        assert len(body) == length
        until(lambda: server.ask(path).status == 200)  # the server sees that it is done
        for stream in streams:
            stream.close()
        metrics = server.ask("/metrics").body.decode()
        assert 'viewstore_rejected_total{reason="streams of a client"}' in metrics


def test_a_client_is_its_token_else_its_address(large: Store, token_file: Path) -> None:
    path, _ = shard_of(large)
    token_file.write_text(f"{TOKEN}\n{SECOND}\n")
    first, second = ({"Authorization": f"Bearer {each}"} for each in (TOKEN, SECOND))
    with serving(
        large.root, "--token-file", token_file, "--max-streams-per-client", 2, "--max-streams", 3
    ) as server:
        streams = [Stream(server, path, first) for _ in range(2)]
        assert server.ask("/v1/stores", first).status == 503
        assert server.ask("/v1/stores", second).status == 200
        streams.append(Stream(server, path, second))
        assert server.ask("/v1/stores", second).status == 503  # three run in all
        assert server.ask("/healthz").status == 200
        metrics = server.ask("/metrics", second).body.decode()
        assert 'viewstore_rejected_total{reason="streams of a client"} 1.0' in metrics
        assert 'viewstore_rejected_total{reason="streams"} 1.0' in metrics
        for stream in streams:
            stream.close()


def request(client: object, path: str = "/x", root_path: str = "") -> Scope:
    return {"type": "http", "path": root_path + path, "root_path": root_path, CLIENT: client}


async def nothing() -> Message:
    raise AssertionError("nobody asks what a client says")


def test_a_request_that_fails_or_is_cancelled_runs_no_more() -> None:
    running = Running()
    statuses: list[int] = []

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        assert running.streams == 1
        if scope["path"] == "/wait":
            await asyncio.Event().wait()
        raise ZeroDivisionError

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    limiter = Limiter(broken, Limits(streams_per_client=1), running, lambda reason: None)

    async def tried() -> None:
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await limiter(request("a"), nothing, send)
        waits = asyncio.create_task(limiter(request("a", "/wait"), nothing, send))
        await asyncio.sleep(0)
        await limiter(request("a"), nothing, send)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits

    asyncio.run(tried())
    assert (running.streams, statuses) == (0, [503])
    assert not limiter._of  # a client that has gone is forgotten


@pytest.mark.parametrize("root_path", ["", "/views"])
def test_health_is_never_refused(root_path: str) -> None:
    reached: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope["path"])

    async def send(message: Message) -> None:
        pass

    limiter = Limiter(app, Limits(), Running(draining=True), lambda reason: None)
    for path in (*ALWAYS, "/healthz/x", "/v1/stores"):
        asyncio.run(limiter(request("a", path, root_path), nothing, send))
    assert reached == [root_path + each for each in ALWAYS]


def test_the_first_line_says_when_to_come_back() -> None:
    answer = come_back(7, "digits: why\n", close=True)
    assert bytes(answer.body) == b"retry-after: 7\ndigits: why\n"
    assert (answer.headers["retry-after"], answer.headers["connection"]) == ("7", "close")
    assert "connection" not in come_back(7).headers
