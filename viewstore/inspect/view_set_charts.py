"""The charts of a view set: each column, and distances against their goals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from viewstore.inspect.charts import Mark, histogram
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
from viewstore.inspect.numbers import OFF_WORD, is_off, number
from viewstore.store.constraints import NEAR_DUPLICATE, Constraints
from viewstore.store.view_set import ViewSet

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
        word = OFF_WORD if is_off(name, stats["min"]) else number(stats["min"])
        return f"the same everywhere: {word}"
    return ""


def constraint_panels(
    view_set: ViewSet, constraints: Constraints, where: Where = nowhere
) -> list[Panel]:
    """Return the panels of distances, in the order of the page: goals are marks and bands."""
    params, band = view_set.params, constraints.band
    distance = params["distance"]
    eps1 = Mark(constraints.eps1, f"eps1 {constraints.eps1:.3f}")

    def bars(caption: str, name: str, marks: list[Mark]) -> Panel:
        own = band if name == "distance" else None
        found = bars_of_values(params[name])
        finds = lambda bar: where(name, bar)  # noqa: E731
        return histogram_panel(caption, found, marks=marks, band=own, where=finds)

    panels = [
        bars("Distance to the anchor, all views", "distance", [eps1]),
        ranges_panel("Distance by view number", ranges_by_view(distance), marks=[eps1], band=band),
    ]
    if "mean_pair_distance" in params and constraints.bound is not None:
        goals = [Mark(constraints.bound, f"bound {constraints.bound:.3f}")]
        if constraints.eps2 is not None:
            goals.append(Mark(constraints.eps2, f"eps2 {constraints.eps2:.3f}"))
        panels.append(bars("Mean distance to the other views", "mean_pair_distance", goals))
        caption = "Mean pair distance (up) over distance (across)"
        grid = density_of(distance, params["mean_pair_distance"])
        names = ("distance", "mean_pair_distance")
        if grid is not None:
            panels.append(density_panel(caption, names, grid, marks=goals[-1:], band=band))
    if "min_pair_distance" in params:
        near = [Mark(NEAR_DUPLICATE, f"near {NEAR_DUPLICATE:g}")]
        panels.append(bars("Distance to the nearest other view", "min_pair_distance", near))
    if "steps" in params:
        panels.append(_steps_panel(view_set, where))
    return panels


def _steps_panel(view_set: ViewSet, where: Where) -> Panel:
    stats = view_set.stats["steps"]
    bars = bars_of(stats.min, stats.max, stats.histogram)
    limit = step_limit(view_set)
    caption = "Steps of the search" + ("" if limit is None else f", of {limit} at most")
    return histogram_panel(caption, bars, where=lambda bar: where("steps", bar))


def step_limit(view_set: ViewSet) -> int | None:
    """Return after how many steps the search of a view set gave up; None: its plan says none."""
    limit = view_set.plan.generator["args"].get("max_steps")
    return None if limit is None else int(limit)


def constraint_charts(view_set: ViewSet, constraints: Constraints) -> dict[str, str]:
    """Return the charts of distances as SVG by caption, in the order of the page."""
    figures = map(figure, constraint_panels(view_set, constraints))
    return {each.caption: each.chart for each in figures}


def telling_charts(view_set: ViewSet, charts: Mapping[str, str]) -> dict[str, str]:
    """Return the few charts for the top of the page: what its views are about, at one look.

    `charts` are those of its constraints, if it has any. Else crops are shown by their size and
    shape, and views of networks by how far they are from their source.
    """
    if charts:
        return {
            caption: chart
            for caption, chart in charts.items()
            if caption.startswith(("Distance to the anchor", "Mean distance"))
        }
    shown = {}
    if "crop_box" in view_set.params:
        boxes = view_set.params["crop_box"]
        sides = np.sqrt(boxes[..., 2].astype(np.float64) * boxes[..., 3])
        title = "Side of the crop boxes, in source pixels"
        shown[title] = histogram(bars_of_values(sides), title=title)
        wide = boxes[..., 3] / np.maximum(boxes[..., 2], 1e-9)
        title = "Width over height of the crop boxes"
        shown[title] = histogram(bars_of_values(wide), title=title)
    for name, title in (("distance", "Distance to the source"), ("x_invert_mse", "Pixel error")):
        if name in view_set.params:
            values = view_set.params[name]
            shown[title] = histogram(bars_of_values(values), title=title)
    return shown
