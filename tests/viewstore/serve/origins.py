"""Origins of tests: a store of large shards, and a server that waits in the middle of a file."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import viewstore
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.files.fetch import Retry
from viewstore.store.store import Store

IMPATIENT = Retry(first_seconds=0.001, longest_seconds=0.01)
PATIENCE_SECONDS = 300  # until a test that would hang fails


def large_store(out: Path, *, limit: int = 24) -> Store:
    """Return 24 digits in 3 shards of a megabyte each, raw."""
    build(
        BuildRequest(
            generator="digits",
            out=out,
            source="digits",
            limit=limit,
            shard_rows=8,
            codec="raw",
            settings={"height": 120, "width": 120, "views": 3},
            workers=1,
        )
    )
    return viewstore.open(out)


@dataclass
class Gates:
    """What a gated server was asked for, and where it waits.

    Attributes:
        only: Part of the path of the files that it stops in the middle of.
        gate: They go on once this is set.
        asked: How often each path was asked for.
        sent: Bytes of bodies.
        down: Whether all requests are answered with 503.
        waiting: How many bodies wait in their middle.
    """

    only: str = ".tar"
    gate: threading.Event = field(default_factory=threading.Event)
    asked: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    down: bool = False
    waiting: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, path: str, size: int) -> None:
        with self._lock:
            self.asked[path] += 1
            self.sent += size

    def wait(self) -> None:
        """Wait until the gate is open."""
        with self._lock:
            self.waiting += 1
        assert self.gate.wait(PATIENCE_SECONDS)
        with self._lock:
            self.waiting -= 1


@contextlib.contextmanager
def gated_server(folder: Path, gates: Gates) -> Iterator[str]:
    """Serve a folder with ranges and ETags; files of `gates.only` wait in their middle."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:  # noqa: ANN401
            pass

        def do_GET(self) -> None:
            path = folder / self.path.lstrip("/")
            if gates.down or not path.is_file():
                self.send_error(503 if gates.down else 404)
                return
            body = path.read_bytes()
            etag, size = f'"{hashlib.md5(body).hexdigest()}"', len(body)
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if wanted:
                begin, end = int(wanted[1]), int(wanted[2] or size - 1)
                body = body[begin : end + 1]
            gates.count(self.path.lstrip("/"), len(body))
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {begin}-{begin + len(body) - 1}/{size}")
            self.send_header("ETag", etag)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body[: len(body) // 2])
                if gates.only in self.path and not wanted:
                    gates.wait()
                self.wfile.write(body[len(body) // 2 :])

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        gates.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()
