"""What serving costs: CPU seconds of `viewstore serve` for each GiB, beside nginx.

    python benchmarks/serve.py --out benchmarks/results/serve.json

Both serve the shards of one store, which lies in memory by then, to a few connections that take
all of it and look at nothing: whole files, and ranges of 8 MiB. They go in turns. What counts is
the CPU time of the server's processes, not the clock, so another load does little harm.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from contest import results, usage
from contest.data import ROOT

from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.files.disk import write_atomic
from viewstore.store.store import open_store

GIB = 1 << 30
NAMED = r"/[\w-]+/(sources|views/[\w-]+)/[a-z0-9_]+-[0-9a-f]{16}(\.[a-z0-9_]+)?"
BLOBS = rf"^{NAMED}\.(tar|params|chunk|npy)$"
RANGE_BYTES = 8 << 20
TARGETS = {"whole": 0.9, "ranges": 1.2}  # CPU seconds for each GiB, on an idle machine
VIEWS, SIDE = 8, 224  # 1.2 MB a sample
SHARD_ROWS = 64
START_SECONDS = 60
NGINX = """
{user} worker_processes 1; daemon off; pid {scratch}/pid; error_log stderr crit;
events {{ }}
http {{ access_log off;
  client_body_temp_path {scratch}/1; proxy_temp_path {scratch}/2; fastcgi_temp_path {scratch}/3;
  uwsgi_temp_path {scratch}/4; scgi_temp_path {scratch}/5;
  server {{ listen 127.0.0.1:{port}; root {root};
    sendfile on; disable_symlinks on; max_ranges 1; default_type application/octet-stream;
    location / {{ return 404; }}
    location ~ "{blobs}" {{
      limit_except GET {{ deny all; }}
      add_header Cache-Control "private, max-age=31536000, immutable"; }} }} }}
"""


@dataclass(frozen=True)
class Server:
    """A server that runs: its process, its port, and what stands before the name of a file."""

    pid: int
    port: int
    before: str


def build_store(out: Path, samples: int, shard_rows: int = SHARD_ROWS) -> None:
    """Build a store of raw views: what is in them costs a server nothing."""
    rng = np.random.Generator(np.random.Philox(1))
    np.savez(out.parent / "source.npz", images=rng.integers(0, 256, (samples, 64, 64, 3), np.uint8))
    settings = {"views": VIEWS, "height": SIDE, "width": SIDE}
    build(
        BuildRequest(
            generator="simclr",
            out=out,
            source=str(out.parent / "source.npz"),
            codec="raw",
            settings=settings,
            shard_rows=shard_rows,
        )
    )


@contextlib.contextmanager
def running(command: list[str], port: int, before: str) -> Iterator[Server]:
    """Run a server until the block ends."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} did not start")
            time.sleep(0.05)
        yield Server(process.pid, port, before)
    finally:
        process.terminate()
        process.wait(timeout=START_SECONDS)


def free_port() -> int:
    """Return a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def ours(store: Path) -> contextlib.AbstractContextManager[Server]:
    """Run `viewstore serve`."""
    port = free_port()
    command = str(Path(sys.executable).with_name("viewstore"))
    return running(
        [command, "serve", str(store), "--port", str(port)], port, f"/v1/stores/{store.name}/"
    )


def nginx(program: str, store: Path, scratch: Path) -> contextlib.AbstractContextManager[Server]:
    """Run nginx with the configuration of docs/serve.md, as this user."""
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""
    text = NGINX.format(user=user, scratch=scratch, port=port, root=store.parent, blobs=BLOBS)
    (scratch / "nginx.conf").write_text(text)
    command = [program, "-p", str(scratch), "-e", "stderr", "-c", str(scratch / "nginx.conf")]
    return running(command, port, f"/{store.name}/")


def pieces(sizes: dict[str, int], mode: str) -> list[tuple[str, int, dict[str, str]]]:
    """Return the requests of one pass over all files: name, bytes and headers."""
    if mode == "whole":
        return [(name, size, {}) for name, size in sizes.items()]
    return [
        (name, RANGE_BYTES, {"Range": f"bytes={start}-{start + RANGE_BYTES - 1}"})
        for name, size in sizes.items()
        for start in range(0, size - RANGE_BYTES + 1, RANGE_BYTES)
    ]


def take(server: Server, requests: list[tuple[str, int, dict[str, str]]]) -> int:
    """Make requests over one connection; return the bytes that came."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
    buffer = memoryview(bytearray(1 << 20))
    taken = 0
    for name, size, headers in requests:
        connection.request("GET", server.before + name, headers=headers)
        response = connection.getresponse()
        if response.status != (206 if headers else 200):
            raise SystemExit(f"{server.before}{name} was answered {response.status}")
        left = size
        while left and (count := response.readinto(buffer)):
            left -= count
        response.read()
        taken += size - left
    connection.close()
    return taken


def measure(server: Server, sizes: dict[str, int], mode: str, options: argparse.Namespace) -> Any:  # noqa: ANN401
    """Take so many GiB over several connections; return what it cost."""
    once = pieces(sizes, mode)
    needed = options.gib * GIB
    count = max(options.connections, int(needed // (sum(sizes.values()) / len(sizes))))
    if mode == "ranges":
        count = max(options.connections, int(needed // RANGE_BYTES))
    todo = list(islice(cycle(once), count))
    taken = [0] * options.connections

    def run(number: int) -> None:
        taken[number] = take(server, todo[number :: options.connections])

    threads = [threading.Thread(target=run, args=[each]) for each in range(options.connections)]
    spent, began = usage.cpu_seconds(server.pid), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cpu = usage.cpu_seconds(server.pid) - spent
    expected = sum(size for _, size, _ in todo)
    if sum(taken) != expected:
        raise SystemExit(f"{sum(taken)} of {expected} bytes came")
    seconds = time.perf_counter() - began
    return {"bytes": expected, "cpu_seconds": cpu, "seconds": seconds}


def check(server: Server, name: str, sha256: str) -> None:
    """Raise SystemExit unless a server gives the right bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
    connection.request("GET", server.before + name)
    response = connection.getresponse()
    if response.status != 200:
        raise SystemExit(f"{server.before}{name} was answered {response.status}")
    if hashlib.sha256(response.read()).hexdigest() != sha256:
        raise SystemExit(f"{server.before}{name} has other bytes than it was built with")
    connection.close()


def compare(store: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure all servers in turns; return what each costs."""
    shards = open_store(store).view_sets["simclr"].shards.values()
    sizes = {f"views/simclr/{each.blob.name}": each.blob.bytes for each in shards}
    digests = {f"views/simclr/{each.blob.name}": each.blob.sha256 for each in shards}
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    with contextlib.ExitStack() as stack:
        servers = {"viewstore": stack.enter_context(ours(store))}
        if program is not None:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            servers["nginx"] = stack.enter_context(nginx(program, store, scratch))
        for server in servers.values():
            for name, sha256 in digests.items():
                check(server, name, sha256)
        found: dict[str, dict[str, Any]] = {name: {} for name in servers}
        for number in range(options.rounds):
            for mode in TARGETS:
                for name in list(servers) if number % 2 else list(reversed(servers)):
                    repeats = found[name].setdefault(mode, {"repeats": []})["repeats"]
                    repeats.append(measure(servers[name], sizes, mode, options))
    return {
        name: {m: summary(f["repeats"]) for m, f in each.items()} for name, each in found.items()
    }


def summary(repeats: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median cost and rate of repeats, and the repeats."""
    cost = [each["cpu_seconds"] / each["bytes"] * GIB for each in repeats]
    rate = [each["bytes"] / each["seconds"] * 8e-9 for each in repeats]
    return {
        "cpu_seconds_per_gib": statistics.median(cost),
        "gbit_per_second": statistics.median(rate),
        "repeats": repeats,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=4.0, help="sent in each repeat")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--samples", type=int, default=256, help="1.2 MB each")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args(arguments)
    load = usage.load()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        build_store(store, options.samples)
        found = compare(store, options)
    for name, modes in found.items():
        for mode, entry in modes.items():
            print(
                f"{name}, {mode}: {entry['cpu_seconds_per_gib']:.2f} CPU s/GiB, "
                f"{entry['gbit_per_second']:.1f} Gbit/s (median of {len(entry['repeats'])})",
                file=sys.stderr,
            )
    if options.out is not None:
        asked = {name: value for name, value in vars(options).items() if name != "out"}
        facts = {"schema": results.SCHEMA, "load": load, **results.provenance(ROOT)}
        facts |= {"asked": asked, "targets": TARGETS, "servers": found}
        write_atomic(options.out, json.dumps(facts, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
