"""The executors by name: a new one is a row here and a module beside `local`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from viewstore.shards.engine import Executor
from viewstore.shards.engine_ray import run_ray
from viewstore.shards.local import run_local
from viewstore.shards.place import local_devices
from viewstore.shards.ray_cluster import check_ray

EXECUTORS: Mapping[str, Executor] = {"local": run_local, "ray": run_ray}

# What each refuses before anything is read, given the devices of --device.
CHECKS: Mapping[str, Callable[[str], object]] = {"local": local_devices, "ray": check_ray}
