"""Servers that end by themselves: an S3 server, plain HTTP, and a proxy that breaks things."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import http.server
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import obstore
from obstore.store import S3Store

BUCKET = "views"
PATIENCE_SECONDS = 300  # until a test that would hang fails
S3_PROGRAM = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()  # ends with the process that started this one
"""

# What happens to a request before the server has it: "refuse" resets the connection, "half" does
# so in the middle of the request's body, numbers are answered in the server's place, and so are
# pages, with 200. The others
# happen to the answer: "drop" resets the connection instead of it, though the server did the work.
Before = Literal["503", "404", "403", "409", "501", "refuse", "half", "login page", "error as 200"]
After = Literal["cut", "cut, no length", "truncate", "reset", "flip", "stall", "drop"]
Fault = Before | After
PAGES: dict[Fault, bytes] = {
    "login page": b"<html><body>please log in</body></html>",
    "error as 200": b"<?xml version='1.0'?><Error><Code>InternalError</Code></Error>",
}
CONFLICT = b"<Error><Code>ConditionalRequestConflict</Code><Message>try again</Message></Error>"


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Run an S3 server in a process of its own; yield its endpoint."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", S3_PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("PUT", f"/{BUCKET}")
        connection.getresponse().read()
        connection.close()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(timeout=30)


def s3_environment(endpoint: str) -> dict[str, str]:
    """Return what a client of the S3 server has in its environment."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
    }


def put(endpoint: str, name: str, data: bytes) -> None:
    """Put an object into the S3 server's bucket."""
    store = S3Store(
        BUCKET,
        endpoint=endpoint,
        access_key_id="testing",
        secret_access_key="testing",
        region="us-east-1",
        client_options={"allow_http": True},
    )
    obstore.put(store, name, data)


def upload(folder: Path, prefix: str, endpoint: str) -> str:
    """Copy a store into the S3 server, manifest last; return its URL."""
    for path in sorted(folder.rglob("*"), key=lambda path: path.name == "manifest.json"):
        if path.is_file():
            put(endpoint, f"{prefix}/{path.relative_to(folder)}", path.read_bytes())
    return f"s3://{BUCKET}/{prefix}"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:  # noqa: ANN401
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # many builders connect at once


@contextlib.contextmanager
def serving(
    handler: Callable[..., http.server.BaseHTTPRequestHandler],
) -> Iterator[http.server.ThreadingHTTPServer]:
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def plain_server(folder: Path) -> Iterator[str]:
    """Serve a folder as `python -m http.server` does: no ranges, no ETag, no listing of stores."""
    with serving(functools.partial(_Quiet, directory=str(folder))) as server:
        yield f"http://127.0.0.1:{server.server_port}"


class Ranged(_Quiet):
    """Answers as nginx does: one range, a strong ETag, If-Match."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        body = path.read_bytes()
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        if self.headers.get("If-Match", etag) != etag:
            self.send_error(412)
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        size = len(body)
        if wanted:
            begin, end = int(wanted[1]), int(wanted[2] or size - 1)
            body = body[begin : end + 1]
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {begin}-{begin + len(body) - 1}/{size}")
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def ranged_server(folder: Path) -> Iterator[str]:
    """Serve a folder with ranges and ETags."""
    with serving(functools.partial(Ranged, directory=str(folder))) as server:
        yield f"http://127.0.0.1:{server.server_port}"


@dataclass
class Faults:
    """What a proxy does to the requests that pass it.

    Which requests meet a fault is drawn by seed, method, path, and how often that was asked for,
    so it does not depend on the order in which threads and processes come.

    Attributes:
        script: Faults of the next requests, in turn; None lets one pass.
        rate: Share of the other requests that meet a fault of `kinds`.
        only: Part of the path of the requests it is about.
        methods: Those of the requests it is about; none stands for all.
        stall_seconds: How long a stalled connection is silent.
        ignores_conditions: The server does not know If-None-Match, and puts whatever comes.
        page: Names that the server lists in one answer; 0 leaves it to the server.
        gets, bytes_read: Answers of the server to requests that read, and their bytes, by path.
    """

    script: list[Fault | None] = field(default_factory=list)
    rate: float = 0.0
    kinds: tuple[Fault, ...] = ()
    seed: int = 0
    only: str = ""
    methods: tuple[str, ...] = ()
    stall_seconds: float = 3.0
    ignores_conditions: bool = False
    page: int = 0
    done: Counter[str] = field(default_factory=Counter)
    ranges: list[str] = field(default_factory=list)
    matches: list[str] = field(default_factory=list)
    gets: Counter[str] = field(default_factory=Counter)
    bytes_read: Counter[str] = field(default_factory=Counter)
    _asked: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answered(self, path: str, size: int) -> None:
        """Count what the server gave of an object, or of a listing."""
        with self._lock:
            self.gets[path.partition("?")[0]] += 1
            self.bytes_read[path.partition("?")[0]] += size

    @property
    def struck(self) -> int:
        """Requests that met a fault."""
        return self.done.total() - self.done["ok"]

    def next(self, method: str, path: str, wanted: str | None) -> tuple[Fault | None, float]:
        """Return the fault of the next request, and a number in [0, 1) for where it strikes."""
        with self._lock:
            if self.only not in path or (self.methods and method not in self.methods):
                return None, 0.0
            self.ranges += [wanted] if wanted else []
            asked = f"{method} {path.partition('?')[0]}"
            draw = random.Random(f"{self.seed} {asked} {self._asked[asked]}")
            self._asked[asked] += 1
            place = draw.random()
            fault: Fault | None = None
            if self.script:
                fault = self.script.pop(0)
            elif draw.random() < self.rate:
                fault = draw.choice(self.kinds)
            self.done[fault or "ok"] += 1
            return fault, place


@dataclass
class Gate(Faults):
    """Lets no request of `only` pass before it is opened, or so many are waiting."""

    most: int = 10_000
    asked: list[str] = field(default_factory=list)
    _open: threading.Event = field(default_factory=threading.Event)
    late: bool = False

    def next(self, method: str, path: str, wanted: str | None) -> tuple[Fault | None, float]:
        if self.only in path:
            self.asked.append(path)
            if len(self.asked) >= self.most:
                self._open.set()
            self.late |= not self._open.wait(PATIENCE_SECONDS)
        return super().next(method, path, wanted)

    def open(self) -> None:
        """Let all pass."""
        self._open.set()

    def wait(self) -> None:
        """Wait until it is open."""
        assert self._open.wait(PATIENCE_SECONDS)


@contextlib.contextmanager
def proxy(upstream: str, faults: Faults) -> Iterator[str]:
    """Pass requests on to a server, with faults; yield its URL.

    A request that ends early is not passed on, as no server of objects would store a part of one.
    """
    address = upstream.removeprefix("http://")
    turns = threading.Lock()  # moto looks, and then writes: two creations at once might both win

    class Handler(_Quiet):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _handle_request(self) -> None:
            faults.matches += self.headers.get_all("If-Match", [])
            fault, place = faults.next(self.command, self.path, self.headers.get("Range"))
            size = int(self.headers.get("Content-Length", 0))
            if fault == "half":
                self.rfile.read(size // 2)
                return self._reset()
            request = self.rfile.read(size)
            if fault is not None and fault in PAGES:
                return self._page(PAGES[fault])
            if len(request) < size or fault == "refuse":
                return self._reset()
            if fault in ("503", "404", "403", "409", "501"):
                return self._answer(int(fault), {}, CONFLICT if fault == "409" else b"")
            status, headers, body = self._pass_on(request)
            if self.command == "GET":
                faults.answered(self.path, len(body))
            self.close_connection = fault is not None
            sent = int(len(body) * place)
            if fault == "drop" or (fault in ("cut", "reset") and not body):
                return self._reset()  # what has no body is cut in its head
            if fault == "flip" and body:
                body = body[:sent] + bytes([body[sent] ^ 1 << sent % 8]) + body[sent + 1 :]
            if fault == "stall" and not body:  # it has no middle
                time.sleep(faults.stall_seconds)
            if fault in (None, "flip") or not body:
                return self._answer(status, headers, body)
            length = {"cut, no length": None, "truncate": sent}.get(fault, len(body))
            self._answer(status, headers, body[:sent], length=length)
            if fault == "stall":
                time.sleep(faults.stall_seconds)
                self.wfile.write(body[sent:])
            elif fault == "reset":
                self._reset()
            return None

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle_request

        def _answer(
            self, status: int, headers: dict[str, str], body: bytes, *, length: int | None = -1
        ) -> None:
            """Send an answer; `length` is what it says of its body, None: nothing."""
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if length is not None and self.command != "HEAD" and status != 204:
                self.send_header("Content-Length", str(len(body) if length < 0 else length))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

        def _page(self, body: bytes) -> None:
            """Answer as a proxy does that is no bucket: with success, whatever was asked."""
            written = "Thu, 01 Jan 2026 00:00:00 GMT"
            headers = {"ETag": '"x"', "Last-Modified": written}
            if self.command == "HEAD":
                return self._answer(200, headers | {"Content-Length": str(len(body))}, b"")
            return self._answer(200, headers, body)

        def _reset(self) -> None:
            self.close_connection = True
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()

        def _pass_on(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
            sent, path = dict(self.headers.items()), self.path
            if faults.page and "list-type=" in path:
                path += f"&max-keys={faults.page}"
            if faults.ignores_conditions:
                sent = {n: v for n, v in sent.items() if n.lower() != "if-none-match"}
            with contextlib.ExitStack() as stack:
                if self.headers.get("If-None-Match") is not None:
                    stack.enter_context(turns)
                connection = http.client.HTTPConnection(address, timeout=30)
                stack.callback(connection.close)
                connection.request(self.command, path, body=request, headers=sent)
                answer = connection.getresponse()
                dropped = {"server", "date", "connection", "transfer-encoding"}
                if self.command != "HEAD":
                    dropped.add("content-length")
                headers = {n: v for n, v in answer.getheaders() if n.lower() not in dropped}
                return answer.status, headers, answer.read()

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError, ValueError):  # the client may go, or we did
                super().handle()

        def finish(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().finish()

    with serving(Handler) as server:
        yield f"http://127.0.0.1:{server.server_port}"
