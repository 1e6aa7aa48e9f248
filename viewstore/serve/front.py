"""The front page: the stores, with links to their pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from viewstore.errors import ViewStoreError
from viewstore.inspect.template import environment
from viewstore.serve.objects import Served, view_sets


def front_route(stores: Sequence[Served]) -> Route:
    """Return the route of the page that lists `stores`."""
    template = environment().get_template("stores.html")

    async def front(request: Request) -> Response:
        rows = [await _row(each) for each in stores]
        return HTMLResponse(template.render(rows=rows), headers={"cache-control": "no-cache"})

    return Route("/", front)


async def _row(served: Served) -> dict[str, Any]:
    """Return what the page says of a store."""
    facts = {"name": served.name, "address": quote(served.name), "id": "", "view_sets": []}
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
