"""The front page: the stores, with links to their pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from viewstore.errors import ViewStoreError
from viewstore.inspect.template import environment
from viewstore.serve.objects import Served, view_sets


def front_route(stores: Sequence[Served]) -> Route:
    """Return the route of the page that lists `stores`."""
    template = environment().get_template("stores.html")

    async def front(request: Request) -> Response:
        rows = [await _row(each, str(request.base_url)) for each in stores]
        return HTMLResponse(template.render(rows=rows), headers={"cache-control": "no-cache"})

    return Route("/", front)


async def to_front(scope: Scope, receive: Receive, send: Send) -> None:
    """Lead from the root path, where its slash is missing, to the front page; nothing else is."""
    root = scope.get("root_path", "")
    if root and scope["path"] == root:
        await RedirectResponse(f"./{root.rpartition('/')[2]}/")(scope, receive, send)
    else:
        await PlainTextResponse("Not Found", 404)(scope, receive, send)


async def _row(served: Served, base: str) -> dict[str, Any]:
    """Return what the page says of a store; `base` is the address of the page."""
    address = quote(served.name)
    facts = {"name": served.name, "address": address, "id": "", "view_sets": []}
    facts["url"] = f"{base}v1/stores/{address}"
    try:
        generation = await served.generation()
    except ViewStoreError as error:
        return facts | {"state": f"{error} ({error.code})"}
    if generation is None:
        return facts | {"state": "no build of it has ended"}
    return facts | {
        "id": generation.store_id,
        "view_sets": view_sets(generation.files),
        "state": f"generation {generation.number}",
    }
