"""The charts of a view set: each column, what tells most of it, distances against their goals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.format.stats import COMPONENTS
from viewstore.inspect.charts import Band, Mark, histogram
from viewstore.inspect.distributions import (
    Bar,
    bars_of,
    bars_of_values,
    density_of,
    ranges_by_view,
)
from viewstore.inspect.figures import (
    Panel,
    density_panel,
    figure,
    histogram_panel,
    ranges_panel,
)
from viewstore.inspect.numbers import brief_param
from viewstore.store.constraints import NEAR_DUPLICATE, Constraints, constraints_of
from viewstore.store.view_set import ViewSet

CHARTS = 5  # of the Overview
CHARTED_ROWS = 50_000  # about so many are enough for the shape of a histogram, and read at once
# Columns whose numbers name something, are places, or say that nothing was done.
NOT_SHOWN = frozenset({"dhash", "duplicate", "jitter_order", "latent", "mix_box", "mix_partner"})
NOT_SHOWN |= {"ops", "parent", "pixel_crc", "seed", "solarize", "status", "target", "twin"}
HASHES = frozenset({"dhash", "pixel_crc", "seed"})
Where = Callable[[str, Bar], str]  # the filter that finds the rows of a bar of a column


def nowhere(column: str, bar: Bar) -> str:
    """Return that nothing finds the rows of a bar: a report has no links."""
    return ""


def column_bars(stats: Mapping[str, Any]) -> list[Bar]:
    """Return the bars of a column, from its statistics (`summary.column_facts`)."""
    return bars_of(stats["min"], stats["max"], stats["histogram"])


def column_chart(name: str, stats: Mapping[str, Any]) -> str:
    """Return the histogram of a column as SVG, from its statistics (`summary.column_facts`)."""
    return histogram(column_bars(stats), title=f"histogram of {name}")


def said_instead(name: str, stats: Mapping[str, Any]) -> str:
    """Return what is said of a column of which a chart would say nothing; "" of others."""
    if name in HASHES:
        return "hashes or random words, which have no order"
    if stats["min"] is None:
        return "no value"
    if stats["min"] == stats["max"]:
        return f"the same everywhere: {brief_param(name, stats['min'])}"
    return ""


def constraint_panels(
    view_set: ViewSet, constraints: Constraints, where: Where = nowhere
) -> list[Panel]:
    """Return the panels of distances, in the order of the page: goals are marks and bands."""
    params, band = view_set.params, constraints.band
    distance = params["distance"]
    first, *pairs = telling(view_set)
    eps1 = first.marks
    panels = [
        first.panel(partial(where, "distance")),
        ranges_panel("Distance by view number", ranges_by_view(distance), marks=eps1, band=band),
    ]
    for pair in pairs:
        panels.append(pair.panel(partial(where, "mean_pair_distance")))
        caption = "Mean pair distance (up) over distance (across)"
        grid = density_of(distance, params["mean_pair_distance"])
        names = ("distance", "mean_pair_distance")
        if grid is not None:
            panels.append(density_panel(caption, names, grid, marks=pair.marks[-1:], band=band))
    if "min_pair_distance" in params:
        nearest = Telling(
            caption="Distance to the nearest other view",
            bars=bars_of_values(params["min_pair_distance"]),
            marks=(Mark(NEAR_DUPLICATE, f"near {NEAR_DUPLICATE:g}"),),
        )
        panels.append(nearest.panel(partial(where, "min_pair_distance")))
    if "steps" in params:
        panels.append(_steps_panel(view_set, where))
    return panels


def _steps_panel(view_set: ViewSet, where: Where) -> Panel:
    stats = view_set.stats["steps"]
    bars = bars_of(stats.min, stats.max, stats.histogram)
    limit = step_limit(view_set)
    caption = "Steps of the search" + ("" if limit is None else f", of {limit} at most")
    return histogram_panel(caption, bars, where=partial(where, "steps"))


def step_limit(view_set: ViewSet) -> int | None:
    """Return after how many steps the search of a view set gave up; None: its plan says none."""
    limit = view_set.plan.generator["args"].get("max_steps")
    return None if limit is None else int(limit)


def constraint_charts(view_set: ViewSet, constraints: Constraints) -> dict[str, str]:
    """Return the charts of distances as SVG by caption, in the order of the page."""
    figures = map(figure, constraint_panels(view_set, constraints))
    return {each.caption: each.chart for each in figures}


@dataclass(frozen=True, kw_only=True)
class Telling:
    """The histogram of something that tells what views are about.

    Attributes:
        caption: What it is the histogram of.
        bars: How many values lie where.
        marks: Lines at values that they should have.
        band: Where they should lie; None: anywhere.
    """

    caption: str
    bars: list[Bar]
    marks: tuple[Mark, ...] = ()
    band: Band | None = None

    def panel(self, where: Callable[[Bar], str] = lambda bar: "") -> Panel:
        """Return its panel; `where` gives the filter that finds the rows of a bar."""
        return histogram_panel(
            self.caption, self.bars, marks=self.marks, band=self.band, where=where
        )


def telling(view_set: ViewSet, *, every: int = 1) -> list[Telling]:
    """Return what tells most of a view set: distances to goals, sizes and shapes of crops.

    `every`: Of one sample in so many; it is said in the captions.
    """
    constraints, rows = constraints_of(view_set), np.arange(0, len(view_set), every)
    share = "" if every == 1 else f", one sample in {every}"
    found = []

    def add(caption: str, values: NDArray[Any], *marks: Mark, band: Band | None = None) -> None:
        bars = bars_of_values(values)
        found.append(Telling(caption=caption + share, bars=bars, marks=marks, band=band))

    def column(name: str) -> NDArray[Any]:
        params = view_set.params
        return params[name] if every == 1 else params.rows(name, rows)

    if constraints is not None:
        eps1 = Mark(constraints.eps1, f"eps1 {constraints.eps1:.3f}")
        add("Distance to the anchor, all views", column("distance"), eps1, band=constraints.band)
        if "mean_pair_distance" in view_set.params and constraints.bound is not None:
            marks = _pair_marks(constraints, constraints.bound)
            add("Mean distance to the other views", column("mean_pair_distance"), *marks)
        return found
    if "crop_box" in view_set.params:
        boxes = column("crop_box")
        sides = np.sqrt(boxes[..., 2].astype(np.float64) * boxes[..., 3])
        add("Side of the crop boxes, in source pixels", sides)
        wide = boxes[..., 3] / np.maximum(boxes[..., 2], 1e-9)
        add("Width over height of the crop boxes", wide)
    for name, caption in (("distance", "Distance to the source"), ("x_invert_mse", "Pixel error")):
        if name in view_set.params:
            add(caption, column(name))
    return found


def _pair_marks(constraints: Constraints, bound: float) -> list[Mark]:
    marks = [Mark(bound, f"bound {bound:.3f}")]
    if constraints.eps2 is not None:
        marks.append(Mark(constraints.eps2, f"eps2 {constraints.eps2:.3f}"))
    return marks


def overview_panels(view_set: ViewSet) -> list[Panel]:
    """Return five histograms for a look at a view set: what is telling, then columns that vary."""
    found = telling(view_set, every=max(1, len(view_set) // CHARTED_ROWS))
    names = [
        name
        for name, stats in view_set.stats.items()
        if name.partition(".")[0] not in {*NOT_SHOWN, *COMPONENTS} and stats.min != stats.max
    ]
    shown = {"distance", "mean_pair_distance"} if found else set()
    for name in sorted(set(names) - shown, key=lambda each: (each.startswith("x_"), each)):
        stats = view_set.stats[name]
        bars = bars_of(stats.min, stats.max, stats.histogram)
        found.append(Telling(caption=name, bars=bars))
    return [each.panel() for each in found[:CHARTS]]
