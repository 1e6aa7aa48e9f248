"""Servers of tests: the command in a process of its own, and plain requests to it."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

PROGRAM = "from viewstore.cli.main import main; main()"
LONG = 60.0  # seconds after which a test that waits has failed


def until(happened: Callable[[], bool]) -> None:
    """Wait until something has happened; fail where it does not."""
    deadline = time.monotonic() + LONG
    while not happened():
        assert time.monotonic() < deadline, "it does not happen"


@dataclass(frozen=True)
class Answer:
    """What a server said: its status, its headers by small name, and its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Server:
    """A running `viewstore serve`, or `inspect --web`.

    Attributes:
        process: It.
        url: Its address, with a slash at the end: the first line that it wrote to stderr.
        log: The lines that it wrote to stderr, the first one included; it grows.
        context: How its certificate is checked; None: it speaks plain HTTP.
    """

    process: subprocess.Popen[str]
    url: str
    log: list[str]
    context: ssl.SSLContext | None = None
    _reader: threading.Thread | None = field(default=None, repr=False)

    @property
    def port(self) -> int:
        return int(urlsplit(self.url).port or 0)

    def connection(self) -> http.client.HTTPConnection:
        """Return a new connection to it, for those who send several requests or break off."""
        if self.context is not None:
            return http.client.HTTPSConnection(
                "127.0.0.1", self.port, timeout=LONG, context=self.context
            )
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONG)

    def ask(
        self,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "GET",
        body: bytes | None = None,
    ) -> Answer:
        """Send one request for `path` as it is; return the whole answer."""
        connection = self.connection()
        try:
            connection.putrequest(
                method, path, skip_host="Host" in (headers or {}), skip_accept_encoding=True
            )
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            got = connection.getresponse()
            names = {name.lower(): ", ".join(got.headers.get_all(name, [])) for name in got.headers}
            return Answer(got.status, names, got.read())
        finally:
            connection.close()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait until it has ended; return its exit code, with all of its log there."""
        code = self.process.wait(timeout=LONG)
        if self._reader is not None:
            self._reader.join(LONG)
        return code

    def stop(self) -> int:
        """Ask it to end, twice, so that it does not drain; return its exit code."""
        for _ in range(2):
            if self.process.poll() is None:
                self.signal(signal.SIGTERM)
        return self.wait()

    def out(self) -> str:
        """Return what it wrote to stdout, once it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.read()


@contextlib.contextmanager
def serving(
    *arguments: object,
    environment: Mapping[str, str] | None = None,
    context: ssl.SSLContext | None = None,
    command: str = "serve",
    port: int = 0,
) -> Iterator[Server]:
    """Run `viewstore serve ARGUMENTS --port PORT` until the block ends.

    Args:
        arguments: Stores and options.
        environment: What its environment has beside ours.
        context: How requests check its certificate, where it speaks TLS.
        command: "serve", or "inspect" with --web among the arguments.
        port: 0: a free one.
    """
    given = [command, *map(str, arguments), "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        assert process.stderr is not None
        log = [process.stderr.readline()]
        found = re.search(r"https?://\S+", log[0])
        assert found is not None, log[0] + process.stderr.read()
        reader = threading.Thread(target=log.extend, args=[process.stderr], daemon=True)
        reader.start()
        address = urlsplit(found[0])
        url = f"{address.scheme}://{address.netloc}{address.path.removesuffix('auth')}"
        yield Server(process, url, log, context, reader)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(LONG)
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
