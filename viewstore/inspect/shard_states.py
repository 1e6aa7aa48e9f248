"""What became of each shard: its views by status, its faults, and in one word the worst of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from viewstore.format.columns import Status
from viewstore.inspect.issues import Issue
from viewstore.store.faults import Fault
from viewstore.store.lineage import stale_shards
from viewstore.store.over_views import over_views
from viewstore.store.published import linked
from viewstore.store.store import Store
from viewstore.store.verify import verify
from viewstore.store.view_set import ViewSet

# From good to bad.
STATE_MEANINGS = {
    "ok": "nothing is wrong that records and columns tell",
    "flawed": "some of its rows have an issue of another kind",
    "off goal": "some of its views missed their goal",
    "failed": "some of its views failed, or are black",
    "damaged": "verify --quick finds a fault in it, or it is stale",
    "not built": "it is absent, or some of its views were never written",
}
BY_STATUS = {"off goal", "failed", "black", "without a view", "unreadable", "not built"}


@dataclass(frozen=True, kw_only=True)
class ShardState:
    """One shard of a view set.

    Attributes:
        shard: Its number.
        first, last: Its first row, and that behind its last.
        state: One of STATE_MEANINGS, the worst of it.
        views: Number of its views by status, [5].
        flawed: Rows with an issue of a kind that no status tells.
        faults: What verify says of it.
    """

    shard: int
    first: int
    last: int
    state: str
    views: tuple[int, ...]
    flawed: int
    faults: tuple[str, ...]


def quick_faults(store: Store) -> list[Fault]:
    """Return what `verify --quick` finds; of a remote store what its records tell.

    Of a remote store those are the shards that are absent or stale: the sizes of its files would
    have to be asked for one by one.

    Raises:
        UnavailableError: What would read the store is not installed.
    """
    if store.remote:
        return [fault for each in store.view_sets.values() for fault in _recorded(store, each)]
    return list(verify(store.root, level="quick"))


def _recorded(store: Store, view_set: ViewSet) -> Iterator[Fault]:
    inputs = linked(view_set.plan, store.view_sets)
    stale = set() if inputs is None else set(stale_shards(view_set, inputs))
    for shard in range(view_set.plan.shards):
        where = view_set.files.where(view_set.paths.index)
        if shard not in view_set.shards:
            what = "the index does not have it"
            yield Fault(view_set=view_set.name, shard=shard, kind="missing", path=where, what=what)
        elif shard in stale:
            what = "it was made from other bytes than are there now"
            yield Fault(view_set=view_set.name, shard=shard, kind="stale", path=where, what=what)


def shard_states(
    view_set: ViewSet, issues: Sequence[Issue], faults: Sequence[Fault]
) -> list[ShardState]:
    """Return the state of every shard of a view set, by number."""
    plan = view_set.plan
    status = view_set.params["status"].reshape(plan.rows, -1)
    starts = np.arange(0, plan.rows, plan.shard_rows)
    views = np.stack(
        [np.add.reduceat(over_views(np.add, status == each, np.int64), starts) for each in Status],
        1,
    )
    flawed = np.zeros(plan.shards, np.int64)
    flawed_rows = [
        each.rows
        for each in issues
        if each.view_set == view_set.name and each.kind not in BY_STATUS
    ]
    if flawed_rows:
        rows = np.unique(np.concatenate(flawed_rows))
        flawed = np.bincount(rows // plan.shard_rows, minlength=plan.shards)
    told: dict[int, list[str]] = {}
    for fault in faults:
        if fault.view_set == view_set.name and fault.shard is not None:
            told.setdefault(fault.shard, []).append(f"{fault.kind}: {fault.what}")
    found = []
    for shard in range(plan.shards):
        counts, texts = tuple(views[shard].tolist()), tuple(told.get(shard, ()))
        rows_of = plan.shard_range(shard)
        found.append(
            ShardState(
                shard=shard,
                first=rows_of.start,
                last=rows_of.stop,
                state=_worst(counts, int(flawed[shard]), texts),
                views=counts,
                flawed=int(flawed[shard]),
                faults=texts,
            )
        )
    return found


def _worst(views: Sequence[int], flawed: int, faults: Sequence[str]) -> str:
    if views[Status.NEVER_WRITTEN]:
        return "not built"
    if faults:
        return "damaged"
    if views[Status.FAILED] or views[Status.UNREADABLE]:
        return "failed"
    if views[Status.GOAL_NOT_MET]:
        return "off goal"
    return "flawed" if flawed else "ok"
