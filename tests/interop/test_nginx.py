"""nginx serves a store with the configurations that the page on serving gives."""

from __future__ import annotations

import contextlib
import http.client
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest

import viewstore
from tests.loaders.stores import digits_store
from tests.viewstore.commands import run
from tests.viewstore.serve.servers import serving
from viewstore.errors import RemoteError
from viewstore.files.cache_settings import CacheSettings
from viewstore.store.store import Store

pytestmark = pytest.mark.nginx
PAGE = Path(__file__).parents[2] / "docs" / "serve.md"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
# One process of this user, and nothing outside its folder.
AROUND = """daemon off; master_process off; pid nginx.pid; error_log error.log;
events {{ }}
http {{ access_log off; client_body_temp_path body; proxy_temp_path proxy;
  fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
{server}
}}
"""


@pytest.fixture(scope="module", autouse=True)
def nginx() -> str:
    if NGINX is None:
        pytest.skip("needs nginx, which is not installed (apt-get install nginx-light)")
    return NGINX


def configuration(about: str) -> str:
    """Return the block of the page that holds some text."""
    blocks = re.findall(r"```nginx\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (block,) = [block for block in blocks if about in block]
    return str(block)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(program: str, server: str, folder: Path) -> Iterator[str]:
    """Run nginx with a `server` block that has PORT as its port; yield its URL."""
    port = free_port()
    (folder / "nginx.conf").write_text(AROUND.format(server=server.replace("PORT", str(port))))
    words = [program, "-p", str(folder), "-c", "nginx.conf", "-e", "error.log"]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.02)
        assert process.poll() is None, (folder / "error.log").read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=300)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return digits_store(tmp_path_factory.mktemp("data").resolve() / "digits")


@pytest.fixture(scope="module")
def url(nginx: str, digits: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the folder of stores."""
    text = configuration("root /data")
    text = text.replace("127.0.0.1:8981", "127.0.0.1:PORT")
    text = text.replace("root /data", f"root {digits.root.parent}")
    assert "PORT" in text
    with running(nginx, text, tmp_path_factory.mktemp("nginx")) as address:
        yield address


def ask(
    url: str, path: str, headers: Mapping[str, str] | None = None, *, method: str = "GET"
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Send a request for a path as it is; return status, headers and body."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=300)
    try:
        connection.putrequest(method, path, skip_host="Host" in (headers or {}))
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def names(store: Store) -> list[str]:
    """Return every file that readers fetch, as the records list them."""
    found = ["manifest.json", "sources/sources.json"]
    found += [f"sources/{path.name}" for path in (store.root / "sources").glob("*.npy")]
    for name, views in store.view_sets.items():
        found += [f"views/{name}/{each}" for each in ("plan.json", "index.json", "stats.json")]
        found += [f"views/{name}/index/members.npy"]
        found += [
            f"views/{name}/{blob.name}" for entry in views.index.shards for blob in entry.files
        ]
    return found


def test_every_file_that_readers_fetch_is_served(url: str, digits: Store) -> None:
    found = names(digits)
    assert len(found) > 20
    for name in found:
        status, headers, body = ask(url, f"/digits/{name}")
        assert (status, body) == (200, (digits.root / name).read_bytes()), name
        assert headers["ETag"].startswith('"')
        immutable = re.search(r"-[0-9a-f]{16}\.", name) is not None
        wanted = "private, max-age=31536000, immutable" if immutable else "no-cache"
        assert headers["Cache-Control"] == wanted


def test_ranges_and_conditions(url: str, digits: Store) -> None:
    """What a reader that resumes relies on; several ranges are the whole file."""
    name = digits.view_set("hard").index.shards[0].files[0].name
    path, body = f"/digits/views/hard/{name}", (digits.root / "views/hard" / name).read_bytes()
    _, headers, whole = ask(url, path)
    etag = headers["ETag"]
    assert ask(url, path, {"Range": "bytes=100-199"})[::2] == (206, body[100:200])
    resumed = ask(url, path, {"Range": "bytes=100-", "If-Match": etag})
    assert resumed[::2] == (206, body[100:])
    assert resumed[1]["Content-Range"] == f"bytes 100-{len(body) - 1}/{len(body)}"
    assert ask(url, path, {"If-Match": '"another"'})[0] == 412
    assert ask(url, path, {"If-None-Match": etag})[0] == 304
    assert ask(url, path, {"Range": "bytes=0-9,20-29"})[::2] == (200, whole)
    assert ask(url, path, {"Range": f"bytes={len(body)}-"})[0] == 416
    head = ask(url, path, method="HEAD")
    assert (head[0], head[1]["Content-Length"], head[2]) == (200, str(len(body)), b"")


def test_nothing_else_is_served(url: str, digits: Store) -> None:
    """Though it lies there: each of these would be 200 if it were listed."""
    shard = next(path for path in (digits.root / "views/hard").glob("*.tar"))
    secret = digits.root.parent / "secret.json"
    secret.write_text("{}")
    (digits.root / "views/hard/tmp").mkdir(exist_ok=True)
    (digits.root / "views/hard/tmp" / shard.name).write_bytes(b"half of a shard")
    commit = next(path for path in (digits.root / "views/hard/commits").iterdir())
    for path in (
        f"/digits/views/hard/tmp/{shard.name}",
        f"/digits/views/hard/commits/{commit.name}",
        "/digits/views/hard/params.zarr/zarr.json",
        "/digits/views/hard/",
        "/digits/views/hard",
        "/digits/",
        "/",
        "/secret.json",
        "/digits/../secret.json",
        "/digits/%2e%2e/secret.json",
        "/digits/..%2fsecret.json",
        f"/digits/views/hard/..%2f..%2f..%2fdigits/views/hard/{shard.name}x",
        "/digits/manifest.json/",
        "//etc/hostname",
    ):
        assert ask(url, path)[0] in (400, 404), path
    assert ask(url, "/digits/manifest.json", method="POST")[0] == 403
    assert ask(url, f"/digits/views/hard/{shard.name}", method="DELETE")[0] == 403


def test_a_symbolic_link_is_not_followed(url: str, digits: Store, tmp_path: Path) -> None:
    """Neither that of a file, nor that of a folder on the way to one."""
    outside = tmp_path / "outside.tar"
    outside.write_bytes(b"of somebody else")
    link = digits.root / "views/hard/000099-0123456789abcdef.tar"
    link.symlink_to(outside)
    folder = digits.root / "views/linked"
    folder.symlink_to(digits.root / "views/hard")
    try:
        assert ask(url, f"/digits/views/hard/{link.name}")[0] == 403
        assert ask(url, "/digits/views/linked/plan.json")[0] == 404
    finally:
        link.unlink()
        folder.unlink()


def test_a_store_is_read_and_verified_through_it(
    url: str, digits: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = CacheSettings(directory=tmp_path / "cache")
    store = viewstore.open(f"{url}/digits", cache=cache)
    assert store.store_id == digits.store_id
    for name, views in digits.view_sets.items():
        for row in (0, 33, 69):
            assert (store.view_set(name)[row] == views[row]).all()
    code, out, err = run(capsys, "verify", f"{url}/digits")
    assert code == 0, out + err
    assert "digits" in out


TOKEN = "a-t0ken-of_the~proxy+tests/="


def test_nginx_asks_for_a_token_as_the_page_says(
    nginx: str, digits: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the line of the page in the server, our reader needs a token, and sends it so."""
    (line,) = re.findall(r"`(if \(\$http_authorization.*?)`", PAGE.read_text())
    text = configuration("root /data").replace("root /data", f"root {digits.root.parent}")
    text = text.replace("127.0.0.1:8981;", f"127.0.0.1:PORT; {line.replace('TOKEN', TOKEN)}")
    cache = CacheSettings(directory=tmp_path / "cache")
    tokens = tmp_path / "tokens"
    tokens.touch(0o600)
    monkeypatch.setenv("VIEWSTORE_TOKEN_FILE", str(tokens))
    (tmp_path / "nginx").mkdir()
    with running(nginx, text, tmp_path / "nginx") as address:
        tokens.write_text(f"{address} another-t0ken-than-that\n")
        with pytest.raises(RemoteError, match="refused the token that was sent, status 401"):
            viewstore.open(f"{address}/digits", cache=cache)
        tokens.write_text(f"{address} {TOKEN}\n")
        store = viewstore.open(f"{address}/digits", cache=cache)
        assert (store.view_set("hard")[3] == digits.view_set("hard")[3]).all()


class Draining(BaseHTTPRequestHandler):
    """A replica that is about to end."""

    def do_GET(self) -> None:
        body = b"retry-after: 5\n"
        self.send_response(503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:  # noqa: ANN401
        pass


@pytest.fixture
def draining() -> Iterator[int]:
    """The port of a server that answers 503 alone."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Draining) as server:
        thread = Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def proxied(nginx: str, digits: Store, draining: int, tmp_path: Path) -> Iterator[str]:
    """The address of nginx before a server of the store and one that is about to end."""
    tokens = tmp_path / "accepted"
    tokens.touch(0o600)
    tokens.write_text(TOKEN)
    (line,) = re.findall(r"^viewstore serve views (--behind-proxy .*)$", PAGE.read_text(), re.M)
    text = configuration("upstream viewstore")
    text = re.sub(r"ssl_certificate\S* \S+;", "", text).replace("443 ssl", "127.0.0.1:PORT")
    text = text.replace("127.0.0.1:8766", f"127.0.0.1:{draining}")
    (tmp_path / "nginx").mkdir()
    words = line.replace("accepted", str(tokens)).split()
    with serving(digits.root, *words) as server:
        text = text.replace("8765", str(server.port))
        with running(nginx, text, tmp_path / "nginx") as address:
            yield address


def test_nginx_stands_before_two_servers_one_of_which_is_about_to_end(
    proxied: str, digits: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every request is answered; links of pages are below the path of the proxy."""
    right = {"Authorization": f"Bearer {TOKEN}"}
    manifest = "/data/v1/stores/digits/manifest.json"
    for _ in range(20):
        assert ask(proxied, manifest, right)[0] == 200
    assert ask(proxied, manifest)[0] == 401
    named = {"Host": "data.example"}
    assert ask(proxied, manifest, right | named)[0] == 200
    assert ask(proxied, manifest, right | {"Host": "evil.example"})[0] == 400
    status, _, page = ask(proxied, "/data/inspect/digits/", right)
    assert (status, b"digits" in page) == (200, True)
    assert not re.findall(rb'(?:href|src)="(?:/(?!data/)|http)', page)
    tokens = tmp_path / "tokens"
    tokens.touch(0o600)
    tokens.write_text(f"{proxied} {TOKEN}\n")
    monkeypatch.setenv("VIEWSTORE_TOKEN_FILE", str(tokens))
    cache = CacheSettings(directory=tmp_path / "cache")
    store = viewstore.open(f"{proxied}/data/v1/stores/digits", cache=cache)
    for row in (0, 33, 69):
        assert (store.view_set("hard")[row] == digits.view_set("hard")[row]).all()
