"""Where a store is behind redirects: they are followed, no secret goes along, and none is endless.

The client is obstore, whose rules these are; `viewstore.files.redirects` reads its errors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.remote.conftest import IMPATIENT, Open
from tests.remote.servers import Faults, Ranged, proxy, s3_environment, serving
from tests.viewstore.commands import run
from tests.viewstore.serve.servers import serving as serving_stores
from viewstore.errors import RemoteError
from viewstore.files.redirects import not_followed
from viewstore.files.transport import connect, connect_bucket
from viewstore.store.store import Store

TOKEN = "s3cr3t-0f-the-hub"
SIGNED = "Expires=1&Signature=ab%2Bcd~"
TEXT = b"of the store"


@dataclass
class Asked:
    """The requests that a server got: method and path, and Authorization, in turn."""

    url: str = ""
    paths: list[str] = field(default_factory=list)
    authorized: list[str | None] = field(default_factory=list)

    def add(self, request: BaseHTTPRequestHandler) -> None:
        self.paths.append(f"{request.command} {request.path}")
        self.authorized.append(request.headers["Authorization"])


Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def answering(answer: Answer) -> Iterator[Asked]:
    """Run a server that answers all requests in one way."""
    asked = Asked()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.add(self)
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            answer(self)

        do_PUT = do_GET

        def log_message(self, *args: Any) -> None:  # noqa: ANN401
            pass

    with serving(Handler) as server:
        asked.url = f"http://127.0.0.1:{server.server_port}"
        yield asked


def redirect(request: BaseHTTPRequestHandler, to: str | None, status: int = 302) -> None:
    request.send_response(status)
    if to is not None:
        request.send_header("Location", to)
    request.send_header("Content-Length", "0")
    request.end_headers()


def give(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(TEXT)))
    request.end_headers()
    request.wfile.write(TEXT)


def read(url: str) -> bytes:
    return b"".join(connect(url, IMPATIENT).get("manifest.json", 0, None, None).chunks)


class Signed(Ranged):
    """Files at addresses that are signed, as object stores give them out, and in no other way."""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if self.headers["Authorization"] is not None:
            self.send_error(400, "more than one way of authentication")
        elif query != SIGNED:
            self.send_error(403)
        else:
            self.path = path
            super().do_GET()


@pytest.fixture
def hub(digits: Store) -> Iterator[tuple[Asked, Faults]]:
    """A server that wants TOKEN, and redirects to itself, then to signed addresses elsewhere.

    Yields what it was asked, and what breaks on the way from those.
    """
    faults = Faults(rate=0.3, kinds=("cut", "reset", "truncate"))
    with ExitStack() as stack:
        files = stack.enter_context(serving(functools.partial(Signed, directory=str(digits.root))))
        elsewhere = stack.enter_context(proxy(f"http://127.0.0.1:{files.server_port}", faults))

        def answer(request: BaseHTTPRequestHandler) -> None:
            name = request.path.removeprefix("/lab/digits/resolve/main")
            if request.headers["Authorization"] != f"Bearer {TOKEN}":
                request.send_error(401)
            elif name != request.path:
                redirect(request, f"/cache{name}", 307)
            else:
                redirect(request, f"{elsewhere}{request.path.removeprefix('/cache')}?{SIGNED}")

        yield stack.enter_context(answering(answer)), faults


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: tuple[Asked, Faults]) -> None:
    path = tmp_path / "tokens"
    path.touch(0o600)
    path.write_text(f"{hub[0].url} {TOKEN}\n")
    monkeypatch.setenv("VIEWSTORE_TOKEN_FILE", str(path))


@pytest.mark.usefixtures("token")
def test_a_store_behind_signed_addresses_is_read_without_the_token_of_the_hub(
    hub: tuple[Asked, Faults], digits: Store, open_remote: Open
) -> None:
    """The server of signed addresses refuses it. What breaks there goes on where it ended."""
    asked, faults = hub
    views = open_remote(f"{asked.url}/lab/digits/resolve/main").view_set("hard")
    assert (views[:] == digits.view_set("hard")[:]).all()
    assert set(asked.authorized) == {f"Bearer {TOKEN}"}
    assert faults.struck > 0
    assert any(faults.matches)


@pytest.mark.usefixtures("token")
def test_such_a_store_is_served(
    hub: tuple[Asked, Faults], digits: Store, open_remote: Open, tmp_path: Path
) -> None:
    url = f"digits={hub[0].url}/lab/digits/resolve/main"
    cache = {"VIEWSTORE_CACHE__DIRECTORY": str(tmp_path / "server")}
    with serving_stores(url, environment=cache) as server:
        views = open_remote(f"{server.url}v1/stores/digits").view_set("hard")
        assert (views[:] == digits.view_set("hard")[:]).all()
    assert set(hub[0].authorized) == {f"Bearer {TOKEN}"}


def test_ten_redirects_are_followed_and_no_more() -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        left = int(request.path.split("/")[1])
        give(request) if left == 0 else redirect(request, f"/{left - 1}/manifest.json")

    with answering(answer) as asked:
        assert read(f"{asked.url}/10") == TEXT
        assert len(asked.paths) == 11
        asked.paths.clear()
        with pytest.raises(RemoteError, match="or more than 10 times"):
            read(f"{asked.url}/11")
        assert len(asked.paths) == 11


@pytest.mark.parametrize(
    ("to", "status", "said", "requests"),
    [
        ("/manifest.json", 302, "redirects in a circle, or more than 10 times", 11),
        ("ftp://127.0.0.1/manifest.json", 302, "an address that is not http:// or https://", 1),
        ("file:///etc/hostname", 302, "a redirect that cannot be followed, status 302", 1),
        (None, 301, "a redirect that cannot be followed, without an address", 1),
    ],
)
def test_a_redirect_that_leads_nowhere_is_an_error_at_once(
    to: str | None, status: int, said: str, requests: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(lambda request: redirect(request, to, status)) as asked:
        code, _, err = run(capsys, "inspect", asked.url)
    assert code == 3
    assert "error[VS403]" in err
    assert said in " ".join(err.split())
    assert "give the address that it leads to" in err
    assert len(asked.paths) == requests


def test_a_redirect_of_a_bucket_carries_no_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(give) as other, ExitStack() as stack:
        moved = stack.enter_context(
            answering(lambda request: redirect(request, f"{other.url}/x", 307))
        )
        for name, value in s3_environment(moved.url).items():
            monkeypatch.setenv(name, value)
        bucket = connect_bucket("s3://views/digits", IMPATIENT)
        assert b"".join(bucket.get("manifest.json", 0, None, None).chunks) == TEXT
        assert other.authorized == [None]
        assert moved.authorized[0] is not None
        with pytest.raises(RemoteError, match="cannot be followed, status 307") as caught:
            bucket.put("manifest.json", b"x", create=True)
        assert other.paths == ["GET /x"]
    assert caught.value.code == "VS403"
    assert caught.value.fix is not None
    assert "AWS_REGION" in caught.value.fix


def test_other_errors_are_no_redirects() -> None:
    """An endpoint without TLS that was not allowed is refused in nearly the same words."""
    url = "http://127.0.0.1:9/x"
    for text in ("HTTP error: error sending request", "status code: 304 Not Modified", "301"):
        assert not_followed(text, url) is None
    builder = "HTTP error: builder error\n\n kind: Builder,\n source: BadScheme,\n"
    assert not_followed(builder, "s3://views/x") is None
    assert not_followed(builder, url) is not None
