"""Which rows have something to show: rows of which every view failed are left out of all orders."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, ViewStoreError
from viewstore.format.columns import MADE, Status
from viewstore.format.plan import SOURCE
from viewstore.loaders.plan.rows import Rows
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet


def all_made(view_set: ViewSet) -> bool:
    """Whether every view of a view set was made."""
    found = view_set.stats.get("status")
    if found is None or found.fill or found.min is None or found.max is None:
        return False
    return min(MADE) <= found.min and found.max <= max(MADE)


def leave_out(
    store: Store, selected: Rows | None, shown: Iterable[ViewSet], *, online: bool
) -> tuple[Rows | None, int]:
    """Return the rows that have something to show in each slot, and how many were left out.

    A row is left out where the making of all its views of a view set failed. Views of a shard that
    was not built yet are no failure: `missing` says what becomes of them.

    Args:
        store: The store.
        selected: The ascending rows of a filter; None: all.
        shown: The view sets that slots show.
        online: Whether slots show source images, which may have been unreadable for a build.

    Raises:
        ConfigError: No row is left.
    """
    failed = np.zeros(store.num_samples, np.bool_)
    for view_set in shown:
        if _may_hold(view_set, Status.FAILED):
            failed |= (_status(view_set) >= Status.FAILED).all(axis=1)
    if online:
        failed |= _unreadable(store)
    rows = np.arange(store.num_samples, dtype=np.int64) if selected is None else selected
    left = rows[~failed[rows]]
    if len(left) == len(rows):
        return selected, 0
    if not len(left):
        raise ConfigError(
            f"none of {len(rows)} rows has a view that was made",
            where=store.location,
            why="the images could not be read, or their views failed, when the store was built",
            fix=f"viewstore verify {store.location} --repair --failed",
        )
    return left, len(rows) - len(left)


def _unreadable(store: Store) -> NDArray[np.bool_]:
    """Return whether the source image of each row could not be read whenever it was needed, [N].

    View sets that are not shown can only say more of rows, or nothing: an image that one of them
    was made from can be read, so that new ones leave the rows of a loader as they were. Columns
    that describe views say nothing of the images.
    """
    unreadable = np.zeros(store.num_samples, np.bool_)
    readable = unreadable.copy()
    view_sets = [
        each for each in store.view_sets.values() if each.kind != "columns" or each.of == SOURCE
    ]
    if not any(_says(view_set, Status.UNREADABLE) for view_set in view_sets):
        return unreadable
    for view_set in view_sets:
        if view_set.kind == "recipe" and "pixel_crc" not in view_set.params:
            continue  # its params were drawn without a look at any image
        with suppress(ViewStoreError):  # one that is not shown may be damaged
            status = _status(view_set)
            unreadable |= (status == Status.UNREADABLE).all(axis=1)
            readable |= np.isin(status, MADE).any(axis=1)
    return unreadable & ~readable


def _says(view_set: ViewSet, status: Status) -> bool:
    with suppress(ViewStoreError):
        return _may_hold(view_set, status)
    return False


def _may_hold(view_set: ViewSet, status: Status) -> bool:
    """Whether a view set has views of this status, or worse."""
    found = view_set.stats.get("status")
    return found is None or (found.max is not None and found.max >= status)


def _status(view_set: ViewSet) -> NDArray[np.uint8]:
    """Return the status of each view, [N, V]."""
    if "status" not in view_set.params:
        return np.full((len(view_set), view_set.num_views), Status.OK, np.uint8)
    return np.asarray(view_set.params["status"])
