"""How views keep the constraints of their search, line by line, and what finds the rows of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.inspect.columns import ColumnFilter
from viewstore.store.constraints import NEAR_DUPLICATE, Constraints
from viewstore.store.over_views import over_views

LEAST_WITHIN = 0.95  # share of the measured views within tolerance below which a page warns
Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the table of constraints.

    Attributes:
        what: It is about: "views too close".
        count, whole: How many they are, and of how many.
        rows: In how many rows of the store they are.
        where: The filter that finds these rows.
        wrong: Whether they should not be.
    """

    what: str
    count: int
    whole: int
    rows: int
    where: str
    wrong: bool = True


def constraint_lines(columns: Columns, wanted: Constraints, prefix: str) -> list[Line]:
    """Return the lines of the table, those that the view set can tell.

    Args:
        columns: "distance" [N, V], NaN where it was not measured, and of the same shape those of
            "converged", "mean_pair_distance" and "min_pair_distance" that there are.
        wanted: The constraints.
        prefix: Of the names of columns in filters: "w-search.".
    """
    distance = columns["distance"].astype(np.float64)
    low, high = wanted.band
    known = ~np.isnan(distance)
    asks = ColumnFilter(f"{prefix}distance")
    whole = int(known.sum())
    within = asks.at_least(low) if wanted.hinge else asks.within(low, high)

    def line(what: str, of_views: NDArray[np.bool_], where: str, **more: Any) -> Line:  # noqa: ANN401
        rows = int(over_views(np.logical_or, of_views).sum())
        return Line(
            what=what, rows=rows, where=where, **{"whole": whole} | more, count=int(of_views.sum())
        )

    lines = [
        line(
            "views within tolerance",
            known & (distance >= low) & (distance <= high),
            within,
            wrong=False,
        ),
        line("views too close", distance < low, asks.below(low)),
    ]
    if not wanted.hinge:
        lines.append(line("views too far", distance > high, asks.above(high)))
    lines.append(line("views not measured", ~known, asks.missing(), whole=distance.size))
    if "converged" in columns:
        lines.append(_not_converged(columns["converged"], known, prefix))
    if "mean_pair_distance" in columns and wanted.eps2 is not None:
        lines.append(
            line(
                "views with a mean distance to the others below eps2",
                columns["mean_pair_distance"].astype(np.float64) < wanted.eps2,
                ColumnFilter(f"{prefix}mean_pair_distance").below(wanted.eps2),
            )
        )
    if "min_pair_distance" in columns:
        lines.append(
            line(
                f"views within {NEAR_DUPLICATE:g} of another one",
                columns["min_pair_distance"].astype(np.float64) < NEAR_DUPLICATE,
                ColumnFilter(f"{prefix}min_pair_distance").below(NEAR_DUPLICATE),
            )
        )
    return lines


def _not_converged(converged: NDArray[Any], known: NDArray[np.bool_], prefix: str) -> Line:
    """Return the line of samples that were built and whose search gave up."""
    built = over_views(np.logical_or, known)
    missed = int(over_views(np.logical_or, converged[built] != 1).sum())
    name = f"{prefix}converged"
    return Line(
        what="samples not converged",
        count=missed,
        whole=int(built.sum()),
        rows=missed,
        where=f"any({name} != 1 or {name} is missing) and any({prefix}distance is not missing)",
    )


def quadrants(columns: Columns, wanted: Constraints) -> list[dict[str, Any]]:
    """Return how many views lie within and beyond tolerance, and below eps2 and not.

    Empty where there is no eps2 or no "mean_pair_distance".
    """
    if wanted.eps2 is None or "mean_pair_distance" not in columns:
        return []
    distance = columns["distance"].astype(np.float64)
    mean_pair = columns["mean_pair_distance"].astype(np.float64)
    known = ~np.isnan(distance) & ~np.isnan(mean_pair)
    low, high = wanted.band
    within, apart = (distance >= low) & (distance <= high), mean_pair >= wanted.eps2
    return [
        {"within": inside, "apart": far, "count": int((known & a & b).sum())}
        for inside, a in ((True, within), (False, ~within))
        for far, b in ((True, apart), (False, ~apart))
    ]


def finding(distance: NDArray[Any], wanted: Constraints) -> tuple[str, bool]:
    """Return in words how far the views of a set keep eps1, and whether that is a fault."""
    measured = distance[~np.isnan(distance)].astype(np.float64)
    if not len(measured):
        return "no distance was measured", True
    low, high = wanted.band
    share = float(((measured >= low) & (measured <= high)).mean())
    median = float(np.median(measured))
    off = median - wanted.eps1
    side = "above" if off > 0 else "below"
    said = (
        f"{100 * share:.1f} % of the views keep eps1 within {wanted.tolerance:g}; the median "
        f"distance is {median:.3f}, {abs(off):.3f} {side} eps1"
    )
    return said, share < LEAST_WITHIN
