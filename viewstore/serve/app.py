"""The application: which address gives what. `cli/serve.py` and `inspect --web` run it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

import anyio.to_thread
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from viewstore.errors import RemoteError, ViewStoreError, bug
from viewstore.inspect.pages.site import REPORT, Site
from viewstore.serve.limits import ADDRESS, SEND_SECONDS, come_back
from viewstore.serve.objects import (
    Answer,
    BusyError,
    Generation,
    Listed,
    Served,
    answer,
    failure,
    view_sets,
)

LOG = logging.getLogger("viewstore.serve")


class _Anything(Convertor[str]):
    """The rest of a path, line breaks too: keys may have them."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("anything", _Anything())


def application(stores: Sequence[Served], site: Site) -> Starlette:
    """Return the application that serves `stores`, with the pages of `site`.

    The guard stands before it: what comes here is GET or HEAD, without a body.
    """
    by_name = {each.name: each for each in stores}
    pages = _Pages(site)
    app = Starlette(
        routes=[
            Route("/v1/stores", _Stores(by_name).listing),
            Route("/v1/stores/{store}/{name:path}", _Objects(by_name)),
            Route("/inspect/{store}", pages.overview),
            Route("/inspect/{store}/{path:anything}", pages.page),
        ],
        exception_handlers={Exception: _bug},
    )
    app.router.redirect_slashes = False  # such redirects would name the Host of the request
    return app


def _bug(request: Request, raised: Exception) -> Response:
    """Answer where our code failed; the exception goes on to the log of the server."""
    del request
    error = bug(raised, REPORT)
    lines = [f"error[{error.code}]: {error}", f"  why: {error.why}", f"  fix: {error.fix}", ""]
    return PlainTextResponse("\n".join(lines), 500, {"cache-control": "no-store"})


class _Stores:
    """What is served here."""

    def __init__(self, stores: Mapping[str, Served]) -> None:
        self._stores = stores

    async def listing(self, request: Request) -> Response:
        found = [await self._facts(served) for served in self._stores.values()]
        return JSONResponse({"stores": found}, headers={"cache-control": "no-cache"})

    @staticmethod
    async def _facts(served: Served) -> dict[str, Any]:
        try:
            generation = await served.generation()
        except ViewStoreError:
            generation = None  # its own addresses, and the log, say why
        files = {} if generation is None else generation.files
        return {
            "name": served.name,
            "store_id": None if generation is None else generation.store_id,
            "generation": None if generation is None else generation.number,
            "view_sets": view_sets(files),
            "bytes": sum(each.size for each in files.values()),
        }


class _Objects:
    """The addresses below /v1/stores: what readers of a store fetch."""

    def __init__(self, stores: Mapping[str, Served]) -> None:
        self._stores = stores

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        store, name = scope["path_params"]["store"], scope["path_params"]["name"]
        try:
            generation, listed = await self._find(store, name)
            given = answer(scope["method"], _headers(scope), listed)
            if generation is None or listed is None or given.range is None:
                await _send(given, send)
                return
            giving = _give(generation, listed, given, scope["method"], send)
            await _while_there(giving, receive)
        except BusyError as error:
            await come_back(error.seconds)(scope, receive, send)
        except ViewStoreError as error:
            LOG.error("%r of store %s is not sent: %s", name[:200], store[:200], error)
            await _send(failure(502 if isinstance(error, RemoteError) else 500, str(error)), send)

    async def _find(self, store: str, name: str) -> tuple[Generation | None, Listed | None]:
        served = self._stores.get(store)
        if served is None:
            return None, None
        generation = await served.generation(fresh=name == "manifest.json")
        return generation, None if generation is None else generation.files.get(name)


async def _give(
    generation: Generation, listed: Listed, given: Answer, method: str, send: Send
) -> None:
    """Send a file, or a part of it; what goes wrong on the way ends the connection.

    Raises:
        ViewStoreError, BusyError: As `Generation.body`; nothing was sent.
    """
    # HEAD looks at the file too: it says what GET would.
    start, stop = given.range if given.range and method == "GET" else (0, 0)
    async with aclosing(generation.body(listed, start, stop)) as body:
        first = await anext(body, b"")  # what cannot be sent shows before the status is
        try:
            await _stream(given, first, body, stop - start, send)
        except (ViewStoreError, TimeoutError) as error:
            why = str(error) or f"nothing taken for {SEND_SECONDS:g} s"
            LOG.warning("%s was broken off: %s", listed.name, why)


async def _stream(
    given: Answer, chunk: bytes, body: AsyncIterator[bytes], left: int, send: Send
) -> None:
    """Send `left` bytes: `chunk` and what follows it. Raises TimeoutError: nobody takes them."""
    async with asyncio.timeout(SEND_SECONDS):
        await send(_start(given))
    while True:
        left -= len(chunk)
        async with asyncio.timeout(SEND_SECONDS):
            await send({"type": "http.response.body", "body": chunk, "more_body": left > 0})
        if left <= 0:
            return
        chunk = await anext(body)


async def _while_there(giving: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Let a file be sent until that is done, or the client goes away. Raises what it raises."""
    giver = asyncio.create_task(giving)
    watcher = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait((giver, watcher), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (giver, watcher):
            task.cancel()
        await asyncio.wait((giver, watcher))
    if not giver.cancelled():
        giver.result()


async def _gone(receive: Receive) -> None:
    """Return when the client goes away, or has got everything."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(given: Answer, send: Send) -> None:
    await send(_start(given))
    await send({"type": "http.response.body", "body": given.text})


def _start(given: Answer) -> Message:
    headers = [(name.encode(), value.encode()) for name, value in given.headers.items()]
    return {"type": "http.response.start", "status": given.status, "headers": headers}


def _headers(scope: Scope) -> Mapping[str, str]:
    """Return the headers of a request by lower-case name; repeated ones are joined by commas."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


class _Pages:
    """The addresses below /inspect: what people look at."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def overview(self, request: Request) -> Response:
        """Lead to the address below which links are relative."""
        return RedirectResponse(f"./{request.path_params['store']}/")

    async def page(self, request: Request) -> Response:
        raw = request.scope["raw_path"].decode("latin-1")
        parts = raw.removeprefix(request.scope.get("root_path", "")).split("/", 3)
        if len(parts) < 4:  # a slash was written as %2f: links would be relative to another place
            return PlainTextResponse("there is no such page\n", 404)
        get = partial(self._site.get, address=request.scope.get(ADDRESS))
        page = await anyio.to_thread.run_sync(
            get, request.path_params["store"], parts[3], request.url.query
        )
        headers = {"cache-control": page.cache_control}
        if page.download is not None:
            headers["content-disposition"] = f'attachment; filename="{page.download}"'
        return Response(page.body, page.status, headers, media_type=page.media_type)
