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
S3_PROGRAM = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()  # ends with the process that started this one
"""

Fault = Literal["503", "404", "cut", "cut, no length", "truncate", "reset", "flip", "stall", "403"]


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


@contextlib.contextmanager
def _serving(
    handler: Callable[..., http.server.BaseHTTPRequestHandler],
) -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
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
    with _serving(functools.partial(_Quiet, directory=str(folder))) as server:
        yield f"http://127.0.0.1:{server.server_port}"


class _Ranged(_Quiet):
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
    with _serving(functools.partial(_Ranged, directory=str(folder))) as server:
        yield f"http://127.0.0.1:{server.server_port}"


@dataclass
class Faults:
    """What a proxy does to the requests that pass it.

    Attributes:
        script: Faults of the next requests, in turn; None lets one pass.
        rate: Share of the other requests that meet a fault of `kinds`.
        only: Part of the path of the requests it is about.
        stall_seconds: How long a stalled connection is silent.
    """

    script: list[Fault | None] = field(default_factory=list)
    rate: float = 0.0
    kinds: tuple[Fault, ...] = ()
    seed: int = 0
    only: str = ""
    stall_seconds: float = 3.0
    done: Counter[str] = field(default_factory=Counter)
    ranges: list[str] = field(default_factory=list)
    matches: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def next(self, path: str, wanted: str | None) -> tuple[Fault | None, float]:
        """Return the fault of the next request, and a number in [0, 1) for where it strikes."""
        with self._lock:
            if self.only not in path:
                return None, 0.0
            self.ranges += [wanted] if wanted else []
            place = self._random.random()
            fault: Fault | None = None
            if self.script:
                fault = self.script.pop(0)
            elif self._random.random() < self.rate:
                fault = self._random.choice(self.kinds)
            self.done[fault or "ok"] += 1
            return fault, place


@contextlib.contextmanager
def proxy(upstream: str, faults: Faults) -> Iterator[str]:
    """Pass requests on to a server, with faults; yield its URL."""
    address = upstream.removeprefix("http://")

    class Handler(_Quiet):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            faults.matches += self.headers.get_all("If-Match", [])
            fault, place = faults.next(self.path, self.headers.get("Range"))
            if fault in ("503", "404", "403"):
                self.send_response(int(fault))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            status, headers, body = self._pass_on()
            headers.pop("Transfer-Encoding", None)
            headers["Content-Length"] = str(len(body))
            self.close_connection = fault is not None
            sent = int(len(body) * place)
            if fault == "flip" and body:
                body = body[:sent] + bytes([body[sent] ^ 1 << sent % 8]) + body[sent + 1 :]
            elif fault == "truncate":
                headers["Content-Length"] = str(sent)
            elif fault == "cut, no length":
                del headers["Content-Length"]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if fault in (None, "flip"):
                self.wfile.write(body)
                return
            self.wfile.write(body[:sent])
            self.wfile.flush()
            if fault == "stall":
                time.sleep(faults.stall_seconds)
                self.wfile.write(body[sent:])
            elif fault == "reset":
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()

        def _pass_on(self) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection(address, timeout=30)
            try:
                connection.request("GET", self.path, headers=dict(self.headers.items()))
                answer = connection.getresponse()
                dropped = ("server", "date", "connection", "content-length")
                headers = {n: v for n, v in answer.getheaders() if n.lower() not in dropped}
                return answer.status, headers, answer.read()
            finally:
                connection.close()

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError, ValueError):  # the client may go, or we did
                super().handle()

        def finish(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().finish()

    with _serving(Handler) as server:
        yield f"http://127.0.0.1:{server.server_port}"
