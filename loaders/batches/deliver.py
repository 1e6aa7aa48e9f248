"""Turns filled drafts into batches: pixels as tensors, views with params, status and origin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewstore.images.policies import Drawn
from viewstore.loaders.batches.batch import Batch, View, ViewParams
from viewstore.loaders.batches.cached import CachedDelivery, filled
from viewstore.loaders.batches.draft import bounds_of
from viewstore.loaders.batches.linked import LinkedDelivery
from viewstore.loaders.plan.cut import Cut
from viewstore.loaders.plan.slots import OnlineSlot, Slot
from viewstore.loaders.plan.state import State

if TYPE_CHECKING:
    from viewstore.loaders.batches.draft import Draft


def online_views(
    slot: OnlineSlot, pixels: Sequence[Tensor], drawn: Drawn, colourless: bool
) -> list[View]:
    """Return the views of a slot that was rendered from source images, of one batch after another.

    `pixels` are those of each batch, `drawn` the params of all of them.
    """
    return [
        View(
            pixels=tensor,
            params=ViewParams(tuple(drawn), partial(_drawn_column, drawn, begin, end)),
            status=filled(len(tensor), 1, np.uint8),
            role=slot.policy.role,
            parent=filled(len(tensor), -1, np.int64),
            view=filled(len(tensor), slot.slot, np.int64),
            source=f"online:{slot.policy.name}",
            colourless=colourless,
        )
        for tensor, (begin, end) in zip(pixels, bounds_of([len(p) for p in pixels]), strict=True)
    ]


def _drawn_column(drawn: Drawn, begin: int, end: int, name: str) -> Tensor:
    return torch.from_numpy(drawn[name][begin:end].copy())


def absent_view(slot: Slot) -> View:
    """Return what stands in a batch for the views of a slot that its step does not show."""
    then = "" if slot.then is None else f"+{slot.then}"
    return View(
        pixels=torch.empty((0, slot.channels, slot.height, slot.width), dtype=torch.uint8),
        params={},
        status=filled(0, 0, np.uint8),
        role=slot.role,
        parent=filled(0, 0, np.int64),
        view=filled(0, 0, np.int64),
        source=f"{'online' if slot.kind == 'online' else 'cached'}:{slot.name}{then}",
        parent_slot=slot.parent_slot,
        absent=True,
    )


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """Makes batches of filled drafts.

    Attributes:
        cached: The slots of each view set.
        online: The slots that are rendered from source images.
        linked: The slots that are rendered on other slots, ascending.
        labels: Label of each row.
        cut: The cut of the steps.
        state: The loader's state, at whatever step.
        late: Slots whose colours are not made yet.
        slots: What each slot is, by number.
    """

    cached: Sequence[Sequence[CachedDelivery]]
    online: Sequence[OnlineSlot]
    linked: Sequence[LinkedDelivery]
    labels: NDArray[np.int32]
    cut: Cut
    state: State
    late: frozenset[int]
    slots: Sequence[Slot]

    def batches(self, draft: Draft) -> list[Batch]:
        """Return the batches of a filled draft.

        Next to the copying of small views each call into torch counts: what all batches have is
        made once for all of them, and split.
        """
        rows, sizes = draft.rows, draft.sizes
        columns = zip(
            torch.from_numpy(rows.copy()).split_with_sizes(sizes),
            torch.from_numpy(self.labels[rows].astype(np.int64)).split_with_sizes(sizes),
            torch.from_numpy(draft.valid).split_with_sizes(sizes),
            zip(*self._views(draft), strict=True),
            strict=True,
        )
        return [
            Batch(
                views=views,
                index=index,
                label=label,
                valid=valid,
                weight=self.cut.weight(step),
                epoch=draft.epoch,
                step=step,
                state=self.state.at(draft.epoch, step + 1, steps=self.cut.steps).to_json(),
            )
            for step, (index, label, valid, views) in zip(draft.steps, columns, strict=True)
        ]

    def _views(self, draft: Draft) -> list[list[View]]:
        """Return the views of each slot, for one batch after another."""
        plan = draft.plan
        pixels = {
            slot: torch.from_numpy(buffer.transpose(0, 3, 1, 2)).split_with_sizes(draft.sizes)
            for slot, buffer in enumerate(draft.buffers)
            if slot not in draft.skipped
        }
        views: dict[int, list[View]] = {}
        for slots, numbers, then in zip(self.cached, plan.views, plan.then, strict=True):
            for slot, mine, drawn in zip(slots, numbers.T, then, strict=True):
                if slot.slot in draft.skipped:
                    continue
                tensors, late = pixels[slot.slot], slot.slot in self.late
                views[slot.slot] = slot.views(tensors, plan.rows, mine.copy(), drawn, late)
        for online, drawn in zip(self.online, plan.online, strict=True):
            if online.slot not in draft.skipped:
                mine, late = pixels[online.slot], online.slot in self.late
                views[online.slot] = online_views(online, mine, drawn, late)
        for linked in self.linked:
            if linked.slot.slot not in draft.skipped:
                mine, below = pixels[linked.slot.slot], views[linked.slot.on]
                views[linked.slot.slot] = linked.views(mine, plan, below)
        for number in draft.absent:
            views[number] = [absent_view(self.slots[number]) for _ in draft.sizes]
        return [views[number] for number in range(len(self.slots))]
