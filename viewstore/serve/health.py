"""Whether the server lives, and whether it is ready: what orchestrators and proxies ask."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from viewstore.errors import ViewStoreError
from viewstore.serve.limits import DRAINING_SECONDS, Running, come_back
from viewstore.serve.objects import Served

FRESH = {"cache-control": "no-store"}


def health_routes(stores: Sequence[Served], running: Running) -> list[Route]:
    """Return the routes of /healthz, and of /readyz, which names what is missing."""

    async def alive(request: Request) -> Response:
        return PlainTextResponse("ok\n", headers=FRESH)

    async def ready(request: Request) -> Response:
        missing = ["the server is about to end"] if running.draining else []
        for each in stores:
            reason = await _missing(each)
            missing += [] if reason is None else [f"{each.name}: {reason}"]
        if missing:
            return come_back(DRAINING_SECONDS, "".join(f"{line}\n" for line in missing))
        return PlainTextResponse("ok\n", headers=FRESH)

    return [Route("/healthz", alive), Route("/readyz", ready)]


async def _missing(served: Served) -> str | None:
    """Return why a store is not ready, in words that anyone may read; None: it is."""
    try:
        generation = await served.generation()
    except ViewStoreError as error:
        return f"it cannot be served ({error.code})"
    return "it has no manifest yet" if generation is None else None
