"""`viewstore build --executor ray` as a process: how it ends, and that no worker outlives it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ray.builders import when
from tests.ray.conftest import Nodes
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


def started(folder: Path, source: str) -> subprocess.Popen[str]:
    """Start a build in a group of its own; its shards take a part of a second each."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "viewstore", "build", "--generator", "simclr"),
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
