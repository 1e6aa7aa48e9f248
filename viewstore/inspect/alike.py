"""Near-duplicate images: the groups in which columns sets put samples, and how far to trust them.

The column "duplicate" of a set about the images has for each sample the first row of its group.
"""

from __future__ import annotations

import numpy as np

from viewstore.errors import counted
from viewstore.inspect.told import about_images
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

GROUP = "duplicate"
COARSE = 32  # pixels of a shorter side, below which hashes of 64 bits say little


def alike_rows(store: Store, row: int) -> dict[str, list[int]]:
    """Return the other rows of each group that a sample is in, ascending, by columns set."""
    found = {}
    for each in about_images(store):
        if GROUP in each.params:
            group = int(each.params.rows(GROUP, np.array([row]))[0])
            if group >= 0:
                rows = np.flatnonzero(each.params[GROUP] == group)
                found[each.name] = rows[rows != row].tolist()
    return found


def groups_words(view_set: ViewSet) -> str:
    """Return how many groups of samples a columns set found, as a sentence; "" if it has none."""
    if GROUP not in view_set.params:
        return ""
    groups = view_set.params[GROUP]
    grouped = groups[groups >= 0]
    count = len(np.unique(grouped))
    beyond = counted(len(grouped) - count, "sample")
    return f"{counted(count, 'group')}, {beyond} beyond the first of each."


def coarse_words(store: Store, view_set: ViewSet) -> str:
    """Return that hashes of pictures so small are coarse, as a sentence; "" of larger ones.

    Args:
        store: Whose images are meant, unless the set describes views.
        view_set: A columns set that tells from hashes what looks alike.
    """
    shown = store.view_sets.get(view_set.of or "")
    while shown is not None and shown.kind == "columns":
        shown = store.view_sets.get(shown.of or "")
    if shown is not None:
        side = min(shown.height, shown.width)
    else:
        side = int(np.median(np.minimum(store.table.height, store.table.width)))
    if side >= COARSE:
        return ""
    return (
        f"Hashes of pictures of {side} px are coarse: what differs in few details counts as alike."
    )
