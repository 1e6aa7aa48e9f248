"""Requests that are spelled just as a test wants them, and what a server has open."""

from __future__ import annotations

import contextlib
import http.client
import socket
from pathlib import Path

from tests.viewstore.serve.servers import LONG, Answer, Server
from viewstore.serve.guard import SECURITY


def ask(server: Server, path: str, method: str = "GET", **headers: str) -> Answer:
    """Send one request; underscores in names of headers stand for hyphens."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return send(server, f"{method} {path} HTTP/1.1", "Host: localhost", *lines)


def send(server: Server, *lines: str) -> Answer:
    """Send a request as it is spelled, and return what was answered."""
    with connected(server) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        return received(connection, lines[0].split(" ")[0])


def connected(server: Server) -> socket.socket:
    """Return a new connection."""
    return socket.create_connection(("127.0.0.1", server.port), LONG)


def received(connection: socket.socket, method: str) -> Answer:
    """Return the response to a request that was sent, without the headers that all have."""
    response = http.client.HTTPResponse(connection, method=method)
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    own = {name: value for name, value in headers.items() if name not in {"date", *SECURITY}}
    return Answer(response.status, own, response.read())


def store_url(server: Server, name: str) -> str:
    """Return the URL of a store, as `viewstore.open` takes it."""
    return f"{server.url}v1/stores/{name}"


def descriptors(server: Server) -> list[str]:
    """Return the files that a server has open."""
    found = []
    for each in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(each.readlink()))
    return found
