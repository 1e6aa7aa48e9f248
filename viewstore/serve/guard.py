"""The guard: what every request passes first, and every response last. It denies by default.

It judges the host, the token and the method of a request before the application sees it, and puts
the headers on every response that keep a browser from doing more than it should.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from viewstore.serve.limits import ADDRESS, CLIENT, path_below
from viewstore.serve.metrics import Meter
from viewstore.serve.once import Once, unknown
from viewstore.serve.tokens import Tokens

OPEN = ("/healthz", "/readyz")  # need no token
METHODS = ("GET", "HEAD")
PLACE = re.compile(r"[^\s@/?#\\]+")  # a Host: nothing that would make another address of it
MAX_HEADERS = 16384  # bytes of the header block of a request
CLOSED = {"connection": "close"}
# A line for each: Chromium takes no Basic from a line that names another scheme behind it.
CHALLENGES = ('Basic realm="viewstore"', "Bearer")
SECURITY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may ask, and how.

    Attributes:
        hosts: Names of this server, beside those of loopback and the address that is bound.
        tokens: One of which each request needs; None: none is needed.
        once: The one-time address whose cookie each request needs; None: there is none.
        behind_proxy: Whether a proxy stands before it, whose X-Forwarded headers count.
        root_path: What stands before every path from outside: "/views"; a proxy may cut it off.
    """

    hosts: frozenset[str] = frozenset()
    tokens: Tokens | None = None
    once: Once | None = None
    behind_proxy: bool = False
    root_path: str = ""


class Guard:
    """The outermost layer, an ASGI application around another one."""

    def __init__(self, app: ASGIApp, access: Access, meter: Meter) -> None:
        """Guard `app`; `meter` counts every request, also those that are refused."""
        self._app, self._access, self._meter = app, access, meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        if scope["type"] != "http":  # a websocket: there is none here, so nobody answers
            return
        headers = Headers(scope=scope)
        scope = self._placed(scope, headers)
        exchange = self._meter.begin(scope)

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                secure(MutableHeaders(scope=message))
            exchange.sends(message)
            if message.get("body") and not message.get("more_body"):
                await send({**message, "more_body": True})
                message = {"type": "http.response.body"}  # waits until the client took the rest
            await send(message)

        try:
            refused = self._refusal(scope, headers)
            await (self._app if refused is None else refused)(scope, receive, secured)
        finally:
            exchange.end()

    def _placed(self, scope: Scope, headers: Headers) -> Scope:
        """Return a request as it was before a proxy: below the root path, from its client."""
        root = self._access.root_path
        scope = {**scope, "root_path": root}
        if not (scope["path"] + "/").startswith(root + "/"):
            scope["path"] = root + scope["path"]
            scope["raw_path"] = root.encode("latin-1") + scope["raw_path"]
        address = (scope.get("client") or ("unknown", 0))[0]
        if self._access.behind_proxy:
            address = _address(_last(headers, "x-forwarded-for")) or address
            scope["client"] = (address, 0)
            forwarded = _last(headers, "x-forwarded-proto")
            scope["scheme"] = forwarded if forwarded in ("http", "https") else scope["scheme"]
            _rename_host(scope, _last(headers, "x-forwarded-host"))
        scope[CLIENT] = address
        if self._access.once is None:  # at a one-time address nobody else reads
            host = self._named(headers)[-1:]
            scope[ADDRESS] = f"{scope['scheme']}://{''.join(host).strip()}{root}/"
        return scope

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the answer to a request that goes no further; None: it may go on."""
        if _size(scope) > MAX_HEADERS:  # h11 measures only what comes in pieces
            return self._refused("header", 400, "the header is too long\n", CLOSED)
        if not self._is_host(scope, headers):
            return self._refused("host", 400, "this server has another name than that\n")
        if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
            return self._refused("body", 413, "a request has no body here\n", CLOSED)
        path, once = path_below(scope), self._access.once
        if once is not None and path == "/auth" and scope["method"] in METHODS:
            return once.answer(scope["method"], scope["query_string"], headers)
        if path not in OPEN:
            refused = self._unknown(scope, headers)
            if refused is not None:
                self._meter.rejected("token")
                return refused
        if scope["method"] not in METHODS:
            allowed = {"allow": ", ".join(METHODS)}
            return self._refused("method", 405, "this server only reads\n", allowed)
        return None

    def _refused(
        self, reason: str, status: int, text: str, headers: dict[str, str] | None = None
    ) -> Response:
        self._meter.rejected(reason)
        return PlainTextResponse(text, status, {"cache-control": "no-store", **(headers or {})})

    def _is_host(self, scope: Scope, headers: Headers) -> bool:
        """Whether a request names this server; a page elsewhere may let its name lead here."""
        named = self._named(headers)
        here = (scope.get("server") or ("", 0))[0]
        return bool(named) and all(
            PLACE.fullmatch(each.strip()) and self._is_name(host_of(each), here) for each in named
        )

    def _named(self, headers: Headers) -> list[str]:
        """Return the hosts that a request names, the one that the client saw last."""
        forwarded = headers.getlist("x-forwarded-host") if self._access.behind_proxy else []
        return headers.getlist("host") + forwarded

    def _is_name(self, name: str, here: str) -> bool:
        if name in ("localhost", here) or name in self._access.hosts:
            return bool(name)
        return is_loopback(name)

    def _unknown(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the answer to a request without what lets it in; None: it has that.

        A token names the client, whatever its address is.
        """
        if self._access.once is not None:
            return None if self._access.once.knows(headers) else unknown()
        if self._access.tokens is None:
            return None
        token = given_token(headers.getlist("authorization"))
        if token is not None and self._access.tokens.accepts(token):
            scope[CLIENT] = token
            return None
        asked = PlainTextResponse("this needs a token\n", 401, {"cache-control": "no-store"})
        for challenge in CHALLENGES:
            asked.headers.append("www-authenticate", challenge)
        return asked


def secure(headers: MutableHeaders) -> None:
    """Put the security headers on a response, and take off what would open it to others."""
    for name in [each for each in headers if each.startswith("access-control-")]:
        del headers[name]
    headers.update(SECURITY)


def given_token(authorization: list[str]) -> bytes | None:
    """Return the token of a request: Bearer, or Basic with the token as password."""
    if len(authorization) != 1:
        return None
    scheme, _, given = authorization[0].partition(" ")
    value = given.strip().encode("latin-1")
    if scheme.lower() == "bearer":
        return value
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(value, validate=True).partition(b":")[2]
    except binascii.Error:
        return None


def host_of(given: str) -> str:
    """Return the name or address in a Host header, without port, brackets and last dot."""
    name = given.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0].removesuffix(".")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine's own: "localhost", or an address such as 127.0.0.1."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _size(scope: Scope) -> int:
    """Return how many bytes the header block of a request has."""
    line = len(scope["raw_path"]) + len(scope["query_string"])
    return line + sum(len(name) + len(value) + 4 for name, value in scope["headers"])


def _rename_host(scope: Scope, host: str) -> None:
    """Let a request name the host that its client asked the proxy for, where the proxy says it."""
    if host:
        others = [header for header in scope["headers"] if header[0] != b"host"]
        scope["headers"] = [(b"host", host.encode("latin-1")), *others]


def _last(headers: Headers, name: str) -> str:
    """Return what the nearest proxy said: the last of a list."""
    return ",".join(headers.getlist(name)).rpartition(",")[2].strip()


def _address(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        return None
