"""The whole service: objects and pages, health and metrics, behind the limiter and the guard."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.applications import Starlette

from viewstore.inspect.pages.site import Site
from viewstore.serve.app import application
from viewstore.serve.front import front_route, to_front
from viewstore.serve.guard import Access, Guard
from viewstore.serve.health import health_routes
from viewstore.serve.limits import Limiter, Limits, Running
from viewstore.serve.metrics import Meter, Metrics, metrics_route
from viewstore.serve.objects import Served


def unguarded(
    stores: Sequence[Served], site: Site, running: Running, metrics: Metrics
) -> Starlette:
    """Return all routes that `stores`, and the pages of `site`, are served by."""
    app = application(stores, site)
    app.router.routes += [
        *health_routes(stores, running),
        metrics_route(metrics, stores),
        front_route(stores),
    ]
    app.router.default = to_front
    return app


def service(
    stores: Sequence[Served],
    site: Site,
    *,
    access: Access,
    limits: Limits,
    running: Running,
    metrics: Metrics,
    say: Callable[[str], None] | None = None,
) -> Guard:
    """Return the ASGI application that serves `stores` with the pages of `site`.

    `say` is told a line for each request.
    """
    app = unguarded(stores, site, running, metrics)
    meter = Meter(metrics, app.routes, [each.name for each in stores], say)
    return Guard(Limiter(app, limits, running, meter.rejected), access, meter)
