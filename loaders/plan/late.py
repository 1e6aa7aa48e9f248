"""Slots whose colours are made after the loader's threads: those are given crop and flip alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from viewstore.images.colours import COLOUR_COLUMNS
from viewstore.images.operators.recorded import OPS_COLUMNS
from viewstore.loaders.plan.slots import CachedSlots, LinkedSlot, OnlineSlot, RecordedSlot

Photometric = Literal["cpu", "device", "caller"]


def late_slots(
    cached: Sequence[CachedSlots],
    online: Sequence[OnlineSlot],
    recorded: Sequence[RecordedSlot],
    linked: Sequence[LinkedSlot],
) -> frozenset[int]:
    """Return the slots that have a colourless form: their last step is the colours of a policy.

    Those are online slots, slots with `then`, and recipe sets whose colours are delivered; not
    views that are stored with their colours, nor those of operators, which work on coloured
    pixels, nor what other slots are rendered on.
    """
    layered = [then for each in cached for then in each.then if then is not None]
    found = {
        slot.slot
        for slot in (*online, *layered)
        if _come_last({column.name for column in slot.policy.columns})
    }
    for slot in recorded:
        group = cached[slot.group]
        stored = group.group.view_sets[0].rendering.renderer.columns
        if _come_last(stored) and _come_last(group.params):
            found.add(slot.slot)
    below = {slot.on for slot in recorded} | {slot.on for slot in linked}
    return frozenset(found) - below


def _come_last(names: Collection[str]) -> bool:
    """Whether params say colours, and no operators that come after them."""
    return set(COLOUR_COLUMNS) <= set(names) and not set(OPS_COLUMNS) & set(names)
