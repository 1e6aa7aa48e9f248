"""Clients that read slowly, or not at all."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from pathlib import PurePath

from tests.viewstore.serve.servers import LONG, Server
from viewstore.store.store import Store

SMALL = 1 << 16  # bytes that the kernel keeps for a reader, so that the server must wait for it


def shard_of(store: Store) -> tuple[str, str]:
    """Return the address of the largest file of a store below the server's, and its sha256."""
    view_set = next(iter(store.view_sets.values()))
    blobs = [blob for entry in view_set.index.shards for blob in entry.files]
    largest = max(blobs, key=lambda blob: blob.bytes)
    path = PurePath("/v1/stores", store.name, "views", view_set.name, largest.name)
    return str(path), largest.sha256


class Stream:
    """A request whose answer is read only when it is asked for."""

    def __init__(self, server: Server, path: str, headers: Mapping[str, str] | None = None) -> None:
        """Send a request for `path`; read the first bytes of the answer, where it begins."""
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        self.socket.settimeout(LONG)
        self.socket.connect(("127.0.0.1", server.port))
        lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{server.port}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self.begun = self.socket.recv(1024)

    def read(self, count: int) -> None:
        """Read this many more bytes."""
        while count > 0 and (data := self.socket.recv(min(count, 1 << 16))):
            self.begun += data
            count -= len(data)

    def rest(self) -> tuple[bytes, int]:
        """Return the body as far as it came, and the length that was promised; close it."""
        received = bytearray(self.begun)
        with self.socket, contextlib.suppress(ConnectionResetError):
            while data := self.socket.recv(1 << 16):
                received += data
        head, _, body = bytes(received).partition(b"\r\n\r\n")
        names = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        return body, int(names[b"content-length"])

    def close(self) -> None:
        self.socket.close()
