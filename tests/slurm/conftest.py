"""A Slurm cluster for the tests of job arrays, and a package whose generator they build with.

`.ci/slurm` unpacks Slurm; elsewhere these tests skip and say what is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

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
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which the package of `counted.py` is installed, here and in Slurm's jobs."""
    site = tmp_path_factory.mktemp("site")
    shutil.copy(Path(__file__).with_name("counted.py"), site)
    (site / "pause").write_text("0")
    info = site / "counted-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: counted\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[viewstore.generators]\ncounted = counted:Counted\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setenv("PYTHONPATH", str(site))
        yield site
