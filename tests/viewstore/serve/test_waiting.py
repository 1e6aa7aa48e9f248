"""Connections on which nothing comes: they end, and those that are busy do not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.types import Receive, Scope, Send

from viewstore.serve import server as module
from viewstore.serve.limits import Running
from viewstore.serve.server import Listening, Server, listen

WAIT = 0.3  # seconds for a header block, here
Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bytes]]


async def slow(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer after three times as long as a client has for its header."""
    if scope["type"] == "http":
        await asyncio.sleep(3 * WAIT)
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})


def answered(client: Client) -> bytes:
    """Return what a client of a server of `slow` gets until the connection ends."""

    async def both() -> bytes:
        listening = Listening(port=0, drain_seconds=0.0)
        began = asyncio.Event()

        async def started() -> None:
            began.set()

        with listen(listening) as socket:
            running = Server(slow, listening, Running(), started)
            serving = asyncio.create_task(running.serve([socket]))
            await began.wait()
            reader, writer = await asyncio.open_connection(*socket.getsockname())
            try:
                return await asyncio.wait_for(client(reader, writer), 60)
            except ConnectionResetError:
                return b"reset"
            finally:
                writer.close()
                running.should_exit = True
                await serving

    return asyncio.run(both())


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    return await reader.read()


async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
    while not reader.at_eof():
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(WAIT / 10)
    return await reader.read()


async def patient(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2)
    await writer.drain()
    return await reader.read()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEADER_SECONDS", WAIT)


@pytest.mark.parametrize("client", [silent, dripping])
def test_a_client_that_sends_no_whole_header_is_cut_off(client: Client) -> None:
    assert answered(client) in (b"", b"reset")


def test_an_answer_may_take_longer_than_a_header() -> None:
    assert answered(patient).count(b"\r\n\r\nok") == 2
