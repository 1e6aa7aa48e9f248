"""Plans what samples of one store show: views by the schedule, and the draws of their slots."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from viewstore.images.policies import Drawn
from viewstore.loaders.batches.store_views import StoreViews
from viewstore.loaders.plan.ahead import SamplePlan
from viewstore.loaders.plan.mixed import GroupSchedule
from viewstore.loaders.plan.schedule import Missing
from viewstore.loaders.plan.slots import CachedSlots
from viewstore.loaders.render.online import draw_slots
from viewstore.randomness import AUGMENT, Stream


class SamplePlanner:
    """The `PlanSamples` of one store.

    An object of its own: a planner that held its maker would keep it until the collector of
    cycles runs, with its threads and its copies of view sets.
    """

    def __init__(self, views: StoreViews, *, seed: int, missing: Missing) -> None:
        """Plan samples of `views`; `missing` says what to do about views that were not made."""
        self._views, self._seed, self._missing = views, seed, missing
        self._cached = list(zip(views.cached, views.readers, strict=True))
        self._schedules = [
            GroupSchedule(slots.group, seed=seed, slots=slots.slots, pick=slots.pick)
            for slots in views.cached
        ]

    def __call__(self, rows: NDArray[np.int64], epoch: int) -> SamplePlan:
        """Return the views and draws of rows, [B].

        Raises:
            FormatError: A view was not made, and `missing` does not replace it.
        """
        stream = Stream(self._seed, epoch, AUGMENT)
        return SamplePlan(
            rows=rows,
            views=[self._choose(number, rows, epoch) for number in range(len(self._cached))],
            online=self._views.online.draw(stream, rows),
            then=[_draw_then(slots, stream, rows) for slots in self._views.cached],
        )

    def _choose(self, number: int, rows: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        slots, reader = self._cached[number]
        if reader.all_usable:
            return self._schedules[number].views(epoch, rows)
        return reader.choose(
            rows,
            seed=self._seed,
            epoch=epoch,
            slots=slots.slots,
            pick=slots.pick,
            missing=self._missing,
        )


def _draw_then(slots: CachedSlots, stream: Stream, rows: NDArray[np.int64]) -> list[Drawn]:
    layered = [then for then in slots.then if then is not None]
    drawn = iter(draw_slots(layered, stream, rows, slots.group.height, slots.group.width))
    return [{} if then is None else next(drawn) for then in slots.then]
