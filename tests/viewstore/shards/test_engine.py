"""Engines: lost workers are replaced, stops are resumable, errors cross the process."""

import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest

import viewstore
from tests.viewstore.small_stores import build_small, whole_id, write_npz
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.errors import ConfigError, StoppedError
from viewstore.progress import Silent
from viewstore.shards.builder import ShardBuilder, Watch, bug_of
from viewstore.shards.engine import Job, Policy, Queue, raise_failure
from viewstore.shards.local import LocalPool, run_local
from viewstore.shards.place import Place
from viewstore.shards.signals import StopRequest
from viewstore.shards.unit import Outcome, Unit

PYTHON = [sys.executable, "-m", "viewstore"]
ROWS = 1200


def unit(shard: int) -> Unit:
    return Unit(view_set="t", shard=shard, first=shard, num_samples=1)


def outcome(shard: int, *, retryable: bool) -> Outcome:
    return Outcome(shard=shard, attempt="a", status="failed", seconds=0.0, retryable=retryable)


def test_a_failure_that_may_pass_is_tried_again_within_its_budget() -> None:
    queue = Queue(Policy(app_attempts=3), [unit(0)])
    for _ in range(2):
        assert queue.take() == unit(0)
        assert not queue.settle(unit(0), outcome(0, retryable=True))
    assert queue.settle(unit(0), outcome(0, retryable=True))
    assert queue.settle(unit(1), outcome(1, retryable=False))


def test_lost_workers_have_a_budget_of_their_own() -> None:
    queue = Queue(Policy(infra_attempts=2), [unit(0), unit(1)])
    queue.take()
    queue.lost(unit(0))
    assert queue.take() == unit(0)
    with pytest.raises(StoppedError, match="lost 2 times at shard 0"):
        queue.lost(unit(0))


def test_an_error_keeps_its_facts_across_processes() -> None:
    error = ConfigError("no", code="VS103", where="here", why="so", fix="that")
    failed = Outcome(shard=0, attempt="", status="failed", seconds=0, error=error)
    with pytest.raises(ConfigError, match="no") as caught:
        raise_failure([pickle.loads(pickle.dumps(failed))])
    found = caught.value
    assert (found.code, found.where, found.why, found.fix) == ("VS103", "here", "so", "that")


def test_a_failure_goes_before_a_stop() -> None:
    stopped = Outcome(
        shard=0, attempt="", status="stopped", seconds=0, error=StoppedError("stopped")
    )
    failed = Outcome(shard=1, attempt="", status="failed", seconds=0, error=ConfigError("failed"))
    with pytest.raises(ConfigError, match="failed"):
        raise_failure([stopped, failed])
    with pytest.raises(StoppedError, match="stopped"):
        raise_failure([stopped])


def test_an_exception_that_nobody_expected_says_where_it_arose() -> None:
    try:
        unit(0) + 1  # type: ignore[operator]
    except TypeError as error:
        bug = bug_of(error)
    assert str(bug).startswith("TypeError: unsupported operand")
    assert re.fullmatch(r"test_engine\.py:\d+ in test_an_exception\w+", str(bug.where))


def kill_workers() -> None:
    """Kill the idle workers of this process, and wait until their pools have noticed."""
    for process in multiprocessing.active_children():
        process.kill()
    for thread in threading.enumerate():
        if type(thread).__name__ == "_ExecutorManagerThread":
            thread.join(300)


def fail_to_make(watch: Watch, place: Place) -> ShardBuilder:
    raise ConfigError("no networks here")


def test_a_worker_that_was_killed_while_idle_is_replaced() -> None:
    """Every unit ends with an outcome; one in between kills all workers."""
    queue = Queue(Policy(infra_attempts=2), [unit(0), unit(1)])
    job = Job(make=fail_to_make, queue=queue, stop=StopRequest(0.0), progress=Silent())
    outcomes: list[Outcome] = []
    for each in LocalPool(job, [Place()]).run():
        outcomes.append(each)
        if len(outcomes) == 1:
            kill_workers()
    assert [outcome.shard for outcome in outcomes] == [0, 1]
    assert {str(outcome.error) for outcome in outcomes} == {"no networks here"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_npz(tmp_path_factory.mktemp("source") / "images.npz", rows=ROWS)


def started(
    store: Path, source: str, workers: int, *, start_new_session: bool = False
) -> subprocess.Popen[bytes]:
    """Start a build of 150 shards and wait until its first ones are committed."""
    with said(store).open("w") as stderr:
        process = subprocess.Popen(
            [
                *PYTHON, "build", "--generator", "simclr", "--views", "8", "--size", "32",
                "--source", source, "--out", str(store), "--shard-rows", "8", "-j", str(workers),
            ],
            stderr=stderr, stdout=subprocess.DEVNULL,
            start_new_session=start_new_session,
        )  # fmt: skip
    commits = store / "views" / "simclr" / "commits"
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if commits.is_dir() and len(list(commits.iterdir())) > 3:
            break
        time.sleep(0.01)
    return process


def said(store: Path) -> Path:
    """Where a started build writes its errors."""
    return store.with_name("stderr.txt")


def check_stopped(process: subprocess.Popen[bytes], store: Path) -> None:
    """A signal, and nothing else that is 4, has ended a build, and nobody has cried."""
    code = process.wait(timeout=300)
    text = said(store).read_text()
    assert (code, "error[VS501]: stopped on request" in text, "Traceback" in text) == (
        4,
        True,
        False,
    ), text


def children(pid: int) -> list[int]:
    """Return the spawned worker processes of a process, its resource tracker left out."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child)
        for child in listed
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def finish(store: Path, source: str) -> None:
    settings = {"views": 8, "height": 32, "width": 32}
    build_small(store, source, settings=settings)
    whole_id(store)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs the proc file system")
def test_a_killed_worker_is_replaced(tmp_path: Path, source: str) -> None:
    process = started(tmp_path / "s", source, workers=2)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    assert process.wait(timeout=300) == 0
    assert viewstore.open(tmp_path / "s").view_sets["simclr"].complete
    whole_id(tmp_path / "s")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs the proc file system")
def test_workers_end_with_their_parent(tmp_path: Path, source: str) -> None:
    process = started(tmp_path / "s", source, workers=2)
    workers = children(process.pid)
    assert len(workers) == 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 300
    while any(Path(f"/proc/{pid}").is_dir() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").is_dir()]
    finish(tmp_path / "s", source)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_whole_group_lets_running_shards_finish(
    tmp_path: Path, source: str, number: signal.Signals
) -> None:
    """As Slurm sends it. A worker that it killed would leave its scratch behind."""
    process = started(tmp_path / "s", source, workers=2, start_new_session=True)
    os.killpg(process.pid, number)
    check_stopped(process, tmp_path / "s")
    assert list((tmp_path / "s" / "views" / "simclr" / "tmp").iterdir()) == []
    finish(tmp_path / "s", source)


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_is_4_and_resumable(tmp_path: Path, source: str, workers: int) -> None:
    process = started(tmp_path / "s", source, workers)
    process.send_signal(signal.SIGTERM)
    check_stopped(process, tmp_path / "s")
    finish(tmp_path / "s", source)


def test_a_script_that_builds_when_it_is_imported_is_told_once(tmp_path: Path) -> None:
    """Spawned workers import the script of their parent, and must not build in turn."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from viewstore.build.request import BuildRequest\n"
        "from viewstore.build.run import build\n"
        "build(BuildRequest(generator='simclr', out=Path(sys.argv[1]), limit=64, shard_rows=16,\n"
        "                   workers=2, settings={'views': 2}))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "s")], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert "ConfigError: a build with several workers cannot start inside a worker" in done.stderr


@pytest.mark.parametrize("shard", [None, "0/1"])
def test_a_slice_that_is_done_within_the_grace_is_done(
    tmp_path: Path, source: str, shard: str | None
) -> None:
    """A job array would be put back into the queue for nothing; a whole build has more to do."""

    def asked_to_stop(job: Job) -> Generator[Outcome]:
        yield from run_local(job)
        job.stop.request()

    request = BuildRequest(
        generator="simclr", source=source, limit=16, out=tmp_path / "s", shard_rows=8,
        settings={"views": 2, "height": 8, "width": 8}, workers=1, executor=asked_to_stop,
        slice_of=None if shard is None else (0, 1),
    )  # fmt: skip
    if shard is not None:
        assert build(request).left == 0
        return
    with pytest.raises(StoppedError, match="stopped on request"):
        build(request)
    assert build(replace(request, executor=run_local)).manifest is not None
