"""How much runs at once: streams of one client and of all, and nothing new while it drains.

Who is refused is told when to come back, in a header and in the first line of the body, which is
where our reader finds it: the library under it hides headers of errors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from starlette._utils import get_route_path
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

UNCOUNTED = ("/healthz", "/readyz", "/metrics")  # what must answer when nothing else does
BUSY_SECONDS, DRAINING_SECONDS = 2, 5
CLIENT = "viewstore.client"  # key of a scope: who asks, its token or else its address


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many requests run at once.

    Attributes:
        streams: Of all clients.
        streams_per_client: Of one client: of one token, or else of one address.
    """

    streams: int = 256
    streams_per_client: int = 16


def come_back(seconds: int, *, close: bool = False) -> Response:
    """Return the 503 that asks a client to come back in `seconds`, over a new connection or not."""
    headers = {"retry-after": str(seconds), "cache-control": "no-store"}
    if close:
        headers["connection"] = "close"
    return PlainTextResponse(f"retry-after: {seconds}\n", 503, headers)


class Limiter:
    """Lets through as many requests as may run at once.

    Attributes:
        running: How many run.
        draining: Whether the server is about to end, so that none may begin.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, rejected: Callable[[str], None] = lambda reason: None
    ) -> None:
        """Stand before `app`; `rejected` is told why a request was refused."""
        self._app, self._limits, self._rejected = app, limits, rejected
        self._of: Counter[str] = Counter()
        self.running = 0
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or get_route_path(scope) in UNCOUNTED:
            await self._app(scope, receive, send)
            return
        client = scope.get(CLIENT, "")
        refused = self._refusal(client)
        if refused is not None:
            await refused(scope, receive, send)
            return
        self.running += 1
        self._of[client] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self.running -= 1
            self._of[client] -= 1
            if not self._of[client]:
                del self._of[client]

    def _refusal(self, client: str) -> Response | None:
        if self.draining:
            self._rejected("draining")
            return come_back(DRAINING_SECONDS, close=True)
        if self._of[client] >= self._limits.streams_per_client:
            self._rejected("streams of a client")
        elif self.running >= self._limits.streams:
            self._rejected("streams")
        else:
            return None
        return come_back(BUSY_SECONDS)
