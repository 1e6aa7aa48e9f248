"""The executor of a Ray cluster: units run in actors, each with its own builder.

The driver owns the queue, and Ray never retries. An actor that was lost, or not placed yet, waits
behind a ping until it answers; its unit goes to another.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from viewstore.errors import StoppedError, UnavailableError, ViewStoreError
from viewstore.shards.builder import HUNG_SECONDS, BuilderFactory, hung, made_builder, no_builder
from viewstore.shards.engine import Job
from viewstore.shards.place import AUTO, CPU, Place, warn_of_no_gpu
from viewstore.shards.ray_cluster import CUDA, check_ray, connect, joined_cluster
from viewstore.shards.signals import check_deadline
from viewstore.shards.unit import Outcome, Unit

POLL_SECONDS = 0.25
STALL_SECONDS = 600.0  # without a worker, until a build gives up
HEAD_SECONDS = 30.0  # without the head, until a build gives up; after 60 Ray ends the process
LOOK_SECONDS = 1.0  # between two looks at the head, and for each
AGAIN_SECONDS = 0.2  # until a lost actor is asked again


def run_ray(job: Job) -> Generator[Outcome]:
    """Run a job on the GPUs or CPUs of a Ray cluster, which is started here if there is none.

    Raises:
        ConfigError: A GPU is named by its number.
        StoppedError: Workers were lost too often, or none was left for STALL_SECONDS, or the head
            of the cluster was gone for HEAD_SECONDS.
        UnavailableError: The package, the cluster or its GPUs are missing; the disk has no room;
            no worker ever began.
    """
    check_ray(job.device)
    with joined_cluster(job.stop, job.progress.warn):
        yield from RayPool(job).run()


class RayBuilder:
    """The actor: a builder and, as its Watch, the deadline of a stop."""

    def __init__(self, make: BuilderFactory, place: Place, folder: Path) -> None:
        """Make the builder, or keep the error: an actor that dies here never starts again.

        Paths of the factory count from `folder`, where the driver is.
        """
        self.deadline = 0.0
        with contextlib.suppress(OSError):  # absolute paths do without it
            os.chdir(folder)
        self.builder = made_builder(make, self, place)

    def ping(self) -> None:
        """Answer as soon as the actor runs and has no unit."""

    def run(self, unit: Unit) -> Outcome:
        """Build a unit."""
        if isinstance(self.builder, ViewStoreError):
            return no_builder(unit, self.builder)
        return self.builder.run(unit)

    def stop(self, seconds: float) -> None:
        """Let the unit at hand go on for `seconds`; clocks differ between machines."""
        self.deadline = time.monotonic() + seconds

    def rendered(self) -> None:
        """Count nothing: the driver counts whole units."""

    def check(self) -> None:
        """Raise StoppedError after the deadline."""
        check_deadline(self.deadline)


def shares(
    device: str, *, workers: int, units: int, networks: bool, cluster: Mapping[str, float]
) -> tuple[int, Place, dict[str, int]]:
    """Return the number of actors, the place of each, and the resources that Ray reserves for it.

    While a cluster has none of them there is one actor, which waits to be placed.

    Args:
        device: "cpu", "cuda", or "auto": the GPUs where there are any and networks to run.
        workers: The most that the user wants; 0: one for each GPU or CPU.
        units: Units of work; no more actors than that.
        networks: Whether builders run networks.
        cluster: What it has: "CPU" and "GPU".

    Raises:
        UnavailableError: There is no GPU.
    """
    gpus = int(cluster.get("GPU", 0))
    if device == CUDA and not gpus:
        raise UnavailableError(
            "the Ray cluster has no GPU",
            where=f"--device {device}",
            fix="leave out --device to use its CPUs",
        )
    if device == CUDA or (device == AUTO and networks and gpus):
        number, place, resources = gpus, Place(device="cuda:0"), {"num_gpus": 1}
    else:
        number, place, resources = int(cluster.get("CPU", 0)), Place(device=CPU), {"num_cpus": 1}
    return max(1, min(number, workers or number, units)), place, resources


class RayPool:
    """Runs units in actors, which are parked behind a ping, idle, or busy with a unit."""

    def __init__(self, job: Job) -> None:
        import ray

        self.ray: Any = ray  # its types know no options of concurrency groups
        self.job = job
        count, place, resources = shares(
            job.device,
            workers=job.workers,
            units=len(job.queue.todo),
            networks=job.networks,
            cluster=self.ray.cluster_resources(),
        )
        warn_of_no_gpu(job.progress, job.device, place, networks=job.networks)
        job.check_room(count, True)
        kind = self.ray.remote(
            max_restarts=-1, max_task_retries=0, concurrency_groups={"control": 1}, **resources
        )(RayBuilder)
        self.actors = [kind.remote(job.make, place, Path.cwd()) for _ in range(count)]
        self.parked: dict[Any, Any] = {actor.ping.remote(): actor for actor in self.actors}
        self.busy: dict[Any, tuple[Any, Unit]] = {}
        self.idle: list[Any] = []
        self.deadline = 0.0  # that the busy ones were sent
        self.begun = False  # whether any actor ever answered
        self.death: str | None = None  # of the first that died for good
        self.last_busy = time.monotonic()
        self.head: str = self.ray.get_runtime_context().gcs_address
        self.last_look = self.last_head = time.monotonic()

    def run(self) -> Generator[Outcome]:
        job = self.job
        try:
            while self.busy or (job.queue.todo and not job.stop.requested):
                self._submit()
                self._pass_on_stop()
                if not self.busy and job.stop.requested:
                    break
                self._check_stall()
                self._check_head()
                ready, _ = self.ray.wait([*self.busy, *self.parked], timeout=POLL_SECONDS)
                for call in ready:
                    yield from self._answered(call)
                yield from self._end_hung()
        finally:
            for actor in self.actors:
                self.ray.kill(actor)

    def _submit(self) -> None:
        job = self.job
        while self.idle and not job.stop.requested and (unit := job.queue.take()) is not None:
            actor = self.idle.pop()
            self.busy[actor.run.remote(unit)] = actor, unit

    def _pass_on_stop(self) -> None:
        """Tell the busy actors how long they may go on: once, and again when it is less."""
        deadline = self.job.stop.deadline
        if deadline == self.deadline:
            return
        self.deadline = deadline
        seconds = max(0.0, deadline - time.monotonic())
        for actor, _ in self.busy.values():
            actor.stop.options(concurrency_group="control").remote(seconds)

    def _check_stall(self) -> None:
        """Raise StoppedError, or UnavailableError if no actor ever began, where none is left."""
        now = time.monotonic()
        if self.busy:
            self.last_busy = now
        if self.busy or (self.parked and now - self.last_busy <= STALL_SECONDS):
            return
        if self.begun:
            raise StoppedError(
                "no worker of the Ray cluster is left",
                why=self.death or f"none came back within {STALL_SECONDS:.0f} s",
                fix="start nodes, then run the same command again",
            )
        raise UnavailableError(
            "no worker began on the Ray cluster",
            why=self.death or f"none was placed within {STALL_SECONDS:.0f} s: all are taken",
            fix="every node needs viewstore and the versions of this machine; see: ray status",
        )

    def _check_head(self) -> None:
        """Raise StoppedError where the head of the cluster is gone: nothing goes on without it."""
        now = time.monotonic()
        if now - self.last_look < LOOK_SECONDS:
            return
        try:
            connect(self.head, LOOK_SECONDS)
            self.last_head = now
        except OSError as error:
            if now - self.last_head > HEAD_SECONDS:
                raise StoppedError(
                    "the head of the Ray cluster is gone",
                    where=self.head,
                    why=str(error),
                    fix="start a cluster, then run the same command again",
                ) from error
        self.last_look = time.monotonic()

    def _answered(self, call: Any) -> Generator[Outcome]:  # noqa: ANN401
        from ray.exceptions import ActorDiedError, RayError

        actor, unit = self.busy.pop(call) if call in self.busy else (self.parked.pop(call), None)
        try:
            outcome = self.ray.get(call)
        except ActorDiedError as error:  # for good
            self.death = self.death or str(error).strip().splitlines()[-1]
            self._lost(unit)
        except RayError:  # unavailable, out of memory, its node gone: it may come back
            self._lost(unit)
            time.sleep(AGAIN_SECONDS)
            self.parked[actor.ping.remote()] = actor
        else:
            self.begun = True
            self.idle.append(actor)
            if unit is not None and self.job.queue.settle(unit, outcome):
                self.job.progress.advance(unit.num_samples)
                yield outcome

    def _lost(self, unit: Unit | None) -> None:
        if unit is not None:
            self.job.queue.lost(unit)

    def _end_hung(self) -> Generator[Outcome]:
        """End the actors whose units do not answer a stop, and count those as stopped."""
        if not self.job.stop.is_over_by(HUNG_SECONDS):
            return
        for actor, unit in self.busy.values():
            self.ray.kill(actor)
            yield hung(unit)
        self.busy.clear()
