"""The executors by name: a new one is a row here and a module beside `local`."""

from __future__ import annotations

from collections.abc import Mapping

from viewstore.shards.engine import Executor
from viewstore.shards.local import run_local

EXECUTORS: Mapping[str, Executor] = {"local": run_local}
