"""Delivers the views of slots that are rendered on other slots: params, origin, where they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from viewstore.loaders.batches.batch import View, ViewParams
from viewstore.loaders.batches.cached import CachedDelivery, Sizes, filled
from viewstore.loaders.batches.draft import bounds_of
from viewstore.loaders.plan.ahead import SamplePlan
from viewstore.loaders.plan.slots import LinkedSlot, OnlineSlot
from viewstore.loaders.render.layered import Placement, delivered_params

Place = Callable[[SamplePlan], Placement]  # where the views of a slot lie


class LinkedDelivery:
    """Delivers the views of one slot that is rendered on another one.

    Attributes:
        slot: The slot.
    """

    def __init__(self, slot: LinkedSlot, number: int, below: Place) -> None:
        """Deliver `slot`, the one with index `number` in plans; `below` is that of its `on`."""
        self.slot = slot
        self._number = number
        self._below = below
        self._public = slot.public

    def place(self, plan: SamplePlan) -> Placement:
        """Return where the views of this slot lie."""
        return self._below(plan).rendered(plan.on[self._number], self.slot.size)

    def views(
        self, pixels: Sequence[Tensor], plan: SamplePlan, below: Sequence[View]
    ) -> list[View]:
        """Return the views of one batch after another.

        `pixels` are those of each batch, `plan` is that of all of them, `below` the views that
        each was rendered on: they pass on their status.
        """
        bounds = bounds_of([len(each) for each in pixels])
        return [
            View(
                pixels=tensor,
                params=ViewParams(
                    self._public.columns, partial(self._column, plan.part(begin, end))
                ),
                status=parent.status.clone(),
                role=self._public.role,
                parent=parent.view.clone(),
                view=filled(len(tensor), self.slot.slot, np.int64),
                source=f"online:{self._public.name}",
                parent_slot=self.slot.on,
            )
            for tensor, (begin, end), parent in zip(pixels, bounds, below, strict=True)
        ]

    def _column(self, plan: SamplePlan, name: str) -> Tensor:
        drawn = plan.on[self._number]
        if name in ("crop_box", "crop_local"):
            drawn = delivered_params(self.slot, drawn, self._below(plan))
        return torch.from_numpy(drawn[name].copy())


def linked_deliveries(
    linked: Sequence[LinkedSlot],
    cached: Sequence[Sequence[CachedDelivery]],
    online: Sequence[OnlineSlot],
    sizes: Sizes,
) -> list[LinkedDelivery]:
    """Return what delivers each of `linked`.

    Args:
        linked: The slots, ascending.
        cached: What delivers the slots of each view set.
        online: The slots that are rendered from source images.
        sizes: Returns height and width of the source images of rows.
    """
    places: dict[int, Place] = {}
    for group, slots in enumerate(cached):
        for column, each in enumerate(slots):
            places[each.slot] = partial(_cached_place, each, group, column)
    for number, slot in enumerate(online):
        places[slot.slot] = partial(_online_place, slot, number, sizes)
    found = []
    for number, slot in enumerate(linked):
        delivery = LinkedDelivery(slot, number, places[slot.on])
        places[slot.slot] = delivery.place
        found.append(delivery)
    return found


def _cached_place(delivery: CachedDelivery, group: int, column: int, plan: SamplePlan) -> Placement:
    return delivery.placement(plan.rows, plan.views[group][:, column], plan.then[group][column])


def _online_place(slot: OnlineSlot, number: int, sizes: Sizes, plan: SamplePlan) -> Placement:
    return Placement.in_source(plan.online[number], *sizes(plan.rows), slot.size)
