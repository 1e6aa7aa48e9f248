"""The server process: where it listens, and how it ends.

At the first SIGTERM or Ctrl-C it drains: nothing new begins, what runs goes on for a while. At the
second one it ends at once.
"""

from __future__ import annotations

import asyncio
import math
import resource
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from viewstore.errors import ConfigError, UnavailableError
from viewstore.serve.guard import MAX_HEADERS, SECURITY, is_loopback
from viewstore.serve.limits import SEND_SECONDS, Running

if TYPE_CHECKING:
    from starlette.types import ASGIApp

HEADER_SECONDS = 30.0  # in which it must be there
IDLE_SECONDS = 5  # between two requests of a connection
BACKLOG = 2048
ACCEPTED_AT_ONCE = 16  # connections, before one of them is looked at


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Where a server listens, and how it ends.

    Attributes:
        host: Address or name to which it is bound.
        port: 0: a free one.
        tls_cert, tls_key: Files of its certificate and key; None: it speaks plain HTTP.
        drain_seconds: How long what runs may go on after it was asked to end.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    tls_cert: Path | None = None
    tls_key: Path | None = None
    drain_seconds: float = 120.0

    @property
    def scheme(self) -> str:
        return "http" if self.tls_cert is None else "https"


def listen(listening: Listening) -> socket.socket:
    """Return a socket that listens. Raises UnavailableError (VS603): the address is not free."""
    family, address = _resolved(listening)
    try:
        found = Listener(family, socket.SOCK_STREAM)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                # Of each connection, in ms: closing one waits for a client that takes nothing.
                stalled = int(SEND_SECONDS * 1000)
                found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stalled)
            found.bind(address)
            found.listen(BACKLOG)
        except OSError:
            found.close()
            raise
    except OSError as error:
        raise _cannot_listen(listening, error) from error
    return found


def is_local(listening: Listening) -> bool:
    """Whether only this machine can reach it. Raises UnavailableError: there is no such host."""
    return is_loopback(str(_resolved(listening)[1][0]))


def _resolved(listening: Listening) -> tuple[int, tuple[Any, ...]]:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            listening.host, listening.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise _cannot_listen(listening, error) from error
    return family, address


def _cannot_listen(listening: Listening, error: Exception) -> UnavailableError:
    return UnavailableError(
        f"cannot listen at {listening.host} port {listening.port}",
        code="VS603",
        where=f"--host {listening.host} --port {listening.port}",
        why=getattr(error, "strerror", None) or str(error),
        fix="choose another --port (0: a free one) or --host",
    )


def most_open() -> int:
    """Return how many descriptors this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1 << 16


def most_connections() -> int:
    """Return how many connections there may be: half of what this process may have open."""
    return most_open() // 2


class Listener(socket.socket):
    """A socket that listens, and leaves a quarter of the descriptors of this process for files.

    Connections that have not said yet who they are by TLS are no connections of `Protocol`.
    """

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection. Raises ConnectionAbortedError: it was closed, there are too many."""
        connection, address = super().accept()
        if connection.fileno() >= most_open() * 3 // 4:  # it is the lowest number that was free
            connection.close()
            raise ConnectionAbortedError
        return connection, address


class Protocol(H11Protocol):
    """HTTP of uvicorn, with a bounded time to send a header block, and bounded connections."""

    _deadline: asyncio.TimerHandle | None = None
    _waits_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect()
        if len(self.connections) > most_connections():
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._expect_nothing()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, as the guard refuses requests; nothing else is answered then."""
        if self.cycle is not None:
            self.cycle.disconnected = True
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [*SECURITY.items(), ("content-type", "text/plain"), ("connection", "close")]
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=f"{msg}\n".encode()),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def on_response_complete(self) -> None:
        self._expect()
        super().on_response_complete()

    def _make_room(self) -> None:
        """End the connection that waits for a request longest: descriptors are left for files."""
        connections = cast("set[Protocol]", self.connections)
        there = [each for each in connections if not each.transport.is_closing()]
        if len(there) > most_connections():
            waiting = (each for each in there if each.cycle is None or each.cycle.response_complete)
            min(waiting, key=lambda each: each._waits_since).transport.abort()

    def _expect(self) -> None:
        self._expect_nothing()
        self._waits_since = self.loop.time()
        self._deadline = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()


class Server(uvicorn.Server):
    """A server of one process that drains when it is asked to end."""

    def __init__(
        self,
        app: ASGIApp,
        listening: Listening,
        running: Running,
        started: Callable[[], Awaitable[None]],
    ) -> None:
        """Run `app`, of which `running` says what runs; call `started` once it serves."""
        super().__init__(_config(app, listening))
        self._running, self._started = running, started
        self._drain_seconds, self._deadline = listening.drain_seconds, math.inf
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        for each in sockets or ():
            each.listen(BACKLOG)  # so many may wait, whatever asyncio accepts at once
        self._told = asyncio.ensure_future(self._started())

    def handle_exit(self, sig: int, frame: FrameType | None = None) -> None:
        """Begin to drain; at the second signal end now. uvicorn would close its sockets first."""
        if self._running.draining:
            self._deadline = 0.0
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._cut)
            return
        self._running.draining = True
        self._deadline = time.monotonic() + self._drain_seconds

    async def on_tick(self, counter: int) -> bool:
        ends = await super().on_tick(counter)
        if not self._running.draining:
            return ends
        return self._running.streams == 0 or time.monotonic() >= self._deadline

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End: what was answered may still be on its way for the rest of the time to drain."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            self._cut()
        self.config.timeout_graceful_shutdown = max(1, math.ceil(min(left, 600)))
        await super().shutdown(sockets)

    def _cut(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def _config(app: ASGIApp, listening: Listening) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="auto",
        loop="asyncio",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        workers=1,
        backlog=ACCEPTED_AT_ONCE,
        h11_max_incomplete_event_size=MAX_HEADERS,
        timeout_keep_alive=IDLE_SECONDS,
        ssl_certfile=listening.tls_cert,
        ssl_keyfile=listening.tls_key,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            "the certificate and its key cannot be used",
            where=f"{listening.tls_cert}, {listening.tls_key}",
            why=error.strerror or str(error),
            fix="give --tls-cert and --tls-key as PEM files that belong together",
        ) from error
    return config
