"""Whether work fits: bytes on the disk of a folder, raw views in members and shards.

Builds, dry runs and exports call it before they write anything.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from viewstore.costs.estimate import size
from viewstore.errors import ConfigError, UnavailableError, ViewStoreError
from viewstore.format.plan import Plan
from viewstore.format.tar import BLOCK, MEMBER_BYTES, NPY_BYTES, SHARD_BYTES, strided_layout


def shard_bytes(plan: Plan) -> int:
    """Return an upper bound of the bytes of a shard: raw pixels and uncompressed params."""
    pixels = plan.views * plan.height * plan.width * plan.channels
    pixels = pixels if plan.kind == "pixels" else 0
    overhead = (len(plan.members) * 2 + 1) * BLOCK + plan.json_bytes
    params = sum(column.row_bytes for column in plan.columns)
    return len(plan.shard_range(0)) * (pixels + overhead) + plan.shard_rows * params


def free_bytes(folder: Path) -> int:
    """Return the bytes that are free on the disk of `folder`, which need not exist yet."""
    return shutil.disk_usage(existing_folder(folder)).free


def existing_folder(folder: Path) -> Path:
    """Return `folder`, or the nearest folder above it that exists."""
    return next(each for each in (folder, *folder.absolute().parents) if each.is_dir())


def check_free_bytes(
    folder: Path,
    needed: int,
    *,
    needed_by: str,
    fix: str,
    why: str | None = None,
    error: type[ViewStoreError] = UnavailableError,
) -> None:
    """Raise `error` unless the disk of `folder` has `needed` bytes free.

    Args:
        folder: Where files will be written; it need not exist yet.
        needed: Bytes.
        needed_by: What needs them, with its verb: "the export needs".
        fix: What the user can do about it.
        why: The rule behind it, if there is one.
        error: What is raised, which decides the exit code.
    """
    free = free_bytes(folder)
    if free < needed:
        raise error(
            f"the disk has {size(free)} free, {needed_by} {size(needed)}",
            code="VS302",
            where=str(folder),
            why=why,
            fix=fix,
        )


def check_size(plan: Plan) -> None:
    """Check that raw views fit into a tar member (16 MiB) and a shard (2 GiB).

    Encoded views are not checked: their size is known only once they are made.

    Raises:
        ConfigError: The raw views of a sample or of a shard are larger.
    """
    shape = (plan.views, plan.height, plan.width, plan.channels)
    layout = strided_layout(plan.members, plan.json_bytes, shape)
    if layout is None:
        return  # encoded views
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
