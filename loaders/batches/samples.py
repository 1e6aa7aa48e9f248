"""Plans what samples of one store show: views by their choosers, and the draws of their slots."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from viewstore.images.policies import Drawn
from viewstore.loaders.batches.store_views import StoreViews
from viewstore.loaders.plan.ahead import SamplePlan
from viewstore.loaders.plan.choose import choosers
from viewstore.loaders.plan.schedule import Missing
from viewstore.loaders.plan.slots import CachedSlots, LinkedSlot, RecordedSlot
from viewstore.loaders.render.online import draw_slots
from viewstore.randomness import AUGMENT, Stream


class SamplePlanner:
    """The `PlanSamples` of one store.

    An object of its own: a planner that held its maker would keep it until the collector of
    cycles runs, with its threads and its copies of view sets.
    """

    def __init__(self, views: StoreViews, *, seed: int, missing: Missing) -> None:
        """Plan samples of `views`; `missing` says what to do about views that were not made."""
        self._views, self._seed = views, seed
        self._choosers = choosers(views.cached, seed=seed, missing=missing)

    def __call__(self, rows: NDArray[np.int64], epoch: int) -> SamplePlan:
        """Return the views and draws of rows, [B].

        Raises:
            FormatError: A view was not made, and `missing` does not replace it, a view has too
                few children for the slots that follow it, or recorded params are damaged.
        """
        stream = Stream(self._seed, epoch, AUGMENT)
        views = self._choose(rows, epoch)
        recorded = [self._recorded(slot, rows, views) for slot in self._views.recorded]
        sizes = self._views.images.sizes(rows)
        return SamplePlan(
            rows=rows,
            views=views,
            online=draw_slots(self._views.online, stream, rows, *sizes),
            recorded=[drawn for drawn, _ in recorded],
            made=[made for _, made in recorded],
            then=[_draw_then(slots, stream, rows) for slots in self._views.cached],
            on=[_draw_on(slot, stream, rows) for slot in self._views.linked],
        )

    def _recorded(
        self, slot: RecordedSlot, rows: NDArray[np.int64], views: list[NDArray[np.int64]]
    ) -> tuple[Drawn, NDArray[np.bool_]]:
        """Return the params of the views that a slot shows, and which of them were made."""
        (view_set,) = self._views.cached[slot.group].group.view_sets
        shown = views[slot.group][:, slot.column, None]
        params, made = view_set.rendering.params(rows, shown)
        return {name: values[:, 0] for name, values in params.items()}, made[:, 0]

    def _choose(self, rows: NDArray[np.int64], epoch: int) -> list[NDArray[np.int64]]:
        """Return the views of each group, whose first slots ascend: followed ones come first."""
        shown: dict[int, NDArray[np.int64]] = {}
        found = []
        for slots, choose in zip(self._views.cached, self._choosers, strict=True):
            views = choose(epoch, rows, shown)
            shown |= dict(zip(slots.slots, views.T, strict=True))
            found.append(views)
        return found


def _draw_then(slots: CachedSlots, stream: Stream, rows: NDArray[np.int64]) -> list[Drawn]:
    layered = [then for then in slots.then if then is not None]
    drawn = iter(draw_slots(layered, stream, rows, slots.group.height, slots.group.width))
    return [{} if then is None else next(drawn) for then in slots.then]


def _draw_on(slot: LinkedSlot, stream: Stream, rows: NDArray[np.int64]) -> Drawn:
    (drawn,) = draw_slots([slot], stream, rows, *slot.within)
    return drawn
