"""The guard: hosts, tokens, methods, headers, and clients that mean harm."""

from __future__ import annotations

import asyncio
import base64
import re
import resource
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from tests.viewstore.pages import Page
from tests.viewstore.serve.conftest import TOKEN
from tests.viewstore.serve.servers import LONG, Server, serving
from tests.viewstore.serve.streams import Stream, shard_of
from viewstore.inspect.pages.site import Site
from viewstore.serve.guard import SECURITY, Access, Guard, host_of
from viewstore.serve.limits import Limits, Running
from viewstore.serve.local import LocalStore
from viewstore.serve.metrics import Metrics
from viewstore.serve.service import service, unguarded
from viewstore.store.store import Store

BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def guarded(raw_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that asks for a token."""
    path = tmp_path_factory.mktemp("guarded") / "tokens"
    path.touch(mode=0o600)
    path.write_text(f"{TOKEN}\n")
    with serving(raw_store.root, "--token-file", path, "-v") as server:
        yield server


@pytest.fixture(scope="module")
def open_server(raw_store: Store) -> Iterator[Server]:
    """A server that asks for none."""
    with serving(raw_store.root, "--allowed-host", "Views.Example:443") as server:
        yield server


def paths_of(store: Store) -> list[str]:
    """Return an address for every route that there is."""
    running = Running()
    served = LocalStore(store.name, store.root)
    site = Site({store.name: served.store})
    app = unguarded([served], site, running, Metrics("0", running))
    routes = [each.path for each in app.routes if isinstance(each, Route)]
    assert len(routes) == len(app.routes)  # no mount, no websocket: nothing that is not walked
    filled = [re.sub(r"{store}", store.name, each) for each in routes]
    return [re.sub(r"{\w+:\w+}", "manifest.json", each) for each in filled]


def test_every_route_needs_a_token_but_health(guarded: Server, raw_store: Store) -> None:
    paths = paths_of(raw_store)
    assert {"/", "/healthz", "/readyz", "/metrics", "/v1/stores"} <= set(paths)
    for path in (*paths, "/nowhere", "/auth", "//healthz", "/healthz/", "/healthz/../metrics"):
        for method in ("GET", "HEAD", "POST", "DELETE"):
            answer = guarded.ask(path, method=method)
            if path not in ("/healthz", "/readyz"):
                assert answer.status == 401, (method, path)
                assert answer.headers["www-authenticate"] == 'Basic realm="viewstore", Bearer'
            else:
                assert answer.status == (200 if method in ("GET", "HEAD") else 405)


def test_each_way_to_give_a_token_is_a_line_of_its_own(guarded: Server) -> None:
    """Chromium takes no Basic from a line that names Bearer behind it, and then never asks."""
    connection = guarded.connection()
    connection.request("GET", "/")
    got = connection.getresponse().headers.get_all("www-authenticate")
    connection.close()
    assert got == ['Basic realm="viewstore"', "Bearer"]


def test_curl_gives_the_token_as_password_once_it_is_asked(
    guarded: Server, raw_store: Store, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login any password {TOKEN}\n")
    url = f"{guarded.url}v1/stores/{raw_store.name}/manifest.json"
    curl = ["curl", "--netrc-file", str(netrc), "--anyauth", "-fsS", url]
    assert subprocess.run(curl, capture_output=True, check=True).stdout.startswith(b"{")


def test_with_a_token_every_route_answers(guarded: Server, raw_store: Store) -> None:
    for path in paths_of(raw_store):
        assert guarded.ask(path, BEARER).status in (200, 307, 404), path
    basic = base64.b64encode(f"anyone:{TOKEN}".encode()).decode()
    assert guarded.ask("/v1/stores", {"Authorization": f"Basic {basic}"}).status == 200
    assert guarded.ask("/v1/stores", {"authorization": f"bearer {TOKEN}"}).status == 200


@pytest.mark.parametrize(
    "given",
    [
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN.upper()}",
        "Bearer " + "x" * 12_000,
        "Bearer tök€n-tök€n-tök€n".encode().decode("latin-1"),
        f"Token {TOKEN}",
        f"{TOKEN}",
        "Basic",
        "Basic not base64",
        "Basic " + base64.b64encode(TOKEN.encode()).decode(),
        "Basic " + base64.b64encode(f"{TOKEN}:".encode()).decode(),
        "Basic " + base64.b64encode(b"u:\xff\xfe").decode(),
    ],
)
def test_a_wrong_token_is_refused(guarded: Server, given: str) -> None:
    answer = guarded.ask("/v1/stores", {"Authorization": given})
    assert answer.status == 401
    assert answer.body == b"this needs a token\n"


def test_no_token_is_logged_or_stands_on_a_command_line(raw_store: Store, token_file: Path) -> None:
    with serving(raw_store.root, "--token-file", token_file, "-v") as server:
        server.ask(f"/v1/stores?token={TOKEN}", BEARER)
        server.ask("/v1/stores", {"Authorization": f"Bearer {TOKEN[:-1]}y"})
        token_file.write_text(f"{TOKEN} and more\n")
        server.ask("/v1/stores", BEARER)
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                assert TOKEN.encode() not in path.read_bytes()
            except OSError:  # it has ended, or is another user's
                continue
        server.stop()
        told = "".join(server.log)
        assert re.search(r"127\.0\.0\.1 GET /v1/stores 200 \d+ bytes \d+ ms\n", told)
        assert "token 1 has another form" in told
        assert TOKEN[:-1] not in told


def test_a_line_of_the_log_has_the_path_as_it_was_asked_for(raw_store: Store) -> None:
    """Printable, at most 200 letters of it, and without what stands behind the question mark."""
    with serving(raw_store.root, "-v", "--root-path", "/data") as server:
        server.ask(f"/data/v1/stores/{raw_store.name}/manifest.json?secret")
        server.ask("/inspect/%1b%9b31m/x", method="BREW")
        server.ask("/" + "x" * 9000)
        server.stop()
    told = [re.sub(r"\d+ bytes \d+ ms", "n bytes n ms", line) for line in server.log[2:]]
    assert told == [
        f"127.0.0.1 GET /data/v1/stores/{raw_store.name}/manifest.json 200 n bytes n ms\n",
        "127.0.0.1 BREW /data/inspect/%1b%9b31m/x 405 n bytes n ms\n",
        f"127.0.0.1 GET /data/{'x' * 194} 404 n bytes n ms\n",
    ]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
def test_only_get_and_head_are_answered(open_server: Server, raw_store: Store, method: str) -> None:
    for path in (*paths_of(raw_store), "/nowhere"):
        answer = open_server.ask(path, method=method)
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD"), path


def test_a_body_is_refused_and_ends_the_connection(open_server: Server) -> None:
    for headers in ({"Content-Length": "3"}, {"Transfer-Encoding": "chunked"}):
        for method in ("GET", "POST"):
            answer = open_server.ask("/v1/stores", headers, method=method)
            assert (answer.status, answer.headers["connection"]) == (413, "close")


@pytest.mark.parametrize("path", ["/healthz", "/healthz?" + "q" * 20_000])
def test_a_header_block_over_16_kib_is_refused(open_server: Server, path: str) -> None:
    assert open_server.ask("/healthz", {"X": "y" * 15_000}).status == 200
    answer = open_server.ask(path, {"X": "y" * 17_000})
    assert (answer.status, answer.headers["connection"]) == (400, "close")


@pytest.mark.parametrize(
    "sent",
    [
        b"what is this\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n" * 3,
    ],
)
def test_what_is_not_http_is_refused(raw_store: Store, sent: bytes) -> None:
    with serving(raw_store.root) as server:
        with socket.create_connection(("127.0.0.1", server.port), LONG) as client:
            client.sendall(sent)
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 400")
        assert answer.lower().count(b"nosniff") == 1
        assert server.ask("/healthz").status == 200
        server.stop()
        assert not any("Traceback" in line for line in server.log), server.log


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:80", 200),
        ("LOCALHOST.", 200),
        ("[::1]:8765", 200),
        ("views.example", 200),
        ("views.example:443", 200),
        ("evil.example", 400),
        ("views.example.evil.example", 400),
        ("localhost.evil.example", 400),
        ("127.0.0.1.evil.example", 400),
        ("evil.example:127.0.0.1", 400),
        ("", 400),
        (":80", 400),
        ("[", 400),
        ("127.0.0.1@evil.example", 400),
        ("10.0.0.1", 400),
    ],
)
def test_a_host_that_is_not_ours_is_refused(open_server: Server, host: str, status: int) -> None:
    for path in ("/healthz", "/v1/stores", "/"):
        assert open_server.ask(path, {"Host": host}).status == status


def test_a_request_without_a_host_is_refused(open_server: Server) -> None:
    with socket.create_connection(("127.0.0.1", open_server.port), LONG) as client:
        client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("path", ["inspect%2f{0}%2f", "inspect/{0}%2fbrowse", "inspect%2f{0}/"])
def test_a_page_whose_slashes_are_hidden_is_none(
    open_server: Server, raw_store: Store, path: str
) -> None:
    assert open_server.ask("/" + path.format(raw_store.name)).status == 404


def test_hosts_are_compared_without_port_and_brackets() -> None:
    assert [host_of(each) for each in ("[fe80::1]:80", "A.b.:1", " x ", "[")] == [
        "fe80::1", "a.b", "x", ""
    ]  # fmt: skip


def test_forwarded_headers_count_only_behind_a_proxy(raw_store: Store) -> None:
    forged = {"X-Forwarded-For": "10.1.1.1, 10.2.2.2", "X-Forwarded-Host": "evil.example"}
    with serving(raw_store.root, "-v") as server:
        assert server.ask("/v1/stores", forged).status == 200
        server.stop()
        assert any(line.startswith("127.0.0.1 GET /v1/stores 200") for line in server.log)
    with serving(raw_store.root, "-v", "--behind-proxy", "--allowed-host", "x.example") as server:
        assert server.ask("/v1/stores", forged).status == 400
        named = forged | {"X-Forwarded-Host": "x.example"}
        assert server.ask("/v1/stores", named).status == 200
        assert server.ask("/v1/stores", named | {"X-Forwarded-For": "<script>"}).status == 200
        server.stop()
        assert any(line.startswith("10.2.2.2 GET /v1/stores 200") for line in server.log)
        assert not any("script" in line or "10.1.1.1" in line for line in server.log)


def test_code_of_pages_opens_the_host_that_the_client_named(raw_store: Store) -> None:
    path, store = f"/inspect/{raw_store.name}/", f"v1/stores/{raw_store.name}"
    options = ("--behind-proxy", "--allowed-host", "x.example", "--root-path", "/a")
    named = {"X-Forwarded-Host": "x.example:8443", "X-Forwarded-Proto": "https"}
    with serving(raw_store.root, *options) as server:
        for headers, root in (
            ({}, f"http://127.0.0.1:{server.port}"),
            (named, "https://x.example:8443"),
        ):
            code = Page(server.ask(path, headers).body).code
            assert f"viewstore.open('{root}/a/{store}')" in code
        for host in ("localhost:1@x.example", "localhost:1/x", "localhost:a b", "localhost#:1"):
            assert server.ask(path, {"Host": host}).status == 400, host


def test_every_response_has_the_security_headers(
    open_server: Server, guarded: Server, raw_store: Store
) -> None:
    asked = [open_server.ask(path, {"Origin": "https://x.example"}) for path in paths_of(raw_store)]
    asked += [
        open_server.ask("/nowhere"),
        open_server.ask("/inspect/nowhere/"),
        open_server.ask(f"/inspect/{raw_store.name}"),
        open_server.ask("/", method="POST"),
        open_server.ask("/", {"Host": "evil.example"}),
        open_server.ask("/", {"X": "y" * 20_000}),
        guarded.ask("/"),
        guarded.ask("/", BEARER),
    ]
    assert {each.status for each in asked} == {200, 307, 400, 401, 404, 405}
    for answer in asked:
        assert answer.headers.items() >= SECURITY.items(), answer
        assert not any(name.startswith("access-control-") for name in answer.headers)
        assert "server" not in answer.headers


def guard_of(store: Store) -> tuple[Guard, Running]:
    """Return a guard in this process that asks for no token, and what runs behind it."""
    running, served = Running(), LocalStore(store.name, store.root)
    site, metrics = Site({store.name: served.store}), Metrics("0", running)
    guard = service(
        [served], site, access=Access(), limits=Limits(), running=running, metrics=metrics
    )
    return guard, running


def test_a_websocket_is_not_answered(raw_store: Store, open_server: Server) -> None:
    guard, _ = guard_of(raw_store)
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        pytest.fail("it must not ask what is said")

    async def send(message: Any) -> None:  # noqa: ANN401
        sent.append(message)

    asyncio.run(guard({"type": "websocket", "path": "/", "headers": []}, receive, send))
    assert sent == []
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    for path in ("/", "/v1/stores", "/ws"):
        assert open_server.ask(path, upgrade).status in (200, 404)  # a plain request, never 101


def test_a_stream_runs_until_the_client_took_its_last_bytes(raw_store: Store) -> None:
    """Uvicorn waits for a client before a message, not behind it: the last one must be empty."""
    guard, running = guard_of(raw_store)
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:  # noqa: ANN401
        assert running.streams == 1
        sent.append(message)

    for path in ("/", "/v1/stores", f"/v1/stores/{raw_store.name}/manifest.json"):
        sent.clear()
        scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode()}
        scope |= {"query_string": b"", "headers": [(b"host", b"localhost")], "scheme": "http"}
        asyncio.run(guard({**scope, "client": ("127.0.0.1", 1)}, receive, send))
        start, *bodies, last = sent
        assert start["status"] == 200
        assert bodies
        assert all(each["body"] and each["more_body"] for each in bodies)
        assert not last.get("body")
        assert not last.get("more_body")
    assert running.streams == 0


def test_a_bug_is_told_in_words_with_the_security_headers(
    raw_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **address: object) -> None:
        raise IndexError("nothing there")

    monkeypatch.setattr(Site, "get", broken)
    guard, _ = guard_of(raw_store)
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:  # noqa: ANN401
        sent.append(message)

    path = f"/inspect/{raw_store.name}/"
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode()}
    scope |= {"query_string": b"", "headers": [(b"host", b"localhost")], "scheme": "http"}
    with pytest.raises(IndexError):  # the server logs it, with its traceback
        asyncio.run(guard({**scope, "client": ("127.0.0.1", 1)}, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    assert sent[0]["status"] == 500
    assert SECURITY.items() <= headers.items()
    body = b"".join(each.get("body", b"") for each in sent[1:]).decode()
    assert "error[VS900]: viewstore failed: IndexError: nothing there" in body
    assert "a bug in viewstore" in body
    assert "fix:" in body


def test_a_root_path_stands_before_every_address(raw_store: Store) -> None:
    with serving(raw_store.root, "--root-path", "/some/views/") as server:
        assert server.url.endswith("/some/views/")
        for below in ("/some/views", ""):  # as it was asked for; as a proxy leaves it
            assert server.ask(f"{below}/readyz").status == 200
            manifest = f"{below}/v1/stores/{raw_store.name}/manifest.json"
            assert server.ask(manifest).status == 200
            assert server.ask(f"{below}/inspect/{raw_store.name}/").status == 200
        assert server.ask("/some/viewsx/readyz").status == 404


def peak_bytes(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) << 10


def test_connections_that_wait_leave_descriptors_for_others(large: Store) -> None:
    path, _ = shard_of(large)
    with serving(large.root) as server:
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (128, 128))
        stream = Stream(server, path)
        idle = [socket.create_connection(("127.0.0.1", server.port), LONG) for _ in range(300)]
        assert server.ask("/healthz").status == 200
        assert server.ask(f"/v1/stores/{large.name}/manifest.json").status == 200
        body, size = stream.rest()
        assert len(body) == size  # one that is answered is not ended for others
        for each in idle:
            each.close()
        assert "Too many open files" not in "".join(server.log)


def test_hostile_clients_leave_room_for_others(large: Store) -> None:
    path, _ = shard_of(large)
    with serving(large.root, "--max-streams-per-client", "40") as server:
        where = ("127.0.0.1", server.port)
        idle = [socket.create_connection(where, LONG) for _ in range(500)]
        slow = [socket.create_connection(where, LONG) for _ in range(20)]
        for client in slow:
            client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ")
        readers = [Stream(server, path) for _ in range(20)]
        with socket.create_connection(where, LONG) as flood:
            flood.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ")
            taken = 0
            try:
                for _ in range(50):
                    flood.sendall(b"a" * (1 << 20))
                    taken += 1
            except OSError:
                pass
            assert taken < 50
        for client in slow:
            client.sendall(b"a")
        assert server.ask("/readyz").status == 200
        assert server.ask(f"/v1/stores/{large.name}/manifest.json").status == 200
        assert peak_bytes(server) < 256 << 20
        for each in (*idle, *slow, *readers):
            each.close()
        assert server.ask("/healthz").status == 200
