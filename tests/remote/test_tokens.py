"""A token goes to the origin that it was written down for, and nowhere else."""

from __future__ import annotations

import pickle
import ssl
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tests.certificates import write_certificates
from tests.remote.conftest import IMPATIENT, Open
from tests.viewstore.commands import run
from viewstore.errors import ConfigError, RemoteError
from viewstore.files.cache_settings import CacheSettings
from viewstore.files.fetch import Retry
from viewstore.files.remote import RemoteFiles
from viewstore.files.tokens import Origin, refused, token_for
from viewstore.files.transport import FsspecTransport, ObstoreTransport, connect
from viewstore.store.store import Store

TOKEN = "s3cr3t-0f-data.example"
OTHER = "another~token/with+all=signs_"


@dataclass
class Guarded:
    """A server of files that may want a token, or send its clients elsewhere.

    Attributes:
        url: Its origin.
        wanted: The token that it wants; None: none.
        moved_to: Where it redirects to; None: it has the files.
        got: The Authorization headers of its requests, in turn.
        echo: What it says to those whom it refuses, with {} for what they sent.
    """

    url: str = ""
    wanted: str | None = None
    moved_to: str | None = None
    status: int = 401
    echo: str = ""
    got: list[str | None] = field(default_factory=list)


def handler(server: Guarded, folder: Path) -> Callable[..., SimpleHTTPRequestHandler]:
    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:  # noqa: ANN401
            super().__init__(*args, directory=str(folder))

        def do_GET(self) -> None:
            sent = self.headers["Authorization"]
            server.got.append(sent)
            if server.wanted is not None and sent != f"Bearer {server.wanted}":
                body = server.echo.format(sent).encode()
                self.send_response(server.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            elif server.moved_to is not None and not self.path.startswith("/moved"):
                self.send_response(302)
                self.send_header("Location", f"{server.moved_to}/moved{self.path}")
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self.path = self.path.removeprefix("/moved")
                super().do_GET()

        def log_message(self, *args: Any) -> None:  # noqa: ANN401
            pass

    return Handler


Serve = Callable[..., Guarded]


@pytest.fixture
def serve(digits: Store) -> Iterator[Serve]:
    """Start servers of the store; they end with the test."""
    with ExitStack() as stack:

        def start(context: ssl.SSLContext | None = None, **facts: Any) -> Guarded:  # noqa: ANN401
            guarded = Guarded(**facts)
            server = ThreadingHTTPServer(("127.0.0.1", 0), handler(guarded, digits.root))
            scheme = "http" if context is None else "https"
            if context is not None:
                server.socket = context.wrap_socket(server.socket, server_side=True)
            thread = threading.Thread(target=server.serve_forever, args=[0.01])
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            guarded.url = f"{scheme}://127.0.0.1:{server.server_port}"
            return guarded

        yield start


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """How a server speaks TLS with a certificate that clients of this test trust."""
    write_certificates(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return context


@pytest.fixture
def tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of tokens; a home of the test's own."""
    path = tmp_path / "tokens"
    path.touch(0o600)
    monkeypatch.setenv("VIEWSTORE_TOKEN_FILE", str(path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A .netrc in a home of the test's own, and no file of tokens."""
    path = tmp_path / ".netrc"
    path.touch(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.delenv("VIEWSTORE_TOKEN_FILE", raising=False)
    return path


def found(url: str) -> str | None:
    token = token_for(Origin.of(url))
    return None if token is None else token.text


def test_a_store_behind_a_token_is_read_with_it(
    serve: Serve, tokens: Path, open_remote: Open, digits: Store
) -> None:
    server = serve(wanted=TOKEN)
    tokens.write_text(f"# of the lab\n\nhttps://127.0.0.1  {OTHER}\n  {server.url}\t{TOKEN}  \n")
    store = open_remote(server.url)
    views = store.view_set("hard")
    assert (views[3] == digits.view_set("hard")[3]).all()
    assert set(server.got) == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize("status", [401, 403])
def test_without_a_token_the_error_says_where_one_is_looked_for(
    serve: Serve, home: Path, open_remote: Open, status: int
) -> None:
    server = serve(wanted=TOKEN, status=status)
    with pytest.raises(RemoteError, match=f"asks for a token, status {status}") as caught:
        open_remote(server.url)
    assert len(server.got) == 1
    error = caught.value
    assert error.code == "VS402"
    assert error.where == f"{server.url}/manifest.json"
    assert server.url in str(error)
    told = f"{error.why} {error.fix}"
    assert "VIEWSTORE_TOKEN_FILE names no file" in told
    assert f"{home} counts for https alone" in told
    assert f"write the line `{server.url} TOKEN`" in told


def test_the_error_says_what_to_write_into_which_file(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "https://data.example:8443/views"
    origin = Origin.of(url)
    none = refused(url, origin, None, 401)
    assert f"or `machine data.example password TOKEN` into {home}" in str(none.fix)
    monkeypatch.setenv("VIEWSTORE_TOKEN_FILE", str(tmp_path / "tokens"))
    named = refused(url, origin, None, 401)
    assert named.why == f"{tmp_path / 'tokens'}, which VIEWSTORE_TOKEN_FILE names, has none for it"
    assert str(home) in str(named.fix)
    for error in (none, named):
        assert "`https://data.example:8443 TOKEN`" in str(error.fix)


def test_a_token_that_is_refused_is_not_shown(
    serve: Serve, tokens: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even where the server says it again, and all that is known is printed."""
    server = serve(wanted=TOKEN, echo="what is this: {}?")
    tokens.write_text(f"{server.url} {OTHER}\n")
    code, out, err = run(capsys, "inspect", server.url, "-vv")
    assert code == 3
    assert "error[VS402]" in err
    assert f"{server.url} refused the token that was sent" in err
    assert str(tokens) in err
    assert server.got == [f"Bearer {OTHER}"]
    assert OTHER not in out + err


def test_a_token_is_in_no_other_error_either(
    serve: Serve, tokens: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(wanted=TOKEN, echo="what is this: {}?", status=400)
    tokens.write_text(f"{server.url} {OTHER}\n")
    code, out, err = run(capsys, "inspect", server.url, "-vv")
    assert code == 3
    assert "what is this: Bearer TOKEN?" in err
    assert OTHER not in out + err


def test_a_token_does_not_follow_a_redirect_to_another_server(
    serve: Serve, tokens: Path, open_remote: Open
) -> None:
    other = serve()
    server = serve(wanted=TOKEN, moved_to=other.url)
    tokens.write_text(f"{server.url} {TOKEN}\n")
    assert open_remote(server.url).view_set("digits").index.rows == 70
    assert set(server.got) == {f"Bearer {TOKEN}"}
    assert set(other.got) == {None}


def test_a_client_that_sends_its_headers_again_would_lose_the_token(serve: Serve) -> None:
    """The same two servers, and the client of Python's library."""
    other = serve()
    server = serve(wanted=TOKEN, moved_to=other.url)
    wanted = Request(f"{server.url}/manifest.json", headers={"Authorization": f"Bearer {TOKEN}"})
    with urlopen(wanted) as answer:
        assert answer.status == 200
    assert other.got == [f"Bearer {TOKEN}"]


def test_nothing_follows_a_redirect_from_https_to_http(
    serve: Serve,
    tls: ssl.SSLContext,
    tokens: Path,
    open_remote: Open,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor does it where an S3 server of the environment is spoken to without TLS."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    plain = serve()
    server = serve(tls, wanted=TOKEN, moved_to=f"{plain.url}/x?signature={OTHER}&")
    tokens.write_text(f"{server.url} {TOKEN}\n")
    with pytest.raises(RemoteError, match="which has no TLS") as caught:
        open_remote(server.url)
    assert caught.value.code == "VS403"
    assert f"redirects to {plain.url}/x, which" in str(caught.value)
    assert OTHER not in "".join(traceback.format_exception(caught.value))
    assert server.got == [f"Bearer {TOKEN}"]  # asked once: this does not pass
    assert plain.got == []


def test_a_store_at_an_https_address_is_read_with_the_password_of_netrc(
    serve: Serve, tls: ssl.SSLContext, home: Path, open_remote: Open
) -> None:
    server = serve(tls, wanted=TOKEN)
    home.write_text(f"machine 127.0.0.1 login any password {TOKEN}\n")
    assert open_remote(server.url).view_set("digits").index.rows == 70
    assert set(server.got) == {f"Bearer {TOKEN}"}


def test_a_redirect_on_the_same_server_keeps_the_token(
    serve: Serve, tokens: Path, open_remote: Open
) -> None:
    """Else the test above would hold of a client that sends it once."""
    server = serve(wanted=TOKEN)
    server.moved_to = server.url
    tokens.write_text(f"{server.url} {TOKEN}\n")
    assert open_remote(server.url).view_set("digits").index.rows == 70
    assert set(server.got) == {f"Bearer {TOKEN}"}


def test_a_token_goes_to_no_other_server(serve: Serve, tokens: Path, open_remote: Open) -> None:
    server, other = serve(wanted=TOKEN), serve()
    tokens.write_text(f"{server.url} {TOKEN}\n")
    open_remote(other.url)
    assert set(other.got) == {None}


def test_what_is_sent_to_workers_holds_no_token(
    serve: Serve, tokens: Path, open_remote: Open, digits: Store
) -> None:
    """They read the file again: a token that was replaced meanwhile is the one they use."""
    server = serve(wanted=TOKEN)
    tokens.write_text(f"{server.url} {TOKEN}\n")
    store = open_remote(server.url)
    views = store.view_set("hard")
    pickled = [pickle.dumps(each) for each in (store, views, store.files, store.files.cache)]
    for raw in pickled:
        assert TOKEN.encode() not in raw
        assert TOKEN.encode().hex().encode() not in raw
    server.wanted = OTHER
    tokens.write_text(f"{server.url} {OTHER}\n")
    server.got.clear()
    again = pickle.loads(pickled[1])
    assert (again[5] == digits.view_set("hard")[5]).all()
    assert set(server.got) == {f"Bearer {OTHER}"}


def test_opened_files_show_no_token(serve: Serve, tokens: Path, tmp_path: Path) -> None:
    tokens.write_text(f"https://data.example {TOKEN}\n")
    files = RemoteFiles(
        "https://data.example/views",
        cache=CacheSettings(directory=tmp_path / "cache"),
        retry=IMPATIENT,
    )
    shown = [files, files.cache, files.cache.fetcher, token_for(Origin.of("https://data.example"))]
    assert TOKEN not in "".join(map(repr, shown))


@pytest.mark.parametrize(
    ("line", "url", "matches"),
    [
        ("https://data.example", "https://data.example/views", True),
        ("https://data.example:443", "https://data.example/views", True),
        ("https://data.example", "https://data.example:443/views", True),
        ("https://data.example/", "https://DATA.example/views", True),
        ("HTTPS://Data.Example", "https://data.example/views", True),
        ("http://10.0.0.5:8765", "http://10.0.0.5:8765/v1/stores/a", True),
        ("http://10.0.0.5", "http://10.0.0.5:80/views", True),
        ("https://[::1]:9000", "https://[::1]:9000/views", True),
        ("https://data.example", "http://data.example/views", False),
        ("https://data.example", "http://data.example:443/views", False),
        ("http://127.0.0.1:1", "https://127.0.0.1:1/views", False),
        ("https://data.example", "https://data.example:8443/views", False),
        ("https://data.example:8443", "https://data.example/views", False),
        ("https://data.example", "https://data.example.evil.example/views", False),
        ("https://data.example", "https://evil.example/data.example", False),
        ("https://data.example", "https://www.data.example/views", False),
        ("https://www.data.example", "https://data.example/views", False),
    ],
)
def test_a_line_is_for_one_scheme_host_and_port(
    tokens: Path, line: str, url: str, matches: bool
) -> None:
    tokens.write_text(f"{line} {TOKEN}\n")
    assert found(url) == (TOKEN if matches else None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no token"),
        ("# https://data.example TOKEN\n\n", "holds no token"),
        (TOKEN, "line 1"),
        (f"data.example {TOKEN}", "line 1"),
        (f"\nhttps:// {TOKEN}", "line 2"),
        (f"ftp://data.example {TOKEN}", "line 1"),
        (f"https://data.example/views {TOKEN}", "line 1"),
        (f"https://data.example?a=b {TOKEN}", "line 1"),
        (f"https://user@data.example {TOKEN}", "line 1"),
        (f"https://data.example:port {TOKEN}", "line 1"),
        (f"https://data.example {TOKEN} {TOKEN}", "line 1"),
        ("https://data.example s3cr3t-0f-shor", "line 1"),  # too short
        (f"https://data.example {TOKEN}é", "line 1"),
        (f"https://data.example Bearer:{TOKEN}", "line 1"),
        (f"https://data.example {TOKEN}\nhttps://data.example:443 {TOKEN}", "a second time"),
        (b"https://data.example \xff\xfe", "not text in UTF-8"),
    ],
)
def test_a_malformed_token_file_is_an_error_without_its_secrets(
    tokens: Path, text: str | bytes, said: str
) -> None:
    tokens.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=said) as caught:
        found("https://data.example")
    assert caught.value.code == "VS602"
    assert caught.value.where == str(tokens)
    assert "s3cr3t" not in f"{caught.value} {caught.value.why} {caught.value.fix}"
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o777, 0o610])
def test_a_token_file_that_others_may_open_is_refused(tokens: Path, mode: int) -> None:
    tokens.write_text(f"https://data.example {TOKEN}\n")
    tokens.chmod(mode)
    with pytest.raises(ConfigError, match=f"its mode is {mode:04o}") as caught:
        found("https://data.example")
    assert caught.value.code == "VS602"
    assert caught.value.fix == f"chmod 600 {tokens}"
    tokens.chmod(0o400)
    assert found("https://data.example") == TOKEN


def test_a_token_file_that_is_named_must_be_there(tokens: Path) -> None:
    tokens.unlink()
    with pytest.raises(ConfigError, match="No such file") as caught:
        found("https://data.example")
    assert caught.value.code == "VS602"


def test_s3_and_folders_ask_no_token_file(
    tokens: Path, s3_url: str, open_remote: Open, digits: Store
) -> None:
    tokens.write_text("not a token file\n")
    assert open_remote(s3_url).store_id == digits.store_id


def test_a_netrc_is_asked_for_the_port_first_and_for_https_alone(home: Path) -> None:
    home.write_text(
        f"machine data.example login me password {TOKEN}\n"
        f"machine data.example:8443 password {OTHER}\n"
        "machine short.example password short\n"
        f"default login anonymous password {OTHER}\n"
    )
    assert found("https://data.example/views") == TOKEN
    assert found("https://data.example:9000/views") == TOKEN
    assert found("https://data.example:8443/views") == OTHER
    for url in ("http://data.example", "http://127.0.0.1:8765", "https://short.example"):
        assert found(url) is None
    assert found("https://other.example") is None
    assert found("https://default") is None


def test_another_netrc_may_be_named_and_a_token_file_stands_before_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.write_text(f"machine data.example password {TOKEN}\n")
    named = tmp_path / "netrc-of-the-job"
    named.touch(0o600)
    named.write_text(f"machine data.example password {OTHER}\n")
    monkeypatch.setenv("NETRC", str(named))
    assert found("https://data.example") == OTHER
    tokens = tmp_path / "tokens"
    tokens.touch(0o600)
    tokens.write_text(f"https://other.example {OTHER}\n")
    monkeypatch.setenv("VIEWSTORE_TOKEN_FILE", str(tokens))
    assert found("https://data.example") is None
    monkeypatch.setenv("VIEWSTORE_TOKEN_FILE", "")
    monkeypatch.setenv("NETRC", str(tmp_path / "nowhere"))
    assert found("https://data.example") is None


def test_a_netrc_counts_when_it_holds_the_host(home: Path) -> None:
    """That others may read passwords of other hosts stops nobody who reads a public store."""
    home.write_text(f"machine data.example password {TOKEN}\n")
    home.chmod(0o644)
    assert found("https://public.example") is None
    with pytest.raises(ConfigError, match="its mode is 0644") as caught:
        found("https://data.example")
    assert caught.value.code == "VS602"


def test_a_malformed_netrc_is_an_error_without_its_secrets(home: Path) -> None:
    home.write_text(f"machine data.example login me pasword {TOKEN}\n")
    with pytest.raises(ConfigError, match="at line") as caught:
        found("https://data.example")
    assert caught.value.code == "VS602"
    assert caught.value.__cause__ is None
    assert TOKEN not in f"{caught.value} {caught.value.why} {caught.value.fix}"


def test_no_form_of_an_http_address_goes_past_the_tokens() -> None:
    """What sends them is obstore alone: chains of fsspec are refused, in every spelling."""
    for url in ("http://a.example/x", "HTTPS://a.example/x", "Http://a.example:80/x"):
        assert isinstance(connect(url, Retry()), ObstoreTransport)
    for url in (
        "simplecache::https://a.example/x",
        "filecache::http://a.example/x",
        "blockcache://::https://a.example/x",
        "https:///a.example/x",
        "https://a.example:port/x",
        "https://a.example@b.example/x",
    ):
        with pytest.raises(ConfigError):
            connect(url, Retry())
    assert isinstance(connect("memory://x", Retry()), FsspecTransport)
