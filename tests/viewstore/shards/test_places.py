"""Places of workers: devices and threads are shared out, told to each, and given back."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Literal

import cv2
import pytest
import torch

from viewstore.errors import ConfigError, StoppedError, UnavailableError, ViewStoreError
from viewstore.progress import Silent
from viewstore.shards import local
from viewstore.shards.builder import BuilderFactory, ShardBuilder, Watch
from viewstore.shards.engine import Job, Policy, Queue
from viewstore.shards.local import LocalPool, run_here, run_local
from viewstore.shards.place import (
    Place,
    local_devices,
    local_places,
    planning_device,
    warn_of_no_gpu,
)
from viewstore.shards.signals import StopRequest
from viewstore.shards.unit import Outcome, Unit

PATIENCE = 300.0
TWO_GPUS = ("cuda:0", "cuda:1")


@pytest.mark.parametrize(
    ("devices", "given", "expected"),
    [
        pytest.param(("cpu",), {}, [("cpu", 1)] * 4, id="a worker for each core"),
        pytest.param(("cpu",), {"units": 2}, [("cpu", 2)] * 2, id="no more than units"),
        pytest.param(("cpu",), {"units": 0}, [("cpu", 4)], id="never none"),
        pytest.param(("cpu",), {"workers": 3}, [("cpu", 1)] * 3, id="as many as are wanted"),
        pytest.param(("cpu",), {"workers": 9}, [("cpu", 1)] * 9, id="more than cores"),
        pytest.param(
            ("cpu",), {"workers": 2, "networks": True}, [("cpu", 1)] * 2, id="networks: one thread"
        ),
        pytest.param(
            TWO_GPUS, {"networks": True}, [("cuda:0", 1), ("cuda:1", 1)], id="one for each device"
        ),
        pytest.param(
            TWO_GPUS,
            {"workers": 3},
            [("cuda:0", 1), ("cuda:1", 1), ("cuda:0", 1)],
            id="devices in turns",
        ),
        pytest.param(TWO_GPUS, {"workers": 1}, [("cuda:0", 4)], id="fewer than devices"),
    ],
)
def test_devices_and_threads_are_shared_out(
    devices: tuple[str, ...], given: dict[str, int], expected: list[tuple[str, int]]
) -> None:
    wanted = {"workers": 0, "units": 10, "cores": 4, "networks": False} | given
    places = local_places(devices, **wanted)
    assert [(place.device, place.threads) for place in places] == expected


@pytest.mark.parametrize(
    ("text", "gpus", "devices"),
    [
        ("cpu", 0, ("cpu",)),
        ("cpu:0, cpu", 0, ("cpu:0", "cpu")),
        ("auto", 0, ("cpu",)),
        ("auto", 2, TWO_GPUS),
    ],
)
def test_devices_are_named_or_all_that_are_visible(
    monkeypatch: pytest.MonkeyPatch, text: str, gpus: int, devices: tuple[str, ...]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert local_devices(text) == devices


@pytest.mark.parametrize("text", ["", ",", "cpu,", ",cpu", "cpu,,meta", "auto,cpu", "auto,"])
def test_a_list_of_devices_must_be_one(text: str) -> None:
    with pytest.raises(ConfigError, match="--device"):
        local_devices(text)


@pytest.mark.parametrize("text", ["meta", "meta:0", "cpu\n", "cpu,cuda:x", "Cuda", "cuda:", "/"])
def test_what_is_no_device_that_computes_is_refused(text: str) -> None:
    """Also where the generator runs no networks, and would not miss it."""
    with pytest.raises(ConfigError, match="names no device that computes") as caught:
        local_devices(text)
    assert str(caught.value.where).isprintable()


def test_a_device_that_is_not_here_is_named() -> None:
    with pytest.raises(UnavailableError, match="device foo cannot be used") as caught:
        local_devices("cpu,foo")
    assert (caught.value.exit_code, caught.value.where) == (3, "--device foo")


def test_what_is_planned_for_others_needs_none_of_their_devices() -> None:
    assert [planning_device(text) for text in ("cpu:0,cpu", "foo", "auto")] == [
        *("cpu:0", "cpu", "cpu"),
    ]


class Told(ShardBuilder):
    """A builder that says in its outcomes where it is, and does nothing."""

    def __init__(self, watch: Watch, place: Place) -> None:
        self.watch, self.place = watch, place

    def run(self, unit: Unit) -> Outcome:
        try:
            self.watch.check()
        except StoppedError as error:
            return outcome(unit, "stopped", error=error)
        return outcome(unit, "committed", attempt=f"{self.place.device} {os.getpid()}")


def outcome(
    unit: Unit,
    status: Literal["committed", "stopped"],
    *,
    attempt: str = "",
    error: ViewStoreError | None = None,
) -> Outcome:
    return Outcome(shard=unit.shard, attempt=attempt, status=status, seconds=0.0, error=error)


def job_of(make: BuilderFactory, *, units: int = 2, **fields: object) -> Job:
    todo = [Unit(view_set="t", shard=shard, first=shard, num_samples=1) for shard in range(units)]
    given = {"stop": StopRequest(0.0), "progress": Silent()} | fields
    return Job(make=make, queue=Queue(Policy(), todo), **given)


def test_each_device_has_a_builder_of_its_own() -> None:
    """Torch takes any number of CPUs: "cpu:1" stands for a second GPU."""
    attempts = [each.attempt for each in run_local(job_of(Told, device="cpu:0,cpu:1", units=6))]
    assert len(attempts) == 6
    assert {attempt.split()[0] for attempt in attempts} == {"cpu:0", "cpu:1"}
    assert len(set(attempts)) == 2
    assert str(os.getpid()) not in {attempt.split()[1] for attempt in attempts}


class Warned(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.mark.parametrize(
    ("device", "networks", "warnings"),
    [
        pytest.param("auto", True, 1, id="networks that were to have a GPU"),
        pytest.param("auto", False, 0, id="no networks"),
        pytest.param("cpu", True, 0, id="the CPU was asked for"),
    ],
)
def test_auto_without_a_gpu_is_said_once(
    monkeypatch: pytest.MonkeyPatch, device: str, networks: bool, warnings: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    said = Warned()
    built = list(
        run_local(job_of(Told, device=device, networks=networks, workers=1, progress=said))
    )
    assert [each.status for each in built] == ["committed"] * 2
    text = (
        "--device auto finds no GPU: the networks run on the CPU, which takes many times longer, "
        "and pixels may differ in the last bit; --device cuda refuses that"
    )
    assert said.warnings == [text] * warnings


def test_auto_with_a_gpu_is_no_warning() -> None:
    said = Warned()
    warn_of_no_gpu(said, "auto", Place(device="cuda:0"), networks=True)
    assert said.warnings == []


def test_one_device_needs_no_worker() -> None:
    [only, _] = run_local(job_of(Told, device="cpu:1"))
    assert only.attempt == f"cpu:1 {os.getpid()}"


class Crash(BaseException):
    """What no builder catches."""


class Greedy(Told):
    """A builder that takes what threads it is given, and raises at its second unit."""

    def __init__(self, watch: Watch, place: Place) -> None:
        super().__init__(watch, place)
        cv2.setNumThreads(place.threads)
        torch.set_num_threads(place.threads)

    def run(self, unit: Unit) -> Outcome:
        if unit.shard == 1:
            raise Crash
        return super().run(unit)


def greedy_without_end(watch: Watch, place: Place) -> ShardBuilder:
    Greedy(watch, place)
    raise ConfigError("no")


def first_of(job: Job, place: Place) -> None:
    running = run_here(job, place)
    next(running)
    running.close()


def all_of(job: Job, place: Place) -> None:
    list(run_here(job, place))


@pytest.mark.parametrize(
    ("make", "units", "run", "raised"),
    [
        pytest.param(Greedy, 1, all_of, None, id="done"),
        pytest.param(Greedy, 1, first_of, None, id="left"),
        pytest.param(Greedy, 2, all_of, Crash, id="raised"),
        pytest.param(greedy_without_end, 1, all_of, ConfigError, id="not made"),
    ],
)
def test_threads_are_given_back(
    make: BuilderFactory,
    units: int,
    run: Callable[[Job, Place], None],
    raised: type[BaseException] | None,
) -> None:
    before = cv2.getNumThreads(), torch.get_num_threads()
    place = Place(threads=max(before) + 1)
    job = job_of(make, units=units, networks=True)
    if raised is None:
        run(job, place)
    else:
        with pytest.raises(raised):
            run(job, place)
    assert (cv2.getNumThreads(), torch.get_num_threads()) == before


def without_file(watch: Watch, place: Place) -> ShardBuilder:
    raise FileNotFoundError(2, "No such file or directory", "/there/gan.safetensors")


def test_a_file_that_a_worker_lacks_is_no_bug() -> None:
    with pytest.raises(UnavailableError, match="No such file") as caught:
        list(run_here(job_of(without_file), Place()))
    assert caught.value.where == f"host {socket.gethostname()}: /there/gan.safetensors"


def never(begun: Path, watch: Watch, place: Place) -> ShardBuilder:
    """Load without end."""
    begun.touch()
    time.sleep(2 * PATIENCE)
    raise AssertionError


def told_late(begun: Path, watch: Watch, place: Place) -> ShardBuilder:
    """Load until a stop has reached this worker."""
    begun.touch()
    try:
        while True:
            watch.check()
            time.sleep(0.01)
    except StoppedError:
        return Told(watch, place)


class Hangs(Told):
    """A builder whose units never end."""

    def __init__(self, begun: Path, watch: Watch, place: Place) -> None:
        super().__init__(watch, place)
        self.begun = begun

    def run(self, unit: Unit) -> Outcome:
        self.begun.touch()
        time.sleep(2 * PATIENCE)
        raise AssertionError


def stopped_at(begun: Path, make: BuilderFactory) -> list[Outcome]:
    """Run two units in a worker, and stop the job once there is the file `begun`."""
    job = job_of(make)

    def stop() -> None:
        deadline = time.monotonic() + PATIENCE
        while not begun.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        job.stop.request_now()

    thread = Thread(target=stop)
    thread.start()
    try:
        return list(LocalPool(job, [Place()]).run())
    finally:
        thread.join()


@pytest.mark.parametrize("make", [Hangs, never], ids=["unit", "load"])
def test_what_does_not_answer_a_stop_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[..., ShardBuilder]
) -> None:
    monkeypatch.setattr(local, "HUNG_SECONDS", 0.5)
    [only] = stopped_at(tmp_path / "begun", partial(make, tmp_path / "begun"))
    assert (only.shard, only.status) == (0, "stopped")
    with pytest.raises(StoppedError, match="shard 0 was stopped: it did not answer"):
        raise only.error


def test_a_worker_that_has_loaded_after_a_stop_answers_it(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    [only] = stopped_at(begun, partial(told_late, begun))
    assert (only.shard, only.status, str(only.error)) == (0, "stopped", "stopped on request")
