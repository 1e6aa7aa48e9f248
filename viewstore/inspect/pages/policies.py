"""What draws the params of a view set anew, and the policies that its generator draws from."""

from __future__ import annotations

from viewstore.inspect.augmentation import Replays
from viewstore.inspect.pages.memory import Memory
from viewstore.inspect.pages.page import Facts
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet


def kept_replays(site: Memory, store: Store, view_set: ViewSet) -> Replays | None:
    """Return what draws the params of a view set anew; None: nothing does."""
    found: Replays | None = site.facts.get(
        ("replays", view_set.index.root), lambda: site.replays(store, view_set)
    )
    return found


def policy_facts(replays: Replays) -> list[Facts]:
    """Return each policy once as values, with the numbers of its views."""
    found: list[Facts] = []
    for view, values in enumerate(replays.policies):
        same = next((each for each in found if each["values"] == values), None)
        if same is not None:
            same["views"].append(view)
        elif values:
            found.append({"views": [view], "values": dict(values)})
    return found
