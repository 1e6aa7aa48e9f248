"""How much runs at once: streams of one client and of all, and nothing new while it drains.

Who is refused is told when to come back, in a header and in the first line of the body, which is
where our reader finds it: the library under it hides headers of errors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

UNCOUNTED = ("/healthz", "/readyz", "/metrics")  # what must answer when nothing else does
SEND_SECONDS = 60.0  # a client that takes nothing for so long is cut off
BUSY_SECONDS, DRAINING_SECONDS = 2, 5
CLIENT = "viewstore.client"  # key of a scope: who asks, its token or else its address
ADDRESS = "viewstore.address"  # of a scope: this server's own, as the client has it, with a slash


@dataclass
class Running:
    """What runs now.

    Attributes:
        streams: How many requests run.
        draining: Whether the server is about to end, so that none may begin.
    """

    streams: int = 0
    draining: bool = False


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many requests run at once.

    Attributes:
        streams: Of all clients.
        streams_per_client: Of one client: of one token, or else of one address.
    """

    streams: int = 256
    streams_per_client: int = 16


def come_back(seconds: int, why: str = "", *, close: bool = False) -> Response:
    """Return the 503 that asks a client to come back in `seconds`.

    Args:
        seconds: In the header Retry-After, and in the first line of the body.
        why: Further lines of the body.
        close: Whether it comes back over a new connection.
    """
    headers = {"retry-after": str(seconds), "cache-control": "no-store"}
    if close:
        headers["connection"] = "close"
    return PlainTextResponse(f"retry-after: {seconds}\n{why}", 503, headers)


def path_below(scope: Scope) -> str:
    """Return the path of a request below the root path."""
    path: str = scope["path"]
    return path.removeprefix(scope["root_path"])


class Limiter:
    """Lets through as many requests as may run at once."""

    def __init__(
        self, app: ASGIApp, limits: Limits, running: Running, rejected: Callable[[str], None]
    ) -> None:
        """Stand before `app`; `rejected` is told why a request was refused."""
        self._app, self._limits, self._running = app, limits, running
        self._rejected = rejected
        self._of: Counter[Hashable] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or path_below(scope) in UNCOUNTED:
            await self._app(scope, receive, send)
            return
        client = scope[CLIENT]
        refused = self._refusal(client)
        if refused is not None:
            await refused(scope, receive, send)
            return
        self._running.streams += 1
        self._of[client] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running.streams -= 1
            self._of[client] -= 1
            if not self._of[client]:
                del self._of[client]

    def _refusal(self, client: Hashable) -> Response | None:
        if self._running.draining:
            self._rejected("draining")
            return come_back(DRAINING_SECONDS, close=True)
        if self._of[client] >= self._limits.streams_per_client:
            self._rejected("streams of a client")
        elif self._running.streams >= self._limits.streams:
            self._rejected("streams")
        else:
            return None
        return come_back(BUSY_SECONDS)
