"""A Ray cluster of processes on this machine, which tests may damage."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ray.builders import UNITS, build
from tests.scripted import Script, begin, install
from tests.viewstore.small_stores import write_npz
from viewstore.shards.local import run_local

STORE_BYTES = 100 * 2**20
UNWATCHED = {  # daemons that no test needs, which take more of the machine than the builds do
    "include_dashboard": False,
    "include_log_monitor": False,
    "no_monitor": True,
}
PATIENT = {  # a busy machine takes long to start a node
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_USAGE_STATS_ENABLED": "0",
}
SETTINGS = PATIENT | {  # a lost node is noticed after 5 s
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


class Nodes:
    """A head without a CPU, and nodes of one CPU."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, **UNWATCHED}
        self.cluster: Any = Cluster(initialize_head=True, head_node_args=head)

    def add(self) -> Any:  # noqa: ANN401
        """Start a node, wait until it has joined, and return it."""
        return self.cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)

    def lose(self, node: Any) -> None:  # noqa: ANN401
        """Kill all processes of a node."""
        self.cluster.remove_node(node, allow_graceful=False)

    def lose_all(self) -> None:
        for node in list(self.cluster.worker_nodes):
            self.lose(node)

    def mend(self) -> None:
        """See that there are two nodes."""
        while len(self.cluster.worker_nodes) < 2:
            self.add()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where scripts lie; the nodes, their workers and this process find the scripted generator."""
    folder = tmp_path_factory.mktemp("scripts")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in install(folder).items():
            patch.setenv(name, value)
        patch.syspath_prepend(str(folder / "site"))
        yield folder


@pytest.fixture
def trace(home: Path, tmp_path: Path) -> Path:
    """A folder in which each execution of a unit leaves a mark; a unit takes half a second."""
    return begin(home, tmp_path.name, Script(render="slow", seconds=0.5))


@pytest.fixture(scope="module")
def nodes(home: Path) -> Iterator[Nodes]:
    pytest.importorskip("ray", reason="needs the package ray: pip install 'viewstore[ray]'")
    handler = signal.getsignal(signal.SIGTERM)
    folder = tempfile.mkdtemp(prefix="vs-ray-")  # short: paths of sockets end after 107 bytes
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)  # nobody else on this machine joins it by chance
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        started = Nodes()
        signal.signal(signal.SIGTERM, handler)
        yield started
        started.cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cluster(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> Nodes:
    """Two nodes, which builds of this test join."""
    nodes.mend()
    monkeypatch.setenv("RAY_ADDRESS", nodes.cluster.address)
    return nodes


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_npz(tmp_path_factory.mktemp("source") / "images.npz", rows=UNITS, side=8)


@pytest.fixture(scope="module")
def whole_id(home: Path, tmp_path_factory: pytest.TempPathFactory, source: str) -> str:
    """The id of the store that one process builds."""
    begin(home, "whole", Script())
    return build(tmp_path_factory.mktemp("whole") / "store", source, run_local)
