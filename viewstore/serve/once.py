"""The one-time address of `inspect --web`: it works once, and the browser that used it stays in.

The answer is a page that goes on by itself, never a redirect: a browser that follows the address
from elsewhere would not send the cookie along.
"""

from __future__ import annotations

import hmac
import secrets
from html import escape
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, Response

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="refresh" content="0; url={target}">
<title>viewstore</title>
</head>
<body>
<p><a href="{target}">Go on to the pages</a></p>
</body>
</html>
"""


class Once:
    """Who opens the one-time address gets a cookie, which is what lets requests in.

    Attributes:
        address: Of the page that gives the cookie, below the address of the server.
    """

    def __init__(
        self, *, port: int, target: str, root_path: str = "", secure: bool = False
    ) -> None:
        """Lead on to `target`, an address relative to that of the server; `secure`: over TLS."""
        self._name, self._target = f"viewstore-{port}", target
        self._cookie = f"Path={root_path or '/'}; HttpOnly; SameSite=Strict"
        self._cookie += "; Secure" if secure else ""
        self._secret, self._session = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self._used = False
        self.address = f"auth?t={self._secret}"

    def knows(self, headers: Headers) -> bool:
        """Whether a request has the cookie."""
        given = cookie_parser(headers.get("cookie", "")).get(self._name, "")
        return hmac.compare_digest(given.encode(), self._session.encode())

    def answer(self, method: str, query: bytes, headers: Headers) -> Response:
        """Answer a request for the one-time address; GET with the right secret uses it up."""
        given = parse_qs(query.decode("latin-1")).get("t", [""])[0]
        right = hmac.compare_digest(given.encode(), self._secret.encode())
        if not right or (self._used and not self.knows(headers)):
            return unknown()
        answer = HTMLResponse(PAGE.format(target=escape(self._target)))
        answer.headers["cache-control"] = "no-store"
        if method == "GET" and not self._used:
            self._used = True
            answer.headers["set-cookie"] = f"{self._name}={self._session}; {self._cookie}"
        return answer


def unknown() -> Response:
    """Return the 401 for a browser that has not used the one-time address."""
    return PlainTextResponse(
        "open the address that viewstore inspect --web printed; it works once\n",
        401,
        {"www-authenticate": 'Cookie realm="viewstore"', "cache-control": "no-store"},
    )
