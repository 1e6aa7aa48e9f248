"""What the server counts, in a registry of its own, and a line for each request.

Labels are templates of routes and names of stores: never a key, a path or a token.
"""

from __future__ import annotations

import string
import time
from collections.abc import Callable, Sequence
from typing import Literal
from urllib.parse import quote

import anyio.to_thread
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Message, Scope

from viewstore.errors import ViewStoreError
from viewstore.serve.limits import Running
from viewstore.serve.objects import Served

OBJECT = "/v1/stores/{store}/{name:path}"
ELSEWHERE = "none"  # the route of a request that has none
METHODS = ("GET", "HEAD")
MOST_TOLD = 200  # letters of a path in a line
Result = Literal["hit", "miss", "joined", "passed"]


class Metrics:
    """The counters of a server. Threads may call them."""

    def __init__(self, version: str, running: Running) -> None:
        """Begin at zero; `running` is how much runs."""
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "viewstore_http_requests", "Requests.", ["route", "method", "code"], registry=registry
        )
        self.seconds = Histogram(
            "viewstore_http_request_duration_seconds",
            "Seconds from a request to the end of its response.",
            ["route"],
            registry=registry,
        )
        self.object_bytes = Counter(
            "viewstore_object_bytes", "Bytes of objects sent.", ["store"], registry=registry
        )
        self.rejections = Counter(
            "viewstore_rejected", "Requests refused, by reason.", ["reason"], registry=registry
        )
        self.origin_bytes = Counter(
            "viewstore_origin_bytes", "Bytes read from an origin.", ["store"], registry=registry
        )
        self.cache_requests = Counter(
            "viewstore_cache_requests",
            "Requests for objects of an origin, by what the cache had.",
            ["store", "result"],
            registry=registry,
        )
        self.refetched = Counter(
            "viewstore_corrupt_refetched",
            "Objects fetched again because their hash was wrong.",
            ["store"],
            registry=registry,
        )
        self.thumbnails = Histogram(
            "viewstore_thumbnail_seconds",
            "Seconds to answer a request for a picture.",
            registry=registry,
        )
        self.samples = Gauge(
            "viewstore_store_samples", "Samples of a store.", ["store"], registry=registry
        )
        self.generation = Gauge(
            "viewstore_store_generation", "Generation of a store.", ["store"], registry=registry
        )
        streams = Gauge("viewstore_streams", "Requests that run now.", registry=registry)
        streams.set_function(lambda: running.streams)
        info = Gauge("viewstore_build_info", "The version.", ["version"], registry=registry)
        info.labels(version).set(1)

    def rejected(self, reason: str) -> None:
        """Count a request that was refused."""
        self.rejections.labels(reason).inc()

    def of(self, store: str) -> StoreMetrics:
        """Return the counters of one store that lies elsewhere."""
        return StoreMetrics(self, store)


class StoreMetrics:
    """What is counted of one store that lies elsewhere; `through` calls it."""

    def __init__(self, metrics: Metrics, store: str) -> None:
        self._metrics, self._store = metrics, store

    def fetched(self, count: int) -> None:
        """Count bytes that came from the origin."""
        self._metrics.origin_bytes.labels(self._store).inc(count)

    def asked(self, result: Result) -> None:
        """Count a request for an object, by what the cache had of it."""
        self._metrics.cache_requests.labels(self._store, result).inc()

    def refetched(self) -> None:
        """Count an object that is fetched again because its hash was wrong."""
        self._metrics.refetched.labels(self._store).inc()


class Meter:
    """Counts each request and its response, and says them in a line."""

    def __init__(
        self,
        metrics: Metrics,
        routes: Sequence[BaseRoute],
        stores: Sequence[str],
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Count requests for `routes` and `stores`; `say` a line for each, where it is given."""
        self.metrics, self.say = metrics, say
        self._routes, self._stores = routes, frozenset(stores)

    def rejected(self, reason: str) -> None:
        """Count a request that was refused."""
        self.metrics.rejected(reason)

    def begin(self, scope: Scope) -> Exchange:
        """Begin to count a request."""
        route, store, picture = ELSEWHERE, None, False
        for each in self._routes:
            match, found = each.matches(scope)
            if match is not Match.NONE and isinstance(each, Route):
                route, store = each.path, found["path_params"].get("store")
                picture = found["path_params"].get("path", "").startswith("picture/")
                break
        known = store if store in self._stores else None
        return Exchange(self, scope, route, known, is_picture=picture)


class Exchange:
    """One request and its response."""

    def __init__(
        self, meter: Meter, scope: Scope, route: str, store: str | None, *, is_picture: bool
    ) -> None:
        self._meter, self._route, self._store = meter, route, store
        self._is_picture = is_picture
        self._method = scope["method"] if scope["method"] in METHODS else "other"
        self._told = f"{scope['method'][:MOST_TOLD]} {_shown(scope['raw_path'])}"
        self._client = (scope.get("client") or ("unknown", 0))[0]
        self._began, self._code, self._bytes = time.perf_counter(), "none", 0

    def sends(self, message: Message) -> None:
        """Look at a part of the response that is sent."""
        if message["type"] == "http.response.start":
            self._code = str(message["status"])
        elif message["type"] == "http.response.body" and self._method != "HEAD":
            self._bytes += len(message.get("body", b""))

    def end(self) -> None:
        """Count the request: the response ended, or broke off."""
        seconds = time.perf_counter() - self._began
        metrics = self._meter.metrics
        metrics.requests.labels(self._route, self._method, self._code).inc()
        metrics.seconds.labels(self._route).observe(seconds)
        if self._is_picture:
            metrics.thumbnails.observe(seconds)
        if self._route == OBJECT and self._store is not None and self._code in ("200", "206"):
            metrics.object_bytes.labels(self._store).inc(self._bytes)
        if self._meter.say is not None:
            told = f"{self._client} {self._told} {self._code}"
            self._meter.say(f"{told} {self._bytes} bytes {1000 * seconds:.0f} ms")


def _shown(path: bytes) -> str:
    """Return the path of a request for a line of a log: printable, and not too long."""
    return quote(path[:MOST_TOLD], safe=string.punctuation)[:MOST_TOLD]


def metrics_route(metrics: Metrics, stores: Sequence[Served]) -> Route:
    """Return the route of /metrics; the facts of `stores` are read when it is asked for."""

    async def shown(request: Request) -> Response:
        for each in stores:
            await _of_store(metrics, each)
        return Response(
            generate_latest(metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST}
        )

    return Route("/metrics", shown)


async def _of_store(metrics: Metrics, served: Served) -> None:
    try:
        generation = await served.generation()
        if generation is None:
            return
        store = await anyio.to_thread.run_sync(served.store)
    except ViewStoreError:
        return  # /readyz and its Overview say why
    metrics.generation.labels(served.name).set(generation.number)
    metrics.samples.labels(served.name).set(store.num_samples)
