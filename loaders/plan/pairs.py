"""Views beside the views that they were made from: they must be shown by the same numbers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from viewstore.errors import ConfigError
from viewstore.loaders.plan.slots import CachedSlots
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet


def check_pairs(cached: Sequence[CachedSlots], store: Store) -> None:
    """Raise ConfigError where views stand beside views of their parent, and pair by accident.

    The schedule shows views of equal numbers of all sets that have as many views and as many
    slots: only then is a view beside the one that it was made from. A parent of a single view is
    beside each of its children.
    """
    for child, parent in itertools.permutations(cached, 2):
        for above, below in itertools.product(parent.group.view_sets, child.group.view_sets):
            if above.name in _ancestors(below, store) and not _agree(child, below, parent, above):
                raise ConfigError(
                    f"views of {below.name} were made from views of {above.name}, and would stand "
                    f"beside any of them: {len(child.slots)} of {below.num_views} views are shown "
                    f"beside {len(parent.slots)} of {above.num_views}",
                    why="views pair by their numbers only where both view sets have as many "
                    "views, each made from the one of its number, as many slots and one pick",
                    fix=f"show as many views of {below.name} as of {above.name}, or one of them",
                )


def _ancestors(view_set: ViewSet, store: Store) -> Iterator[str]:
    """Yield the name of the parent of a view set, of its parent, and so on, as far as known."""
    for _ in store.view_sets:  # no chain is longer
        if view_set.plan.parent is None:
            return
        name = view_set.plan.parent["view_set"]
        yield name
        if name not in store.view_sets:
            return
        view_set = store.view_sets[name]


def _agree(child: CachedSlots, below: ViewSet, parent: CachedSlots, above: ViewSet) -> bool:
    """Whether each slot of `below` shows children of the view in the same slot of `above`."""
    if above.num_views == 1:
        return True
    if child.group.mixed or parent.group.mixed:  # another slot may show another set
        return False
    scheduled = (below.num_views, len(child.slots), child.pick)
    if scheduled != (above.num_views, len(parent.slots), parent.pick):
        return False
    if "parent" not in below.params:
        return True
    numbers = below.params["parent"]
    return bool(((numbers < 0) | (numbers == np.arange(below.num_views))).all())
