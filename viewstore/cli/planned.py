"""What `build --plan` answers: units, bytes and, where shards are there, seconds."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viewstore.cli.text import duration
from viewstore.errors import ConfigError, counted
from viewstore.shards.place import CPU

if TYPE_CHECKING:
    from viewstore.format.plan import Plan

HOW_SHARDS_ARE_BUILT = ("dry_run", "sample", "shard", "only", "workers", "executor", "grace")
WHAT_CAME_OF_THEM = ("max_failures", "max_missed")


def check_alone(given: set[str]) -> None:
    """Raise ConfigError if an option is `given` that is about shards being built: none is."""
    wrong = [name for name in (*HOW_SHARDS_ARE_BUILT, *WHAT_CAME_OF_THEM) if name in given]
    if wrong:
        named = " and ".join("--" + name.replace("_", "-") for name in wrong)
        raise ConfigError(
            f"{named} cannot be given with --plan, which builds no shard",
            fix=f"leave {named} out here, and give the builds that follow what they need",
        )


def plan_facts(
    out: Path | str, plan: Plan, files: Mapping[str, Path], device: str
) -> dict[str, Any]:
    """Return what is to be built of a plan, from its layout and from the commits that are there.

    `files` and `device` are what the networks of its builders need beside it.
    """
    from viewstore.build.going_on import command_words
    from viewstore.costs.disk_space import free_bytes
    from viewstore.costs.estimate import most_bytes
    from viewstore.files.working_copy import store_at
    from viewstore.format.paths import StorePaths
    from viewstore.store.committed import read_commits

    with store_at(out, rows=False) as (root, _):
        commits = read_commits(StorePaths(root).view_set(plan.view_set), plan)
    left = [shard for shard in range(plan.shards) if shard not in commits]
    seconds = [commit.seconds for commit in commits.values()]
    unit = statistics.median(seconds) if seconds else None
    return {
        "store": str(out),
        "view_set": plan.view_set,
        "plan_id": plan.id,
        "samples": plan.rows,
        "views": plan.views,
        "codec": plan.form,
        "shards": plan.shards,
        "shard_rows": plan.shard_rows,
        "left_shards": len(left),
        "left_samples": sum(len(plan.shard_range(shard)) for shard in left),
        "most_bytes": most_bytes(plan),
        "shard_bytes": most_bytes(plan) // plan.shards,
        "free_bytes": None if isinstance(out, str) else free_bytes(out),  # a bucket has no end
        "shard_seconds": unit,
        "seconds": None if unit is None else unit * len(left),
        "command": command_words(plan, str(out), {role: str(file) for role, file in files.items()})
        + ([] if device == CPU else ["--device", device]),
    }


def plan_text(facts: Mapping[str, Any]) -> str:
    """Return the same for people."""
    from viewstore.costs.estimate import size

    there = facts["shards"] - facts["left_shards"]
    if facts["shard_seconds"] is None:
        time = "not known before a shard is built; --dry-run in place of --plan measures it"
    else:
        time = (
            f"{duration(facts['shard_seconds'])} a shard, {duration(facts['seconds'])} in all by "
            f"one worker, by the median of {counted(there, 'shard')}"
        )
    free = "" if facts["free_bytes"] is None else f"; {size(facts['free_bytes'])} free"
    bound = "" if facts["codec"] == "raw" else "at most "
    return "\n".join(
        [
            f"{facts['view_set']}: {counted(facts['samples'], 'sample')} of "
            f"{counted(facts['views'], 'view')} planned; nothing was rendered",
            f"  shards     {counted(facts['shards'], 'shard')} of up to "
            f"{counted(facts['shard_rows'], 'sample')}; {facts['left_shards']} to build",
            f"  disk       {bound}{size(facts['most_bytes'])} as {facts['codec']}, a shard "
            f"{bound}{size(facts['shard_bytes'])}{free}",
            f"  time       {time}",
            f"to build it: {shlex.join(facts['command'])}",
            "with --shard I/N that builds one slice of N; the plan has source, limit and settings",
        ]
    )
