"""The executors by name: a new one is a row here and a module beside `local`.

The command line lists the names: what runs is imported no sooner than it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from viewstore.shards.place import local_devices
from viewstore.shards.ray_cluster import check_ray

if TYPE_CHECKING:
    from viewstore.shards.engine import Executor, Job
    from viewstore.shards.unit import Outcome


class ExecutorRow(NamedTuple):
    """An executor, and what refuses before anything is read what it cannot run on."""

    run: Executor
    check: Callable[[str], object]  # given the devices of --device


def _local(job: Job) -> Generator[Outcome]:
    from viewstore.shards.local import run_local

    return run_local(job)


def _ray(job: Job) -> Generator[Outcome]:
    from viewstore.shards.engine_ray import run_ray

    return run_ray(job)


EXECUTORS: Mapping[str, ExecutorRow] = {
    "local": ExecutorRow(_local, local_devices),
    "ray": ExecutorRow(_ray, check_ray),
}
