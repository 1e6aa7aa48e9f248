"""A Slurm cluster for the tests of job arrays, and the scripted generator for all that it runs.

`.ci/slurm` unpacks Slurm; elsewhere these tests skip and say what is missing.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scripted import install
from tests.slurm.cluster import Cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of two nodes. Its daemons end with the tests, and with them all that they run."""
    if not os.environ.get("VIEWSTORE_SLURM"):
        pytest.skip("needs VIEWSTORE_SLURM, the folder of Slurm's programs that .ci/slurm prints")
    if os.geteuid() != 0:
        pytest.skip("needs root, which Slurm's nodes run as")
    namespace = subprocess.run(["unshare", "-pf", "--mount-proc", "true"], capture_output=True)
    if namespace.returncode != 0:
        pytest.skip("needs leave to make process namespaces, by which a node is ended whole")
    cluster = Cluster(Path(os.environ["VIEWSTORE_SLURM"]), tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where scripts lie; this process and Slurm's jobs find the scripted generator."""
    folder = tmp_path_factory.mktemp("scripts")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder / "site"))
        for name, value in install(folder).items():
            patch.setenv(name, value)
        yield folder
