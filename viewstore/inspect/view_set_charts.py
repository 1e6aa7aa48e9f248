"""The charts of a view set in the report: each column, and distances against their goals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from viewstore.inspect.charts import Mark, histogram, ranges, scatter
from viewstore.inspect.distributions import bars_of, bars_of_values, ranges_by_view
from viewstore.store.constraints import Constraints
from viewstore.store.view_set import ViewSet

SCATTER_POINTS = 1500


def column_chart(name: str, stats: Mapping[str, Any]) -> str:
    """Return the histogram of a column as SVG, from its statistics (`summary.column_facts`)."""
    bars = bars_of(stats["min"], stats["max"], stats["histogram"])
    return histogram(bars, title=f"histogram of {name}")


def constraint_charts(view_set: ViewSet, constraints: Constraints) -> dict[str, str]:
    """Return the charts of distances as SVG by caption, in the order of the page."""
    distance, band = view_set.params["distance"], constraints.band
    eps1 = Mark(constraints.eps1, f"eps1 {constraints.eps1:.3f}")
    charts = {
        "Distance to the anchor, all views": histogram(
            bars_of_values(distance), title="distance to the anchor", marks=[eps1], band=band
        ),
        "Distance by view number": ranges(
            ranges_by_view(distance), title="distance by view", marks=[eps1], band=band
        ),
    }
    if "mean_pair_distance" not in view_set.params or constraints.bound is None:
        return charts
    mean_pair = view_set.params["mean_pair_distance"]
    marks = [Mark(constraints.bound, f"bound {constraints.bound:.3f}")]
    if constraints.eps2 is not None:
        marks.append(Mark(constraints.eps2, f"eps2 {constraints.eps2:.3f}"))
    charts["Mean distance to the other views"] = histogram(
        bars_of_values(mean_pair), title="mean pair distance", marks=marks
    )
    every = max(1, distance.size // SCATTER_POINTS)
    share = "" if every == 1 else f", one view in {every}"
    charts[f"Mean pair distance (up) over distance (across){share}"] = scatter(
        zip(distance.flat[::every], mean_pair.flat[::every], strict=True),
        title="mean pair distance over distance",
        band=band,
        level=marks[-1],
    )
    return charts


def telling_charts(view_set: ViewSet, charts: Mapping[str, str]) -> dict[str, str]:
    """Return the few charts for the top of the page: what its views are about, at one look.

    `charts` are those of its constraints, if it has any. Else crops are shown by their size and
    shape, and views of networks by how far they are from their source.
    """
    if charts:
        return {
            caption: chart
            for caption, chart in charts.items()
            if caption.startswith(("Distance to", "Mean distance"))
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
