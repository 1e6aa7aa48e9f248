"""Statistics of params columns: stats.json, which finalise writes and readers open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.format.columns import Column
from viewstore.format.plan import Plan
from viewstore.format.records import seal, unseal

KIND = "viewstore-stats"
NUMBER = int | float
COLUMN_FORM = {
    **dict.fromkeys(("count", "fill"), int),
    **dict.fromkeys(("min", "max", "mean", "std"), NUMBER | None),
    "percentiles": [NUMBER],
    "histogram": [int],
}
FORM = {"plan_id": str, "columns": {...: COLUMN_FORM}}
BINS = 64
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)

# Components that mean different things: each has statistics of its own, by the name "jitter.hue".
COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "crop_box": ("top", "left", "height", "width"),
    "jitter": ("brightness", "contrast", "saturation", "hue"),
}


@dataclass(frozen=True, kw_only=True)
class ColumnStats:
    """A summary of the values of one column, over all rows, views and components.

    Attributes:
        count: Values that were written.
        fill: Values that were not: never written, or a sample that failed.
        min, max, mean, std: Of the finite ones of them; None if there is none.
        percentiles: Values below which 1, 5, 25, 50, 75, 95 and 99 % lie.
        histogram: Counts of 64 equal bins between min and max.
    """

    count: int
    fill: int
    min: float | None
    max: float | None
    mean: float | None
    std: float | None
    percentiles: tuple[float, ...]
    histogram: tuple[int, ...]


def column_stats(column: Column, values: NDArray[Any], most: int | None = None) -> ColumnStats:
    """Return the summary of a column.

    It never fails: a manifest must not depend on what a generator measured.

    Args:
        column: The column.
        values: Its values, [N, *column.shape].
        most: Of how many finite values, spread evenly, mean, std, percentiles and histogram are
            taken; None: of all.
    """
    flat = values.reshape(-1)
    missing = column.missing(flat)
    written = _chosen(flat, ~missing)
    count, fill = len(written), len(flat) - len(written)
    written = _chosen(written, np.isfinite(written))
    if not len(written):
        return ColumnStats(
            count=count,
            fill=fill,
            min=None,
            max=None,
            mean=None,
            std=None,
            percentiles=(),
            histogram=(),
        )
    low, high = float(written.min()), float(written.max())
    some = evenly_spread(written, most).astype(np.float64)
    return ColumnStats(
        count=count,
        fill=fill,
        min=low,
        max=high,
        mean=float(some.mean()),
        std=float(some.std()),
        percentiles=tuple(np.percentile(some, PERCENTILES).tolist()),
        histogram=_histogram(some, low, high),
    )


def evenly_spread(values: NDArray[Any], most: int | None) -> NDArray[Any]:
    """Return values [N], or `most` of them from evenly spread places where they are more."""
    if most is None or len(values) <= most:
        return values
    return values[np.linspace(0, len(values) - 1, most).astype(np.int64)]


def _chosen(values: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the values that a mask has; no copy of them where it has all."""
    return values if mask.all() else values[mask]


def component_stats(
    column: Column, values: NDArray[Any], most: int | None = None
) -> dict[str, ColumnStats]:
    """Return the summaries of the components of a column, "crop_box.top"; of others nothing.

    `most`: As of `column_stats`.
    """
    components = COMPONENTS.get(column.name, ())
    if column.shape[-1:] != (len(components),):
        return {}
    return {
        f"{column.name}.{component}": column_stats(column, values[..., index], most)
        for index, component in enumerate(components)
    }


def _histogram(values: NDArray[np.float64], low: float, high: float) -> tuple[int, ...]:
    try:
        counts, _ = np.histogram(values, BINS, (low, high))
    except ValueError:  # float64 has no 65 numbers from the least value to the greatest
        counts, _ = np.histogram(values - low, BINS, (0, high - low))
    return tuple(counts.tolist())


def pack_stats(plan: Plan, params: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the bytes of stats.json."""
    summaries: dict[str, Any] = {}
    for column in plan.columns:
        if column.pack:  # a latent has no histogram that anyone reads
            values = params[column.name]
            found = {column.name: column_stats(column, values), **component_stats(column, values)}
            summaries |= {name: asdict(each) for name, each in found.items()}
    return seal(KIND, {"plan_id": plan.id, "columns": summaries})


def unpack_stats(raw: bytes) -> dict[str, ColumnStats]:
    """Return the summaries in stats.json by column. Raises FormatError."""
    columns = unseal(raw, kind=KIND, form=FORM)["columns"]
    return {
        name: ColumnStats(
            **{
                **summary,
                "percentiles": tuple(summary["percentiles"]),
                "histogram": tuple(summary["histogram"]),
            }
        )
        for name, summary in columns.items()
    }
