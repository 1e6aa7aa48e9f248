"""Plans what samples of one store show: views by their choosers, and the draws of their slots."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from viewstore.images.policies import Drawn
from viewstore.loaders.batches.store_views import StoreViews
from viewstore.loaders.plan.ahead import SamplePlan
from viewstore.loaders.plan.choose import choosers
from viewstore.loaders.plan.schedule import Missing
from viewstore.loaders.plan.slots import CachedSlots, LinkedSlot
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
            FormatError: A view was not made, and `missing` does not replace it, or a view has too
                few children for the slots that follow it.
        """
        stream = Stream(self._seed, epoch, AUGMENT)
        return SamplePlan(
            rows=rows,
            views=self._choose(rows, epoch),
            online=self._views.online.draw(stream, rows),
            then=[_draw_then(slots, stream, rows) for slots in self._views.cached],
            on=[_draw_on(slot, stream, rows) for slot in self._views.linked],
        )

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
