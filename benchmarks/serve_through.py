"""What a read-through server saves and costs: bytes from the origin, and the first byte.

    python benchmarks/serve_through.py --out benchmarks/results/serve_through.json

Eight jobs read all shards of a store at a URL through one cold server, each in an order of its
own, and once more when it is warm. The origin lies on this machine and answers after a while, as
one elsewhere does. The first byte of each shard is taken from the origin and from cold servers,
in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import http.server
import json
import os
import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

from contest import results, usage
from contest.data import ROOT
from serve import build_store, free_port, running

from viewstore.files.disk import write_atomic
from viewstore.store.store import open_store

PIECE_BYTES = 256 << 10
SHARD_ROWS = 8  # of 1.2 MB each
TARGETS = {"cold_origin_bytes": 1.01, "warm_origin_bytes": 0.0, "first_byte": 1.5}
COUNTED = re.compile(r"^viewstore_origin_bytes_total\{[^}]*\} (\S+)$", re.MULTILINE)

Shards = dict[str, tuple[int, str]]  # bytes and sha256 by name


@contextlib.contextmanager
def origin(folder: Path, latency: float) -> Iterator[int]:
    """Serve a folder, each answer after `latency` seconds; give the port."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __init__(self, *arguments: Any) -> None:  # noqa: ANN401
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *arguments: Any) -> None:  # noqa: ANN401
            pass

        def do_GET(self) -> None:
            time.sleep(latency)
            super().do_GET()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def through(upstream: int) -> Iterator[int]:
    """Run `viewstore serve` of an origin with a cold cache; give the port."""
    port = free_port()
    command = str(Path(sys.executable).with_name("viewstore"))
    given = [command, "serve", f"store=http://127.0.0.1:{upstream}", "--port", str(port)]
    with (
        tempfile.TemporaryDirectory() as cache,
        mock.patch.dict(os.environ, {"VIEWSTORE_CACHE__DIRECTORY": cache}),
        running(given, port, ""),
    ):
        get(port, "/v1/stores/store/manifest.json")  # it is ready
        yield port


def get(port: int, path: str) -> tuple[float, str, bytes]:
    """Return the seconds until the first byte of a file, its sha256, and its first bytes."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("GET", path)
    answer = connection.getresponse()
    first = answer.read(1)
    seconds = time.perf_counter() - began
    digest = hashlib.sha256(first)
    while piece := answer.read(PIECE_BYTES):
        digest.update(piece)
        if len(first) < PIECE_BYTES:
            first += piece
    connection.close()
    if answer.status != 200:
        raise SystemExit(f"{path} was answered {answer.status}: {first[:100]!r}")
    return seconds, digest.hexdigest(), first


def take_all(port: int, before: str, shards: Shards, order: Sequence[str]) -> list[float]:
    """Read shards in an order; return the seconds until the first byte of each."""
    found = []
    for name in order:
        seconds, digest, _ = get(port, before + name)
        if digest != shards[name][1]:
            raise SystemExit(f"{name} came with other bytes")
        found.append(seconds)
    return found


def origin_bytes(port: int) -> float:
    """Return what a server has fetched from its origin."""
    found = COUNTED.search(get(port, "/metrics")[2].decode())
    return 0.0 if found is None else float(found[1])


def jobs(upstream: int, shards: Shards, count: int) -> dict[str, Any]:
    """Let jobs read all shards at once, cold and warm; return origin bytes over those of a store.

    The records that the server reads when it starts are counted too.
    """
    total, names = sum(size for size, _ in shards.values()), list(shards)
    found: dict[str, Any] = {"jobs": count, "store_bytes": total}
    with through(upstream) as port, ThreadPoolExecutor(count) as pool:
        before = 0.0
        for epoch in ("cold", "warm"):
            began = time.perf_counter()
            reads = [
                pool.submit(
                    take_all, port, "/v1/stores/store/", shards, names[first:] + names[:first]
                )
                for first in (number * len(names) // count for number in range(count))
            ]
            for each in reads:
                each.result()
            found[f"{epoch}_seconds"] = time.perf_counter() - began
            now = origin_bytes(port)
            found[f"{epoch}_origin_bytes"] = (now - before) / total
            before = now
    return found


def first_bytes(upstream: int, shards: Shards, rounds: int) -> dict[str, Any]:
    """Return seconds until first bytes from the origin and from cold servers, in turns."""
    seconds: dict[str, list[float]] = {"direct": [], "cold": [], "warm": []}
    for _ in range(rounds):
        with through(upstream) as port:
            for name in shards:
                seconds["direct"] += take_all(upstream, "/", shards, [name])
                for kind in ("cold", "warm"):
                    seconds[kind] += take_all(port, "/v1/stores/store/", shards, [name])
    medians = {kind: statistics.median(each) for kind, each in seconds.items()}
    return {"ratio": medians["cold"] / medians["direct"], "medians": medians, "seconds": seconds}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=128, help="1.2 MB each")
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3, help="cold servers for the first byte")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds of the origin")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args(arguments)
    load = usage.load()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        build_store(store, options.samples, SHARD_ROWS)
        blobs = [each.blob for each in open_store(store).view_sets["simclr"].shards.values()]
        shards = {f"views/simclr/{each.name}": (each.bytes, each.sha256) for each in blobs}
        with origin(store, options.latency) as upstream:
            together = jobs(upstream, shards, options.jobs)
            first = first_bytes(upstream, shards, options.rounds)
    print(
        f"{options.jobs} jobs: {together['cold_origin_bytes']:.4f} x store from the origin cold, "
        f"{together['warm_origin_bytes']:.4f} warm; first byte cold "
        f"{first['medians']['cold'] * 1e3:.1f} ms, direct {first['medians']['direct'] * 1e3:.1f} "
        f"ms ({first['ratio']:.2f} x), warm {first['medians']['warm'] * 1e3:.1f} ms",
        file=sys.stderr,
    )
    if options.out is not None:
        asked = {name: value for name, value in vars(options).items() if name != "out"}
        facts = {"schema": results.SCHEMA, "load": load, **results.provenance(ROOT)}
        facts |= {"asked": asked, "targets": TARGETS, "jobs": together, "first_byte": first}
        write_atomic(options.out, json.dumps(facts, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
