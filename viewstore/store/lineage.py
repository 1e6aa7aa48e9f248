"""Which bytes of other view sets a shard was made from, and whether those are still the bytes.

A builder records the lineage of each shard; `verify`, and a loader that joins or follows, compute
it again from the present indexes. A shard whose lineage is another one is stale.
"""

from __future__ import annotations

from collections.abc import Mapping

from viewstore.errors import ConfigError, FormatError
from viewstore.files.remedy import on_a_disk
from viewstore.format.manifest import ShardEntry, leaf_hash, lineage_of
from viewstore.format.plan import Plan
from viewstore.store.published import linked
from viewstore.store.view_set import ViewSet


def lineage_now(plan: Plan, shard: int, inputs: Mapping[str, ViewSet]) -> str | None:
    """Return the lineage that a shard of `plan` has if it is made now; None: it has none.

    `inputs` are the view sets that the plan links to, by role.
    """
    if not plan.links:
        return None
    return lineage_of({role: _digest(plan, shard, inputs[role]) for role in plan.links})


def _digest(plan: Plan, shard: int, read: ViewSet) -> str:
    """Return what stands for the bytes of an input of which shard `shard` may be made."""
    if plan.reach == "set":
        return read.index.root
    if shard not in read.shards:
        raise FormatError(f"shard {shard} of {read.name} was not built yet")
    return leaf_hash(read.shards[shard].entry)


def check_fresh(view_set: ViewSet, view_sets: Mapping[str, ViewSet]) -> None:
    """Raise ConfigError where a view set was made from other bytes than `view_sets` hold now.

    `view_sets` are those of its store, by name. Those that it was made from are checked too, and
    those that they were made from.
    """
    store = view_set.files.where(view_set.paths.root.parents[1])
    inputs = linked(view_set.plan, view_sets)
    made_from = " and ".join(link["view_set"] for link in view_set.plan.links.values())
    if inputs is None:
        raise ConfigError(
            f"{made_from} is not the one that {view_set.name} was made from",
            code="VS103",
            where=store,
            why="it was taken out, or built again since with other settings",
            fix=f"build {view_set.name} again, under another --view-set",
        )
    for number in stale_shards(view_set, inputs):
        repair = f"--repair --view-set {view_set.name}"
        raise ConfigError(
            f"shard {number} of {view_set.name} was made from other bytes of {made_from}",
            code="VS206",
            where=store,
            why=f"{made_from} was repaired, or changed, after it was read for {view_set.name}",
            fix=on_a_disk(f"viewstore verify STORE {repair}")
            if view_set.remote
            else f"viewstore verify {store} {repair}",
        )
    for each in inputs.values():
        check_fresh(each, view_sets)


def stale_shards(view_set: ViewSet, inputs: Mapping[str, ViewSet]) -> list[int]:
    """Return the shards of a view set that were made from other bytes than `inputs` hold now."""
    return [
        number
        for number, shard in view_set.shards.items()
        if is_stale(view_set.plan, shard.entry, inputs)
    ]


def is_stale(plan: Plan, entry: ShardEntry, inputs: Mapping[str, ViewSet]) -> bool:
    """Whether a shard was made from other bytes than `inputs` hold now.

    One that an earlier version built has no lineage: nothing says that it is.
    """
    if not plan.links or entry.lineage is None:
        return False
    try:
        return entry.lineage != lineage_now(plan, entry.shard, inputs)
    except FormatError:  # the shard of an input is absent
        return True
