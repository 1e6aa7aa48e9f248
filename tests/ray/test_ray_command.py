"""`viewstore build --executor ray` as a process: how it ends, and that no worker outlives it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ray.builders import when
from tests.ray.conftest import STORE_BYTES, Nodes
from tests.viewstore.small_stores import write_npz

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A source that a build is not done with before the test is."""
    return write_npz(tmp_path_factory.mktemp("many") / "images.npz", rows=3000)


def started(folder: Path, source: str, *program: str) -> subprocess.Popen[str]:
    """Start a build in a group of its own; its shards take a part of a second each."""
    return subprocess.Popen(
        [
            *(program or (sys.executable, "-m", "viewstore")),
            *("build", "--generator", "simclr"),
            *("--views", "50", "--size", "64", "--shard-rows", "8", "--source", source),
            *("--out", "store", "--executor", "ray", "--grace", "0"),
        ],
        cwd=folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def commits(folder: Path) -> int:
    return len(list(folder.glob("store/views/simclr/commits/*.json")))


def workers(folder: Path) -> list[int]:
    """Return the processes that Ray runs the actors of a build in; they are where it is."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            named = (process / "cmdline").read_bytes().startswith(b"ray::RayBuilder")
            if named and (process / "cwd").readlink() == folder:
                found.append(int(process.name))
        except OSError:
            continue  # it ended
    return found


def ends(
    folder: Path, source: str, send: signal.Signals, *, group: bool = False
) -> tuple[int, str]:
    """Signal a build in its middle; return how it ended, after all its workers have."""
    process = started(folder, source)
    found: list[int] = []

    def act() -> None:
        found.extend(workers(folder))
        (os.killpg if group else os.kill)(process.pid, send)

    with process, when(lambda: commits(folder) > 1 or process.poll() is not None, act):
        assert process.stderr is not None
        said = process.stderr.read()
    with when(lambda: not workers(folder), bool):
        pass
    assert found
    assert "Traceback" not in said
    return process.returncode, said


@pytest.mark.parametrize(
    ("send", "code", "words"),
    [
        (signal.SIGTERM, 4, "error[VS501]: stopped on request"),
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGKILL, -9, ""),
    ],
)
def test_a_build_that_is_stopped_takes_its_workers_with_it(
    cluster: Nodes, tmp_path: Path, many: str, send: signal.Signals, code: int, words: str
) -> None:
    ended, said = ends(tmp_path, many, send)
    assert ended == code, said
    assert words in said


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No cluster runs as far as Ray can see; what it starts lies in a folder with a short path."""
    folder = tempfile.mkdtemp(prefix="vs-ray-")
    monkeypatch.setenv("RAY_TMPDIR", folder)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield
    shutil.rmtree(folder, ignore_errors=True)


SOON = """
from viewstore.cli.main import main
from viewstore.shards import engine_ray
engine_ray.HEAD_SECONDS = 2
main()
"""


@pytest.mark.usefixtures("alone")
def test_a_build_whose_head_is_gone_stops_and_keeps_what_is_committed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, many: str
) -> None:
    """Ray itself would end the process a minute later, with exit code 1."""
    pytest.importorskip("ray", reason="needs the package ray: pip install 'viewstore[ray]'")
    own = Nodes()
    own.add()
    monkeypatch.setenv("RAY_ADDRESS", own.cluster.address)
    (gcs,) = own.cluster.head_node.all_processes["gcs_server"]
    process = started(tmp_path, many, sys.executable, "-c", SOON)
    with (
        process,
        when(lambda: commits(tmp_path) > 1 or process.poll() is not None, gcs.process.kill),
    ):
        assert process.stderr is not None
        said = process.stderr.read()
    own.cluster.shutdown()
    assert process.returncode == 4, said
    assert "error[VS501]: the head of the Ray cluster is gone" in said
    assert "Traceback" not in said


@pytest.fixture
def asking(alone: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a cluster that asks for a token."""
    pytest.importorskip("ray", reason="needs the package ray: pip install 'viewstore[ray]'")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "r" * 40)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += [f"--port={port}", "--node-ip-address=127.0.0.1"]
    command += ["--num-cpus=1", f"--object-store-memory={STORE_BYTES}", "--include-dashboard=false"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as head:
        address = f"127.0.0.1:{port}"
        run([sys.executable, "-c", WAIT], RAY_ADDRESS=address)
        yield address
        head.terminate()


WAIT = """
import os, time
from ray._raylet import GcsClient
client = GcsClient(address=os.environ["RAY_ADDRESS"])
while client.internal_kv_get(b"CLUSTER_METADATA", b"cluster") is None:
    time.sleep(0.1)
"""
OTHER_VERSION = """
import json, os
from ray._raylet import GcsClient
client = GcsClient(address=os.environ["RAY_ADDRESS"])
found = json.loads(client.internal_kv_get(b"CLUSTER_METADATA", b"cluster"))
found["ray_version"] = "2.0.9"
client.internal_kv_put(b"CLUSTER_METADATA", json.dumps(found).encode(), True, b"cluster")
"""


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_a_cluster_that_lets_nobody_in_is_one_plain_error(asking: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "viewstore", "build", "--generator", "simclr", "--limit", "4"]
    command += ["--source", "digits", "--out", str(tmp_path / "store"), "--executor", "ray"]
    for token in ("w" * 40, ""):
        refused = run(command, RAY_ADDRESS=asking, RAY_AUTH_TOKEN=token)
        assert refused.returncode == 3
        assert "Invalid" not in refused.stderr
        assert "the Ray cluster cannot be joined" in refused.stderr
        assert "it asks for a token, and another one or none is given here" in refused.stderr
    assert run([sys.executable, "-c", OTHER_VERSION], RAY_ADDRESS=asking).returncode == 0
    other = run(command, RAY_ADDRESS=asking)
    assert other.returncode == 3
    assert "Ray: 2.0.9" in other.stderr


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(("send", "code"), [(signal.SIGTERM, 4), (signal.SIGKILL, -9)])
def test_a_cluster_started_for_a_build_asks_for_a_token_and_ends_with_it(
    tmp_path: Path, many: str, send: signal.Signals, code: int
) -> None:
    """A scheduler signals the whole group: Ray's own processes leave that to the driver."""
    pytest.importorskip("ray", reason="needs the package ray: pip install 'viewstore[ray]'")
    ended, said = ends(tmp_path, many, send, group=send is not signal.SIGKILL)
    assert ended == code, said
    assert "token" not in said
