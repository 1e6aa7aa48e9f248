"""A server process for tests, and requests that say just what a test wants to say."""

from __future__ import annotations

import contextlib
import http.client
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

PROGRAM = """
import logging, socket, sys
from pathlib import Path
import uvicorn
from viewstore.inspect.pages.site import Site
from viewstore.serve.app import application
from viewstore.serve.local import LocalStore

logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
served = [LocalStore(Path(each).name, Path(each)) for each in sys.argv[1:]]
app = application(served, Site({each.name: each.store for each in served}))
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
config = uvicorn.Config(
    app, http="h11", h11_max_incomplete_event_size=16384, log_config=None, access_log=False
)
uvicorn.Server(config).run(sockets=[listening])
"""
PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class Reply:
    """What a server answered; the date is left out, names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Running:
    """A server that runs."""

    port: int
    pid: int
    errors: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def store(self, name: str) -> str:
        return f"{self.url}/v1/stores/{name}"

    @property
    def log(self) -> list[str]:
        return self.errors.read_text().splitlines()

    @property
    def descriptors(self) -> list[str]:
        """The files that it has open."""
        found = []
        for each in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(str(each.readlink()))
        return found

    def ask(self, path: str, method: str = "GET", **headers: str) -> Reply:
        """Send one request; underscores in names of headers stand for hyphens."""
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        return self.send(f"{method} {path} HTTP/1.1", "Host: localhost", *lines)

    def send(self, *lines: str, body: bytes = b"") -> Reply:
        """Send a request as it is spelled, and return what was answered."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE_SECONDS) as connection:
            head = "\r\n".join([*lines, "", ""]).encode("latin-1")
            connection.sendall(head + body)
            return received(connection, lines[0].split(" ")[0])


def received(connection: socket.socket, method: str) -> Reply:
    """Return the response to a request that was sent."""
    response = http.client.HTTPResponse(connection, method=method)
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    headers.pop("date", None)
    return Reply(response.status, headers, response.read())


@contextlib.contextmanager
def serving(*stores: Path) -> Iterator[Running]:
    """Run a server of some stores in a process of its own."""
    with tempfile.NamedTemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *map(str, stores)],
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        try:
            yield Running(_port(process.stdout, errors), process.pid, Path(errors.name))
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE_SECONDS)


def _port(stdout: IO[bytes] | None, errors: IO[str]) -> int:
    assert stdout is not None
    line = stdout.readline()
    assert line, Path(errors.name).read_text()
    return int(line)
