"""Views beside those that they were made from: they follow them, or are shown by their numbers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from viewstore.errors import ConfigError
from viewstore.images.iou_pairs import IouPolicy
from viewstore.loaders.plan.slots import CachedSlots, LinkedSlot, OnlineSlot, Slot
from viewstore.store.lineage import check_fresh
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet


def check_pairs(cached: Sequence[CachedSlots], store: Store) -> None:
    """Raise ConfigError where views stand beside views of their parent, and pair by accident.

    The schedule shows views of equal numbers of all sets that have as many views and as many
    slots: only then is a view beside the one that it was made from. A parent of a single view is
    beside each of its children. Slots that follow another one say themselves what they pair with.
    """
    for child, parent in itertools.permutations(cached, 2):
        if child.follow is not None:
            continue
        for above, below in itertools.product(parent.group.view_sets, child.group.view_sets):
            if above.name in _ancestors(below, store) and not _agree(child, below, parent, above):
                raise ConfigError(
                    f"views of {below.name} were made from views of {above.name}, and would stand "
                    f"beside any of them: {len(child.slots)} of {below.num_views} views are shown "
                    f"beside {len(parent.slots)} of {above.num_views}",
                    why="views pair by their numbers only where both view sets have as many "
                    "views, each made from the one of its number, as many slots and one pick",
                    fix=f"{below.name}/SLOT, in Python Cached({below.name!r}, follow=SLOT), shows "
                    "views made from the one in that slot" + _by_number(below, above),
                )


def _by_number(below: ViewSet, above: ViewSet) -> str:
    """Return what else to do where each view was made from the one of its number, else ""."""
    if below.num_views != above.num_views or not _records_parents(below):
        return ""
    numbers = np.arange(below.num_views)
    if not (below.params.take("parent", np.arange(min(len(below), 64))) == numbers).all():
        return ""
    return f"; or show as many views of {below.name} as of {above.name}"


def check_follows(cached: Sequence[CachedSlots], slots: Sequence[Slot], store: Store) -> None:
    """Raise ConfigError where a slot follows one that does not show what its views were made from.

    Another view set, or other bytes of it than are there now. `slots` are all slots, by number.
    """
    groups = {number: each for each in cached for number in each.slots}
    for child in cached:
        if child.follow is not None:
            _check_follow(child, child.follow, groups.get(child.follow), slots)
            check_fresh(child.group.view_sets[0], store.view_sets)


def _check_follow(
    child: CachedSlots, follow: int, above: CachedSlots | None, slots: Sequence[Slot]
) -> None:
    (below,) = child.group.view_sets
    if not _records_parents(below):
        raise ConfigError(
            f"follow needs to know which view each view was made from, {below.name} does not say",
            why="it has no column parent",
            fix="name a view set that was made from the views of another one",
        )
    plan = below.plan
    parent, plan_id = plan.view_set, plan.id  # without a parent set they are of this one
    if plan.parent is not None:
        parent, plan_id = plan.parent["view_set"], plan.parent["plan_id"]
    is_earlier = follow < child.slots[0]
    shown = above.group.view_sets if above is not None and not above.group.mixed else ()
    if is_earlier and any(each.plan.id == plan_id for each in shown):
        return
    if is_earlier and any(each.name == parent for each in shown):
        raise ConfigError(
            f"{parent} is not the one that {below.name} was made from",
            code="VS103",
            why="it was built again since, with other settings",
            fix=f"build {below.name} again, under another --view-set",
        )
    whose = f", the parent of {below.name}" if plan.parent is not None else ""
    raise ConfigError(
        f"follow must name an earlier slot that shows {parent}{whose}; "
        + _what_is_there(follow, child.slots[0], slots),
        why="slots are numbered from 0 in the order of the views, n of each",
        fix=f"put Cached({parent!r}) before it, and give the number of its slot",
    )


def _what_is_there(number: int, before: int, slots: Sequence[Slot]) -> str:
    """Say what a slot is that cannot be followed by slot `before`."""
    if number >= before:
        return f"slot {number} does not come before slot {before}"
    kinds = {"cached": "", "online": "the online policy ", "mix": "a mix of "}
    return f"slot {number} shows {kinds[slots[number].kind]}{slots[number].name}"


def _records_parents(view_set: ViewSet) -> bool:
    """Whether a view set has the column "parent", in the form of docs/format.md 3.2."""
    column = view_set.params.columns.get("parent")
    return column is not None and (column.dtype, column.shape) == ("i4", (view_set.num_views,))


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
    if parent.follow is not None:  # its views go by another slot, not by the schedule
        return False
    if child.choices is not None or parent.choices is not None:  # nor where they were chosen
        return False
    scheduled = (below.num_views, len(child.slots), child.pick)
    if scheduled != (above.num_views, len(parent.slots), parent.pick):
        return False
    if "parent" not in below.params:
        return True
    numbers = below.params["parent"]
    return bool(((numbers < 0) | (numbers == np.arange(below.num_views))).all())


def check_iou_pairs(cached: Sequence[CachedSlots], rendered: Sequence[OnlineSlot]) -> None:
    """Raise ConfigError where a view of a pair of crops that overlap little has no partner.

    The crops of both are drawn together: their slots show source images, one behind the other.
    """
    layered = [then for each in cached for then in each.then if then is not None]
    online = {each.slot: each.policy for each in rendered if not isinstance(each, LinkedSlot)}
    for slot in (*layered, *rendered):
        policy = slot.policy
        if not isinstance(policy, IouPolicy):
            continue
        other = online.get(policy.partner_of(slot.slot))
        if (
            slot.slot in online
            and isinstance(other, IouPolicy)
            and other.second is not policy.second
            and other.threshold == policy.threshold
            and (other.base.scale, other.base.ratio) == (policy.base.scale, policy.base.ratio)
        ):
            continue
        raise ConfigError(
            f"the policy {policy.name} of slot {slot.slot} shows one of two crops that overlap "
            f"little, and the slot {'before' if policy.second else 'behind'} it does not show the "
            "other one",
            why="both are drawn together, of source images, for slots that are behind one another",
            fix="show Online(first) and Online(second) of one iou_pair(..), in this order",
        )
