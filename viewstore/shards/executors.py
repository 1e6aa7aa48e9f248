"""The executors by name: a new one is a row here and a module beside `local`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from viewstore.shards.engine import Executor
from viewstore.shards.engine_ray import run_ray
from viewstore.shards.local import run_local
from viewstore.shards.place import local_devices
from viewstore.shards.ray_cluster import check_ray


class ExecutorRow(NamedTuple):
    """An executor, and what refuses before anything is read what it cannot run on."""

    run: Executor
    check: Callable[[str], object]  # given the devices of --device


EXECUTORS: Mapping[str, ExecutorRow] = {
    "local": ExecutorRow(run_local, local_devices),
    "ray": ExecutorRow(run_ray, check_ray),
}
