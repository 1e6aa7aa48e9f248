"""Panels: the numbers of a chart as facts, and the figure that pages make of them.

A panel is a plain dict, so that `format=json` gives just the numbers that are drawn; its figure is
the chart with its caption, and a table of the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from markupsafe import Markup

from viewstore.inspect import charts
from viewstore.inspect.charts import Band, Mark
from viewstore.inspect.distributions import Bar, Density, Range

Panel = dict[str, Any]
PERCENTILES = ("5 %", "25 %", "median", "75 %", "95 %")


@dataclass(frozen=True)
class Entry:
    """A number in a table, and the filter that finds its rows; "" where there is none."""

    text: str
    where: str = ""


@dataclass(frozen=True)
class Figure:
    """A chart as a page shows it.

    Attributes:
        caption: What is drawn.
        chart: The SVG.
        header: Of the table of its numbers.
        rows: Of that table: what a row is about, then its numbers.
        wide: Whether it needs the room of two others.
    """

    caption: str
    chart: Markup
    header: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Entry, ...]], ...]
    wide: bool = False


def histogram_panel(
    caption: str,
    bars: Sequence[Bar],
    *,
    marks: Sequence[Mark] = (),
    band: Band | None = None,
    where: Callable[[Bar], str] = lambda bar: "",
) -> Panel:
    """Return the panel of a histogram; `where` gives the filter that finds the rows of a bar."""
    told = [{**asdict(bar), "where": where(bar) if bar.count else ""} for bar in bars]
    return {"kind": "histogram", "caption": caption, "bars": told, **_guides(marks, band)}


def ranges_panel(
    caption: str,
    groups: Sequence[Range],
    *,
    marks: Sequence[Mark] = (),
    band: Band | None = None,
) -> Panel:
    """Return the panel of the percentiles of groups of values."""
    told = [asdict(group) for group in groups]
    return {"kind": "ranges", "caption": caption, "groups": told, **_guides(marks, band)}


def paired_panel(
    caption: str, names: tuple[str, str], bars: tuple[Sequence[Bar], Sequence[Bar]]
) -> Panel:
    """Return the panel of two histograms over the same bins."""
    first, second = ([asdict(bar) for bar in each] for each in bars)
    return {
        "kind": "paired",
        "caption": caption,
        "names": list(names),
        "first": first,
        "second": second,
    }


def density_panel(
    caption: str,
    names: tuple[str, str],
    grid: Density,
    *,
    marks: Sequence[Mark] = (),
    band: Band | None = None,
) -> Panel:
    """Return the panel of two columns together; `names` are those across and up."""
    told = {"kind": "density", "caption": caption, "names": list(names), **asdict(grid)}
    return told | _guides(marks, band)


def _guides(marks: Sequence[Mark], band: Band | None) -> Panel:
    """Return marks and band as facts; a band without an upper end has None there."""
    ends = None if band is None else [end if math.isfinite(end) else None for end in band]
    return {"marks": [asdict(mark) for mark in marks], "band": ends}


def figure(panel: Panel) -> Figure:
    """Return the figure of a panel."""
    return _FIGURES[panel["kind"]](panel)


def _histogram(panel: Panel) -> Figure:
    bars = [Bar(each["low"], each["high"], each["count"], each["label"]) for each in panel["bars"]]
    chart = charts.histogram(
        bars, title=panel["caption"], marks=_marks(panel), band=_band(panel["band"])
    )
    rows = [
        (_interval(each), (Entry(f"{each['count']:,}", each["where"]),))
        for each in panel["bars"]
        if each["count"]
    ]
    return Figure(panel["caption"], Markup(chart), ("value", "count"), tuple(rows))


def _ranges(panel: Panel) -> Figure:
    groups = [Range(each["label"], tuple(each["percentiles"])) for each in panel["groups"]]
    chart = charts.ranges(
        groups, title=panel["caption"], marks=_marks(panel), band=_band(panel["band"])
    )
    rows = [
        (group.label, tuple(Entry(f"{value:.4g}") for value in group.percentiles))
        for group in groups
    ]
    return Figure(panel["caption"], Markup(chart), ("view", *PERCENTILES), tuple(rows))


def _paired(panel: Panel) -> Figure:
    first, second = ([Bar(**each) for each in panel[side]] for side in ("first", "second"))
    chart = charts.paired(first, second, title=panel["caption"])
    rows = [
        (_interval(asdict(bar)), (Entry(f"{bar.count:,}"), Entry(f"{other.count:,}")))
        for bar, other in zip(first, second, strict=True)
        if bar.count or other.count
    ]
    return Figure(panel["caption"], Markup(chart), ("value", *panel["names"]), tuple(rows))


def _density(panel: Panel) -> Figure:
    across, up, counts = panel["across"], panel["up"], panel["counts"]
    grid = Density(tuple(across), tuple(up), tuple(map(tuple, counts)))
    chart = charts.density(
        grid, title=panel["caption"], marks=_marks(panel), band=_band(panel["band"])
    )
    lefts, bottoms = _edges(across, len(counts[0])), _edges(up, len(counts))
    rows = [
        (f"from {bottom:.4g}", tuple(Entry(str(count) if count else "") for count in row))
        for bottom, row in zip(bottoms, counts, strict=True)
    ]
    name = "{1} (down), {0} from".format(*panel["names"])
    header = (name, *(f"{low:.4g}" for low in lefts))
    return Figure(panel["caption"], Markup(chart), header, tuple(reversed(rows)), wide=True)


_FIGURES: Mapping[str, Callable[[Panel], Figure]] = {
    "histogram": _histogram,
    "ranges": _ranges,
    "paired": _paired,
    "density": _density,
}


def _edges(axis: Sequence[float], cells: int) -> list[float]:
    """Return where the cells of an axis begin."""
    low, high = axis
    return [low + (high - low) * cell / cells for cell in range(cells)]


def _interval(bar: Mapping[str, Any]) -> str:
    return bar["label"] or f"{bar['low']:.5g} to {bar['high']:.5g}"


def _marks(panel: Panel) -> list[Mark]:
    return [Mark(each["value"], each["label"]) for each in panel["marks"]]


def _band(ends: Sequence[float | None] | None) -> Band | None:
    if ends is None:
        return None
    low, high = ends
    return (-math.inf if low is None else low, math.inf if high is None else high)
