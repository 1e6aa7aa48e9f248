"""The executor of Ray clusters: losses, stops and errors end in the same store, or say why not."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import pytest

from tests.ray.builders import UNITS, build, executions, when
from tests.ray.conftest import Nodes
from tests.scripted import Script, begin, mark
from viewstore.errors import ConfigError, StoppedError, UnavailableError
from viewstore.progress import Silent
from viewstore.shards import engine_ray
from viewstore.shards.builder import ShardBuilder, Watch
from viewstore.shards.engine import Job, Policy, Queue
from viewstore.shards.engine_ray import run_ray
from viewstore.shards.place import Place
from viewstore.shards.signals import StopRequest
from viewstore.shards.unit import Outcome, Unit

pytestmark = [
    pytest.mark.ray,
    # Ray leaves files and sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Warnings(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, text: str) -> None:
        self.said.append(text)


def unit(shard: int) -> Unit:
    return Unit(view_set="t", shard=shard, first=shard, num_samples=1)


def job_of(make: object, units: int = 2, grace: float = 0.0) -> Job:
    return Job(
        make=make,  # type: ignore[arg-type]
        queue=Queue(Policy(), [unit(shard) for shard in range(units)]),
        stop=StopRequest(grace),
        progress=Warnings(),
    )


def test_a_cluster_builds_the_same_store_and_leaves_the_process_as_it_was(
    cluster: Nodes, tmp_path: Path, source: str, whole_id: str, trace: Path
) -> None:
    Script().write(trace)
    before = dict(os.environ), signal.getsignal(signal.SIGTERM), cv2.getNumThreads()
    assert build(tmp_path / "store", source, run_ray) == whole_id
    assert (dict(os.environ), signal.getsignal(signal.SIGTERM), cv2.getNumThreads()) == before
    assert len(executions(trace)) == UNITS
    assert os.getpid() not in executions(trace)


def test_an_actor_that_is_killed_loses_one_unit_to_another(
    cluster: Nodes, tmp_path: Path, source: str, whole_id: str, trace: Path
) -> None:

    def kill() -> None:
        os.kill(executions(trace)[0], signal.SIGKILL)

    with when(lambda: executions(trace), kill):
        assert build(tmp_path / "store", source, run_ray) == whole_id
    assert len(executions(trace)) <= UNITS + 1


def test_a_node_that_is_lost_is_done_without(
    cluster: Nodes, tmp_path: Path, source: str, whole_id: str, trace: Path
) -> None:
    node = cluster.add()
    with when(lambda: len(set(executions(trace))) == 3, partial(cluster.lose, node)):
        assert build(tmp_path / "store", source, run_ray) == whole_id
    assert len(executions(trace)) <= UNITS + 1


def test_all_nodes_are_lost_and_new_ones_go_on(
    cluster: Nodes,
    home: Path,
    tmp_path: Path,
    source: str,
    whole_id: str,
    trace: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lose_all() -> None:
        monkeypatch.setattr(engine_ray, "STALL_SECONDS", 1.0)
        cluster.lose_all()

    with (
        when(lambda: len(executions(trace)) > 2, lose_all),
        pytest.raises(StoppedError, match="no worker of the Ray cluster is left"),
    ):
        build(tmp_path / "store", source, run_ray)
    monkeypatch.setattr(engine_ray, "STALL_SECONDS", 600.0)
    cluster.mend()
    again = begin(home, "again", Script())
    assert build(tmp_path / "store", source, run_ray) == whole_id
    assert len(executions(trace)) + len(executions(again)) <= UNITS + 2


class Occupant:
    """Takes the CPU of a node."""

    def ready(self) -> None:
        """Answer."""


@pytest.fixture
def joined(cluster: Nodes) -> Iterator[None]:
    """The calling program has joined the cluster itself, and uses one of two CPUs."""
    import ray

    ray.init(log_to_driver=False, logging_level="error")
    occupant = ray.remote(num_cpus=1)(Occupant).remote()
    ray.get(occupant.ready.remote())
    yield
    assert ray.is_initialized()
    ray.shutdown()


def test_an_actor_that_is_never_placed_gets_no_unit(
    joined: None, tmp_path: Path, source: str, whole_id: str, trace: Path
) -> None:
    Script().write(trace)
    assert build(tmp_path / "store", source, run_ray) == whole_id
    assert len(executions(trace)) == UNITS
    assert len(set(executions(trace))) == 1


def fail_to_make(watch: Watch, place: Place) -> ShardBuilder:
    raise ConfigError("no networks here", fix="bring some")


def test_a_factory_that_raises_is_no_lost_worker(cluster: Nodes) -> None:
    """Its error names the host; and a cluster without a token is said to be open."""
    job = job_of(fail_to_make)
    outcomes = list(run_ray(job))
    assert [outcome.shard for outcome in outcomes] == [0, 1]
    for outcome in outcomes:
        assert isinstance(outcome.error, ConfigError)
        assert outcome.error.where == f"host {socket.gethostname()}"
        assert outcome.error.fix == "bring some"
    assert [text for text in job.progress.said if "asks for no token" in text]  # type: ignore[attr-defined]


class Missing:
    """A factory that no worker can read: its package is on this machine alone."""

    def __reduce__(self) -> tuple[object, ...]:
        return (__import__, ("package_of_nobody",))


def test_workers_that_never_begin_say_why(cluster: Nodes) -> None:
    with pytest.raises(UnavailableError, match="no worker began") as caught:
        list(run_ray(job_of(Missing())))
    assert "package_of_nobody" in str(caught.value.why)


class Hanging:
    """A builder whose units never end."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def run(self, unit: Unit) -> Outcome:
        mark(self.trace, "begun", unit.shard)
        time.sleep(3600)
        raise AssertionError("nobody ended it")


def make_hanging(trace: Path, watch: Watch, place: Place) -> Hanging:
    return Hanging(trace)


def test_a_unit_that_does_not_answer_a_stop_is_ended_with_its_worker(
    cluster: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_ray, "HUNG_SECONDS", 0.5)
    job = job_of(partial(make_hanging, tmp_path))
    with when(lambda: len(executions(tmp_path)) == 2, job.stop.request_now):
        outcomes = list(run_ray(job))
    assert {outcome.status for outcome in outcomes} == {"stopped"}
    assert [outcome.shard for outcome in outcomes] == [0, 1]
    for process in executions(tmp_path):
        with when(partial(is_gone, process), bool):
            pass


def is_gone(process: int) -> bool:
    return not Path(f"/proc/{process}").exists()
