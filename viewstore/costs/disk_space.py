"""Whether shards fit: under the limits of members and tars, and on the disk."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from viewstore.errors import ConfigError, UnavailableError
from viewstore.format.plan import Plan
from viewstore.format.tar import BLOCK, MEMBER_BYTES, NPY_BYTES, SHARD_BYTES, strided_layout


def shard_bytes(plan: Plan) -> int:
    """Return an upper bound of a shard's size on disk: raw pixels and uncompressed params."""
    pixels = plan.views * plan.height * plan.width * plan.channels
    overhead = (len(plan.members) * 2 + 1) * BLOCK + plan.json_bytes
    params = sum(column.row_bytes for column in plan.columns)
    return len(plan.shard_range(0)) * (pixels + overhead) + plan.shard_rows * params


def check_room(path: Path, plan: Plan) -> None:
    """Raise UnavailableError unless the disk has room for two more shards."""
    needed = 2 * shard_bytes(plan)
    free = shutil.disk_usage(path).free
    if free < needed:
        raise UnavailableError(
            f"the disk has {free >> 20} MiB free, two shards need {needed >> 20} MiB",
            code="VS302",
            where=str(path),
            why="every committed shard is kept",
            fix="free some space and run the same command again",
        )


def check_size(plan: Plan) -> None:
    """Raise ConfigError if raw views would be larger than a member or a shard may be."""
    shape = (plan.views, plan.height, plan.width, plan.channels)
    layout = strided_layout(plan.members, plan.json_bytes, shape)
    if layout is None:
        return  # how large a jpg or png is shows only once it is made
    sample, shard = NPY_BYTES + math.prod(shape), len(plan.shard_range(0)) * layout.stride
    if sample > MEMBER_BYTES:
        raise ConfigError(
            f"raw views of a sample must be at most {MEMBER_BYTES >> 20} MiB, got {sample >> 20}",
            where=plan.view_set,
            fix="give --codec jpg or png, or fewer or smaller views",
        )
    if shard > SHARD_BYTES:
        raise ConfigError(
            f"a shard must be at most {SHARD_BYTES >> 20} MiB, {plan.shard_rows} rows of raw "
            f"views are {shard >> 20}",
            where=plan.view_set,
            why="all view sets of a store have the same --shard-rows",
            fix="give --codec jpg, or build into another --out with smaller --shard-rows",
        )
