"""A node that is cut off goes on with its unit, and ends it too late: one commit all the same."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from tests.ray.builders import UNITS, build_all, executions, when
from tests.ray.conftest import SETTINGS
from tests.scripted import Script
from tests.viewstore import small_stores
from viewstore.shards.builder import BuilderFactory, ShardBuilder, Watch
from viewstore.shards.engine import Job
from viewstore.shards.engine_ray import run_ray
from viewstore.shards.place import Place
from viewstore.shards.unit import Outcome, Unit

NAMESPACE, OUTER, INNER = "vsB", "10.77.0.1", "10.77.0.2"
RAY = str(Path(sys.executable).with_name("ray"))

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="needs ip: apt-get install iproute2"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def link(state: str) -> None:
    """Set the link of the inner node up or down."""
    ip("-n", NAMESPACE, "link", "set", "vsb0", state)


@pytest.fixture
def namespace() -> Iterator[None]:
    """A network of its own, with one link to this one."""
    ip("netns", "add", NAMESPACE)
    try:
        ip("link", "add", "vsa0", "type", "veth", "peer", "name", "vsb0", "netns", NAMESPACE)
        ip("addr", "add", f"{OUTER}/24", "dev", "vsa0")
        ip("link", "set", "vsa0", "up")
        ip("-n", NAMESPACE, "addr", "add", f"{INNER}/24", "dev", "vsb0")
        ip("-n", NAMESPACE, "link", "set", "lo", "up")
        link("up")
        yield
    finally:
        ip("netns", "del", NAMESPACE)


def node(*arguments: str, inside: bool = False) -> subprocess.Popen[bytes]:
    """Start a node, which lives as long as the process that is returned."""
    command = [RAY, "start", *arguments, "--block", "--object-store-memory", str(100 * 2**20)]
    if inside:
        command = ["ip", "netns", "exec", NAMESPACE, *command]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture
def two_networks(namespace: None, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A head with one CPU here, and a node with one CPU in the other network."""
    pytest.importorskip("ray", reason="needs the package ray: pip install 'viewstore[ray]'")
    folder = tempfile.mkdtemp(prefix="vs-ray-")
    monkeypatch.setenv("RAY_TMPDIR", folder)
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    address = f"{OUTER}:6379"
    head = ("--head", f"--node-ip-address={OUTER}", "--port=6379", "--include-dashboard=false")
    started = [node(*head, "--num-cpus=1")]
    try:
        until = time.monotonic() + 300
        status = [RAY, "status", "--address", address]
        while subprocess.run(status, capture_output=True, check=False).returncode:
            assert time.monotonic() < until
            time.sleep(1)
        inner = (f"--address={address}", f"--node-ip-address={INNER}", "--num-cpus=1")
        started.append(node(*inner, inside=True))
        while b"2.0 CPU" not in subprocess.run(status, capture_output=True, check=True).stdout:
            assert time.monotonic() < until
            time.sleep(1)
        monkeypatch.setenv("RAY_ADDRESS", address)
        yield
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Telling:
    """A builder that waits for the cut where it is `here`, and tells what each attempt came to."""

    inner: ShardBuilder
    trace: Path
    here: bool

    def run(self, unit: Unit) -> Outcome:
        while self.here and not (self.trace / "cut").exists():
            time.sleep(0.1)
        outcome = self.inner.run(unit)
        (self.trace / outcome.status).touch()
        return outcome


def make_telling(make: BuilderFactory, trace: Path, watch: Watch, place: Place) -> Telling:
    here = "vsb0" not in [name for _, name in socket.if_nameindex()]
    return Telling(make(watch, place), trace, here)


def test_a_node_that_was_cut_off_commits_nothing_twice(
    two_networks: None, tmp_path: Path, source: str, whole_id: str, trace: Path
) -> None:
    """What it has begun before the cut, it ends after all else was built here."""
    store = tmp_path / "store"
    Script(render="wait").write(trace)

    def run(job: Job) -> Iterator[Outcome]:
        return run_ray(replace(job, make=partial(make_telling, job.make, trace)))  # type: ignore[arg-type]

    def cut() -> None:
        link("down")
        Script().write(trace)
        (trace / "cut").touch()

    with when(lambda: executions(trace), cut):
        build_all(store, source, run)  # type: ignore[arg-type]
    assert not (trace / "lost_race").exists()
    (trace / "go").touch()
    with when((trace / "lost_race").exists, partial(link, "up")):
        pass
    assert small_stores.whole_id(store) == whole_id
    assert len(executions(trace)) <= UNITS + 1
