"""How far samples are from the goal of their view set, and their order by that: the worst first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.format.columns import Status
from viewstore.store.constraints import Constraints, constraints_of
from viewstore.store.verdict import worst_status
from viewstore.store.view_set import ViewSet

ERROR, SHIFT = "x_invert_mse", "anchor_shift"
OFF_BY = "off by"  # name of the number that samples are ranked by; no column can have it
Rows = slice | NDArray[np.int64]  # [begin, end), or these [B]


@dataclass(frozen=True, eq=False)
class Ranking:
    """How the samples of a view set with a goal are ranked.

    Attributes:
        view_set: The view set.
        what: What samples are off by, in words.
        column: The column that says it.
        wanted: The distances that were searched for; None: what the column holds is the number.
    """

    view_set: ViewSet
    what: str
    column: str
    wanted: Constraints | None = None

    def off(self, rows: Rows) -> NDArray[np.float64]:
        """Return how far samples are from their goal, the worst view of each, [B].

        NaN where no view was measured.
        """
        params = self.view_set.params
        if isinstance(rows, slice):
            values = params[self.column][rows]
        else:
            values = params.take(self.column, rows)
        found = np.full(len(values), np.nan)
        for of_view in values.reshape(len(values), -1).T:
            far = of_view.astype(np.float64)
            np.fmax(found, far if self.wanted is None else self.wanted.off(far), out=found)
        return found

    def order(self, rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Return rows that were built, of `rows` [B] or of all, the worst first.

        Those that failed come first, then those that missed their goal, each the farthest first.
        """
        status = worst_status(self.view_set)
        if rows is None:
            rows = np.arange(len(status))
        rows = rows[status[rows] != Status.NEVER_WRITTEN]
        badness = np.minimum(status, Status.FAILED)[rows]
        near = -np.nan_to_num(self.off(slice(None)), nan=0.0)
        levels = [
            rows[badness == level] for level in (Status.FAILED, Status.GOAL_NOT_MET, Status.OK)
        ]
        return np.concatenate([each[np.argsort(near[each], kind="stable")] for each in levels])

    def words(self, first: int | None) -> str:
        """Return what the order says, in words, of rows of which `first` is the worst."""
        if first is None:
            return ""
        if worst_status(self.view_set)[first] == Status.OK:
            said = "all meet their goal; the nearest misses are:"
        else:
            said = "those that failed come first, then those that missed their goal:"
        return f'"{OFF_BY}" is {self.what}; {said}'


def ranking_of(view_set: ViewSet) -> Ranking | None:
    """Return how the samples of a view set are ranked; None: it has no goal."""
    wanted = constraints_of(view_set)
    if wanted is not None:
        what = "eps1 - distance" if wanted.hinge else "|distance - eps1|"
        return Ranking(view_set, f"{what} of the sample's worst view", "distance", wanted)
    if not is_inversion(view_set):
        return None
    if SHIFT in view_set.params:
        return Ranking(view_set, "the feature shift of the reconstruction", SHIFT)
    return Ranking(view_set, "the pixel error (mse) of the reconstruction", ERROR)


def is_inversion(view_set: ViewSet) -> bool:
    """Return whether the views of a view set are reconstructions, made by an inversion."""
    return ERROR in view_set.params and view_set.plan.parent is None


def json_numbers(values: NDArray[np.float64]) -> list[Any]:
    """Return numbers as JSON values: None where one is not finite."""
    return [value if np.isfinite(value) else None for value in values.tolist()]
