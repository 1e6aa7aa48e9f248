"""How a server ends: what runs goes on, nothing new begins, and a second signal ends it now."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import signal
from socket import SO_RCVBUF, SO_SNDBUF, SOL_SOCKET

import pytest
from starlette.types import Receive, Scope, Send

from tests.viewstore.serve.servers import LONG, serving, until
from tests.viewstore.serve.servers import Server as Process
from tests.viewstore.serve.streams import Stream, shard_of
from viewstore.serve.limits import Running
from viewstore.serve.server import Listening, Server, listen
from viewstore.store.store import Store


def wait_until_draining(server: Process) -> None:
    until(lambda: server.ask("/readyz").status == 503)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_running_stream_ends_whole_and_nothing_new_begins(
    large: Store, number: signal.Signals
) -> None:
    path, sha256 = shard_of(large)
    with serving(large.root) as server:
        stream = Stream(server, path)
        server.signal(number)
        wait_until_draining(server)
        assert server.ask("/readyz").body == b"retry-after: 5\nthe server is about to end\n"
        for refused in (path, "/v1/stores", f"/inspect/{large.name}/", "/"):
            answer = server.ask(refused)
            assert (answer.status, answer.body) == (503, b"retry-after: 5\n"), refused
            assert answer.headers["retry-after"] == "5"
            assert answer.headers["connection"] == "close"
        assert server.ask("/healthz").status == 200
        assert b"viewstore_streams 1.0\n" in server.ask("/metrics").body
        body, length = stream.rest()
        assert len(body) == length
        assert hashlib.sha256(body).hexdigest() == sha256
        assert server.wait() == 0


def test_a_second_signal_ends_it_now(large: Store) -> None:
    path, _ = shard_of(large)
    with serving(large.root, "--drain", "1e6") as server:
        stream = Stream(server, path)
        server.signal(signal.SIGTERM)
        wait_until_draining(server)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        body, length = stream.rest()
        assert len(body) < length


def test_what_runs_too_long_is_cut(large: Store) -> None:
    path, _ = shard_of(large)
    with serving(large.root, "--drain", "0.2") as server:
        stream = Stream(server, path)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        body, length = stream.rest()
        assert len(body) < length


def test_a_connection_that_waits_does_not_hold_it_up(large: Store) -> None:
    with serving(large.root, "--drain", "1e6") as server:
        connection = server.connection()
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        idle = server.connection()
        idle.connect()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        connection.close()
        idle.close()


BODY = b"x" * (4 << 20)  # more than the sockets of a connection hold here


async def at_once(scope: Scope, receive: Receive, send: Send) -> None:
    """Hand over a whole answer, and be done before it is sent."""
    if scope["type"] == "http":
        headers = [(b"content-length", str(len(BODY)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": BODY})


async def answered(*, twice: bool) -> tuple[int, bool]:
    """Return how much comes of an answer that is read after the signal, and if that was needed."""
    listening = Listening(port=0, drain_seconds=600.0)
    running, began = Running(), asyncio.Event()

    async def started() -> None:
        began.set()

    with listen(listening) as socket:
        for option in (SO_SNDBUF, SO_RCVBUF):
            socket.setsockopt(SOL_SOCKET, option, 1 << 16)
        server = Server(at_once, listening, running, started)
        serving = asyncio.create_task(server.serve([socket]))
        await began.wait()
        reader, writer = await asyncio.open_connection(*socket.getsockname(), limit=1 << 16)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        server.handle_exit(signal.SIGTERM)
        while socket.fileno() != -1:  # it has begun to shut down
            await asyncio.sleep(0.01)
        if twice:
            server.handle_exit(signal.SIGTERM)
            await asyncio.wait_for(serving, LONG)
        waited = bool((await asyncio.wait({serving}, timeout=1))[1])
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while data := await reader.read(1 << 20):
                received += len(data)
        writer.close()
        await asyncio.wait_for(serving, LONG)
        return received, waited


def test_the_last_bytes_of_an_answer_are_sent_before_it_ends() -> None:
    """The application is done once the last chunk is with the socket, which may hold it long."""
    assert asyncio.run(answered(twice=False)) == (len(BODY), True)


def test_a_second_signal_does_not_wait_for_the_last_bytes() -> None:
    received, waited = asyncio.run(answered(twice=True))
    assert received < len(BODY)
    assert not waited


def test_pages_for_one_person_do_not_drain(large: Store) -> None:
    with serving(large.root, "--web", command="inspect") as server:
        server.signal(signal.SIGINT)
        assert server.wait() == 0
