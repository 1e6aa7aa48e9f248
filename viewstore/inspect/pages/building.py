"""The Overview of a store whose first build has not ended: how far it is, and no more."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from markupsafe import Markup

from viewstore.errors import counted, ranges
from viewstore.format.paths import StorePaths
from viewstore.inspect.shard_grid import BUILT, WIDE, shard_grid, shards_of_a_cell
from viewstore.store.progress import duration, minute, no_commit_for, store_progress

Facts = dict[str, Any]


def building_facts(paths: StorePaths) -> Facts:
    """Return how far each view set is that has a plan: the numbers of `viewstore status --json`.

    Raises:
        FormatError: A plan is damaged.
    """
    return {name: each.to_json() for name, each in store_progress(paths).items()}


def progress_drawn(found: Facts) -> Facts:
    """Return what templates/progress.html needs beside `building_facts`: words and grids."""
    return {
        "grids": {
            name: Markup(_grid(each["shards"], set(each["missing"]), set(each["slow"])))
            for name, each in found.items()
        },
        "duration": duration,
        "minute": minute,
        "no_commit_for": no_commit_for,
        "ranges": ranges,
        "shards_of_a_cell": shards_of_a_cell,
    }


def _grid(shards: int, missing: Set[int], slow: Set[int]) -> str:
    states = [
        "missing" if shard in missing else "slow" if shard in slow else "committed"
        for shard in range(shards)
    ]
    title = f"{counted(shards, 'shard')}: {len(missing)} missing, {len(slow)} slow"
    return shard_grid(states, BUILT, title=title, across=WIDE)
