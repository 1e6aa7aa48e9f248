"""Job arrays on a real Slurm: whatever becomes of their tasks, the store is that of one process.

What is submitted is the file that `viewstore jobfile slurm` prints; options of sbatch say in which
partition, where, and for how long.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.scripted import Script, begin, marks
from tests.slurm.cluster import NODES, Cluster, until
from tests.viewstore.commands import run
from tests.viewstore.small_stores import whole_id, write_npz
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.format.paths import StorePaths
from viewstore.store.committed import committed_shards

pytestmark = pytest.mark.slurm

VIEW_SET = "scripted"
SHARDS = 40  # of a sample each
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}
PROGRAMS = Path(sys.executable).parent  # where viewstore is installed


@dataclass
class Array:
    """A planned store that is built by job arrays.

    Attributes:
        cluster: Where they run.
        store: Its folder; the tasks write what they say beside it.
        trace: Folder of the script, and of the marks of what was done.
        store_id: That of the same plan, built by one process.
    """

    cluster: Cluster
    store: Path
    trace: Path
    store_id: str

    def pause(self, seconds: float) -> None:
        """Let each shard that begins take that long from now on."""
        Script(render="slow", seconds=seconds).write(self.trace)

    def submit(self, slices: int, capsys: pytest.CaptureFixture[str], *options: object) -> int:
        """Submit the job file of this store; return the number of the job."""
        words = ["jobfile", "slurm", self.store, "--view-set", VIEW_SET, "--slices", slices]
        code, text, _ = run(capsys, *words)
        assert code == 0
        file = self.store.with_name("job.sh")
        file.write_text(text)
        path = f"{PROGRAMS}:{self.cluster.environment['PATH']}"
        where = ["--partition=low", f"--chdir={self.store.parent}"]
        words = ["--parsable", *where, *options, file]
        return int(self.cluster.run("sbatch", *words, environment={"PATH": path}))

    def begun(self, job: int) -> list[int]:
        """Return the shards that a job began, each as often as it did."""
        return [mark.row for mark in marks(self.trace, "begun") if mark.job == str(job)]

    def restarts(self, job: int) -> list[int]:
        """Return how often each task of a job was put back into the queue."""
        return [int(task["Restarts"]) for task in self.cluster.tasks(job)]

    def wait(self, job: int, *, completed: int, others: int = 0) -> None:
        """Wait until a job has ended; so many of its tasks must be completed, the others not."""
        until(lambda: self.cluster.states(job).keys() <= ENDED, said=f"job {job} has not ended")
        states = self.cluster.states(job)
        assert (states["COMPLETED"], states.total()) == (completed, completed + others), self.said()

    def said(self) -> str:
        """Return what all tasks wrote."""
        return "".join(path.read_text() for path in sorted(self.store.parent.glob("*.out")))

    def finish(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Publish the store: it must be whole, without garbage, and that of one process."""
        assert run(capsys, "finalise", self.store)[0] == 0
        assert whole_id(self.store) == self.store_id


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory, home: Path) -> tuple[Path, str]:
    """A store with a plan and no shard, and the store id of the same plan built by one process."""
    begin(home, "planned", Script())
    folder = tmp_path_factory.mktemp("planned")
    source = write_npz(folder / "images.npz", rows=SHARDS, side=8)
    request = BuildRequest(
        generator="scripted", out=folder / "local", source=source, shard_rows=1, workers=1
    )
    manifest = build(request).manifest
    assert manifest is not None
    build(replace(request, out=folder / "planned", slice_of=(SHARDS, SHARDS + 1)))
    return folder / "planned", manifest.store_id


@pytest.fixture
def array(cluster: Cluster, planned: tuple[Path, str], home: Path, tmp_path: Path) -> Array:
    store, store_id = planned
    shutil.copytree(store, tmp_path / "s")
    trace = begin(home, tmp_path.name, Script())
    return Array(cluster, tmp_path / "s", trace, store_id)


def test_an_array_builds_the_store_of_one_process(
    array: Array, capsys: pytest.CaptureFixture[str]
) -> None:
    job = array.submit(4, capsys)
    array.wait(job, completed=4)
    assert sorted(array.begun(job)) == list(range(SHARDS))
    array.finish(capsys)


def test_preempted_tasks_and_those_of_a_lost_node_are_requeued_and_go_on(
    array: Array, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = array.cluster
    array.pause(1)
    job = array.submit(10, capsys)
    until(lambda: len(array.begun(job)) >= 4, said="nothing was begun")
    urgent = ["--partition=high", f"--nodes={len(NODES)}", "--exclusive", "--output=/dev/null"]
    other = int(cluster.run("sbatch", "--parsable", *urgent, "--wrap", "sleep 1"))
    array.wait(other, completed=1)
    preempted = sum(array.restarts(job))
    assert preempted >= 1
    before = len(array.begun(job))
    until(lambda: len(array.begun(job)) > before, said="no preempted task went on")
    until(lambda: "n1" in cluster.nodes(job), said="no task runs on n1")
    cluster.kill_node("n1")
    try:
        array.wait(job, completed=10)
    finally:
        cluster.start_node("n1")
    faults = sum(array.restarts(job))
    assert faults > preempted
    assert set(array.begun(job)) == set(range(SHARDS))
    assert len(array.begun(job)) <= SHARDS + faults
    array.finish(capsys)


def test_a_task_at_its_time_limit_ends_with_4_and_is_requeued(
    array: Array, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slurm looks at time limits each 30 s, so that the signal comes up to that much earlier."""
    array.pause(1.5)  # 60 s in all, which is the limit
    job = array.submit(1, capsys, "--time=1", "--signal=B:USR1@20")
    until(lambda: array.restarts(job) == [1], said="it was not requeued")
    array.cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    array.pause(0)
    array.wait(job, completed=1)
    assert array.restarts(job) == [1]
    assert "stopped on request" in array.said()
    assert sorted(array.begun(job)) == list(range(SHARDS))  # no shard was begun twice
    array.finish(capsys)


def test_what_a_cancelled_slice_lacks_is_all_that_is_submitted_again(
    array: Array, capsys: pytest.CaptureFixture[str]
) -> None:
    array.pause(1)
    job = array.submit(4, capsys)
    until(lambda: any(shard % 4 == 2 for shard in array.begun(job)), said="slice 2 has not begun")
    array.cluster.run("scancel", f"{job}_2")
    array.pause(0)
    array.wait(job, completed=3, others=1)
    committed = committed_shards(StorePaths(array.store).view_set(VIEW_SET))
    missing = sorted(set(range(SHARDS)) - set(committed))
    assert missing
    status = ["status", array.store, "--missing", "--format", "slurm", "--slices", 4]
    assert run(capsys, *status) == (1, "2\n", "")
    again = array.submit(4, capsys, f"--array={run(capsys, *status)[1].strip()}")
    array.wait(again, completed=1)
    assert sorted(array.begun(again)) == missing
    assert run(capsys, *status)[:2] == (0, "")
    array.finish(capsys)
