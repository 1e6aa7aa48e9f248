"""Which bytes of other view sets a shard was made from, and whether those are still the bytes.

A builder records the lineage of each shard; `verify`, and a loader that joins or follows, compute
it again from the present indexes. A shard whose lineage is another one is stale.
"""

from __future__ import annotations

from collections.abc import Mapping

from viewstore.errors import FormatError
from viewstore.format.manifest import Index, ShardEntry, leaf_hash, lineage_of
from viewstore.format.plan import Plan
from viewstore.store.view_set import ViewSet


def lineage_now(plan: Plan, shard: int, inputs: Mapping[str, ViewSet]) -> str | None:
    """Return the lineage that a shard of `plan` has if it is made now; None: it has none.

    `inputs` are the view sets that the plan links to, by role.
    """
    if not plan.links:
        return None
    return lineage_of({role: _digest(plan, shard, inputs[role].index) for role in plan.links})


def _digest(plan: Plan, shard: int, index: Index) -> str:
    """Return what stands for the bytes of an input of which shard `shard` may be made."""
    if plan.reach == "set":
        return index.root
    for entry in index.shards:
        if entry.shard == shard:
            return leaf_hash(entry)
    raise FormatError(f"shard {shard} of {index.view_set} was not built yet")


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
