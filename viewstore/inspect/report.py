"""The report: one HTML file that opens from disk and asks for nothing else."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from viewstore.errors import ConfigError
from viewstore.format.records import jsonable
from viewstore.images.colours import Pixels
from viewstore.inspect import charts
from viewstore.inspect.charts import Bar, Mark, Range
from viewstore.inspect.sheet import fit, is_dark
from viewstore.inspect.shown_rows import Cell, Row, read_row
from viewstore.inspect.summary import column_summaries, label_counts
from viewstore.store.constraints import NEAR_DUPLICATE, Constraints, constraints_of, tally
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

MAX_BYTES = 5_000_000
LOSSLESS_SIDE = 64  # up to it views are shown as PNG, enlarged without smoothing
ORIGINAL_HEIGHT, ORIGINAL_WIDTH = 112, 240  # at most, in CSS pixels
HISTOGRAM_BINS, SCATTER_POINTS = 48, 1500


@dataclass(frozen=True)
class Detail:
    """How large pictures are: longer side of originals and of views, and their quality."""

    original: int
    view: int
    quality: int


DETAILS = (Detail(256, 160, 82), Detail(192, 128, 72), Detail(144, 96, 60), Detail(112, 64, 50))


def write_report(store: Store, rows: Sequence[int], view_sets: Sequence[ViewSet]) -> bytes:
    """Return the report as HTML: pictures of `rows`, statistics and charts of all rows.

    Pictures get smaller where many of them would make a large file.

    Raises:
        ConfigError: Even the smallest pictures give more than 5 MB.
    """
    template = _template()
    facts = {
        "store": store,
        "name": store.name,
        "labels": label_counts(store),
        "sections": [_section(view_set) for view_set in view_sets],
        "css": Markup(_data("static", "report.css")),
        "is_dark": is_dark,
    }
    # Read once at the largest size: a store's originals may not fit into memory together.
    read = [_shrunk(read_row(store, row, view_sets), DETAILS[0]) for row in rows]
    for detail in DETAILS:
        shown = [_shown(row, detail) for row in read]
        page = template.render(**facts, rows=shown).encode()
        if len(page) <= MAX_BYTES:
            return page
    raise ConfigError(
        f"a report must have at most {MAX_BYTES // 10**6} MB; {len(rows)} samples give more",
        fix="show fewer samples with -n, or one --view-set",
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_data("templates", "report.html"))


def _data(folder: str, name: str) -> str:
    return files("viewstore.inspect").joinpath(folder, name).read_text("utf-8")


def _shrunk(row: Row, detail: Detail) -> Row:
    if row.original is None:
        return row
    return replace(row, original=_fitted(row.original, detail.original))


def _fitted(pixels: Pixels, side: int) -> Pixels:
    return pixels if max(pixels.shape[:2]) <= side else np.asarray(fit(pixels, side))


def _shown(row: Row, detail: Detail) -> dict[str, Any]:
    """Return what the template needs of a sample."""
    scale = min(ORIGINAL_HEIGHT / row.height, ORIGINAL_WIDTH / row.width)
    return {
        "row": row,
        "width": max(1, round(row.width * scale)),
        "height": max(1, round(row.height * scale)),
        "original": _picture(row.original, detail.original, detail.quality),
        "blocks": [
            {
                "name": name,
                "boxes": [cell for cell in _largest_first(cells) if cell.box is not None],
                "cells": [
                    {
                        "cell": cell,
                        "src": _picture(cell.pixels, detail.view, detail.quality),
                    }
                    for cell in cells
                ],
            }
            for name, cells in row.cells.items()
        ],
    }


def _largest_first(cells: Sequence[Cell]) -> list[Cell]:
    return sorted(cells, key=lambda cell: -(cell.area or 0))


def _picture(pixels: Pixels | None, side: int, quality: int) -> dict[str, Any] | None:
    """Return a picture as a data URI, encoded anew: stored bytes never reach the page."""
    if pixels is None:
        return None
    pixels = _fitted(pixels, side)
    small = max(pixels.shape[:2]) <= LOSSLESS_SIDE
    image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels.repeat(3, axis=2))
    file = io.BytesIO()
    if small:
        image.save(file, "PNG", optimize=True)
    else:
        image.save(file, "JPEG", quality=quality, optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    kind = "png" if small else "jpeg"
    return {"uri": f"data:image/{kind};base64,{data}", "small": small}


def _section(view_set: ViewSet) -> dict[str, Any]:
    """Return what the template needs of a view set."""
    summaries = column_summaries(view_set)
    wanted = constraints_of(view_set)
    return {
        "view_set": view_set,
        "roles": ", ".join(dict.fromkeys(view_set.roles)),
        "args": {
            name: json.dumps(value) for name, value in view_set.plan.generator["args"].items()
        },
        "plan": json.dumps(jsonable(view_set.plan.to_json()), indent=1, sort_keys=True),
        "wanted": wanted,
        "tally": None if wanted is None else tally(view_set, wanted),
        "near_duplicate": NEAR_DUPLICATE,
        "constraint_charts": [] if wanted is None else _constraint_charts(view_set, wanted),
        "columns": [
            {
                "name": name,
                "stats": stats,
                "chart": Markup(
                    charts.histogram(
                        charts.bars_of(stats.min, stats.max, stats.histogram),
                        title=f"histogram of {name}",
                    )
                ),
            }
            for name, stats in summaries.items()
        ],
    }


def _constraint_charts(view_set: ViewSet, wanted: Constraints) -> list[dict[str, Any]]:
    distance = view_set.params["distance"]
    eps1 = Mark(wanted.eps1, f"eps1 {wanted.eps1:.3f}")
    drawn = [
        (
            "Distance to the anchor, all views",
            charts.histogram(
                _bars(distance), title="distance to the anchor", marks=[eps1], band=wanted.band
            ),
        ),
        (
            "Distance by view number",
            charts.ranges(
                _ranges(distance), title="distance by view", marks=[eps1], band=wanted.band
            ),
        ),
    ]
    if "mean_pair_distance" in view_set.params and wanted.bound is not None:
        mean_pair = view_set.params["mean_pair_distance"]
        marks = [Mark(wanted.bound, f"bound {wanted.bound:.3f}")]
        if wanted.eps2 is not None:
            marks.append(Mark(wanted.eps2, f"eps2 {wanted.eps2:.3f}"))
        chart = charts.histogram(_bars(mean_pair), title="mean pair distance", marks=marks)
        drawn.append(("Mean distance to the other views", chart))
        every = max(1, distance.size // SCATTER_POINTS)
        chart = charts.scatter(
            zip(distance.flat[::every], mean_pair.flat[::every], strict=True),
            title="mean pair distance over distance",
            band=wanted.band,
            level=marks[-1],
        )
        share = "" if every == 1 else f", one view in {every}"
        drawn.append((f"Mean pair distance (up) over distance (across){share}", chart))
    return [{"title": title, "chart": Markup(chart)} for title, chart in drawn]


def _bars(values: np.ndarray[Any, Any]) -> list[Bar]:
    written = values[np.isfinite(values)].astype(np.float64)
    if not len(written):
        return []
    counts, edges = np.histogram(written, HISTOGRAM_BINS)
    ends = zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
    return [Bar(low, high, count) for low, high, count in ends]


def _ranges(values: np.ndarray[Any, Any]) -> list[Range]:
    groups = []
    for view in range(values.shape[1]):
        written = values[:, view][np.isfinite(values[:, view])]
        if len(written):
            p5, p25, p50, p75, p95 = np.percentile(written, (5, 25, 50, 75, 95)).tolist()
            groups.append(Range(str(view), (p5, p25, p50, p75, p95)))
    return groups
