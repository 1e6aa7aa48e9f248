"""The application: which address gives what. `cli/serve.py` and `inspect --web` run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from viewstore.inspect.pages.site import Site
from viewstore.serve.objects import Served


def application(stores: Sequence[Served], site: Site) -> Starlette:
    """Return the application that serves `stores`, with the pages of `site`."""
    by_name = {each.name: each for each in stores}
    objects = _Objects(by_name)
    pages = _Pages(site)
    return Starlette(
        routes=[
            Route("/v1/stores", objects.stores),
            Route("/v1/stores/{store}/{name:path}", objects.file),
            Route("/inspect/{store}/{path:path}", pages.page),
        ]
    )


class _Objects:
    """The addresses below /v1/stores: what readers of a store fetch."""

    def __init__(self, stores: Mapping[str, Served]) -> None:
        self._stores = stores

    async def stores(self, request: Request) -> Response:
        found = []
        for name, served in self._stores.items():
            generation = await served.generation()
            if generation is not None:
                facts = {"store_id": generation.store_id, "generation": generation.number}
                found.append({"name": name, **facts})
        return JSONResponse({"stores": found})

    async def file(self, request: Request) -> Response:
        served = self._stores.get(request.path_params["store"])
        generation = None if served is None else await served.generation()
        listed = None if generation is None else generation.files.get(request.path_params["name"])
        if generation is None or listed is None:
            return PlainTextResponse("there is no such file\n", 404)
        headers = {
            "content-length": str(listed.size),
            "etag": listed.etag,
            "cache-control": listed.cache_control,
        }
        return StreamingResponse(generation.body(listed, 0, listed.size), headers=headers)


class _Pages:
    """The addresses below /inspect: what people look at."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def page(self, request: Request) -> Response:
        raw = request.scope["raw_path"].decode("latin-1")
        below = raw.removeprefix(request.scope.get("root_path", "")).split("/", 3)[3]
        page = await anyio.to_thread.run_sync(
            self._site.get, request.path_params["store"], below, request.url.query
        )
        headers = {"cache-control": page.cache_control}
        if page.download is not None:
            headers["content-disposition"] = f'attachment; filename="{page.download}"'
        return Response(page.body, page.status, headers, media_type=page.media_type)
