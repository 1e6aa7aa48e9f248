"""Charts as SVG text, from numbers alone: histograms, ranges of groups, densities. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from viewstore.inspect import svg
from viewstore.inspect.distributions import Bar, Density, Range
from viewstore.inspect.numbers import axis_number

WIDTH, HEIGHT = 300, 130
LEFT, RIGHT, TOP, BOTTOM = 34, WIDTH - 10, 26, HEIGHT - 18  # of the area of data
UPPER = TOP - 14  # top of that area where no labels lie above it
WIDEST, LABEL_ROOM = 60, 25  # of a bar, and from a label of bars to the next, in pixels
CHARACTER = 6.4  # pixels that a digit takes, at most
BAR, BAND, MARK, AXIS = "#0072B2", "#009E73", "#A32800", "#9A9A9A"
BAND_OPACITY, PAIRED_OPACITY = 0.18, 0.55
DENSITY_WIDTH, DENSITY_HEIGHT = 480, 300  # a density needs more room than bars

Band = tuple[float, float]


@dataclass(frozen=True)
class Mark:
    """A labelled line at a value of the horizontal or, in `ranges`, the vertical axis."""

    value: float
    label: str


@dataclass(frozen=True)
class _Scale:
    """Maps values low..high to pixels first..last; values outside go to the nearer end."""

    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        share = min(max((value - self.low) / span, 0.0), 1.0)
        return self.first + share * (self.last - self.first)


def histogram(
    bars: Sequence[Bar],
    *,
    title: str,
    marks: Sequence[Mark] = (),
    band: Band | None = None,
) -> str:
    """Return bars over their values; `band` is shaded, `marks` are vertical lines."""
    edges = [edge for bar in bars for edge in (bar.low, bar.high)]
    most = max((bar.count for bar in bars), default=0)
    x_of = _scale_across(edges + _extra_values(marks, band), _left_of(f"{most:,}"))
    y_of = _Scale(0, most or 1, BOTTOM, TOP)
    parts = [_vertical_band(x_of, band)]
    for bar in bars:
        if bar.count:
            x, y = x_of(bar.low), y_of(bar.count)
            slot = x_of(bar.high) - x
            width = min(max(slot - 0.5, 0.8), WIDEST)
            parts.append(svg.rect(x + (slot - 0.5 - width) / 2, y, width, BOTTOM - y, BAR))
    labelled = [bar for bar in bars if bar.label]
    for bar in labelled[:: _apart(labelled, x_of)]:
        parts.append(svg.text(x_of((bar.low + bar.high) / 2), HEIGHT - 5, bar.label, "middle"))
    parts.append(_axes(x_of, f"{most:,}", "0", ends=not labelled))
    parts.append(_vertical_marks(x_of, marks))
    return svg.document(WIDTH, HEIGHT, title, parts)


def _left_of(*labels: str) -> float:
    """Return where the area of data begins, right of the labels of the vertical axis."""
    return max(LEFT, CHARACTER * max(map(len, labels)) + 6)


def _share(share: float) -> str:
    """Return a share of 1 in percent, short enough for an axis."""
    return f"{100 * share:.{0 if share >= 0.1 else 1}f}%"


def _apart(bars: Sequence[Bar], x_of: _Scale) -> int:
    """Return which of the bars with labels show them, every n-th, so that none overlap."""
    if not bars:
        return 1
    widest = max(LABEL_ROOM, *(7 * len(bar.label) for bar in bars))
    return max(1, math.ceil(widest / max(x_of(bars[0].high) - x_of(bars[0].low), 0.1)))


def ranges(
    groups: Sequence[Range],
    *,
    title: str,
    marks: Sequence[Mark] = (),
    band: Band | None = None,
) -> str:
    """Return a box per group: percentiles 5 to 95 as a line, 25 to 75 as a box, 50 as a tick."""
    values = [value for group in groups for value in group.percentiles]
    y_of = _padded_scale(values + _extra_values(marks, band), BOTTOM, UPPER)
    high, low = axis_number(y_of.high), axis_number(y_of.low)
    left = _left_of(high, low)
    parts = []
    if band is not None:
        top, bottom = y_of(min(band[1], y_of.high)), y_of(band[0])
        parts.append(svg.rect(left, top, RIGHT - left, bottom - top, BAND, BAND_OPACITY))
    step = (RIGHT - left) / max(len(groups), 1)
    width = min(step * 0.6, 18)
    for number, group in enumerate(groups):
        middle = left + step * (number + 0.5)
        p5, p25, p50, p75, p95 = (y_of(value) for value in group.percentiles)
        parts.append(svg.line(middle, p5, middle, p95, BAR))
        parts.append(svg.rect(middle - width / 2, p75, width, max(p25 - p75, 0.8), BAR, 0.45))
        parts.append(svg.line(middle - width / 2, p50, middle + width / 2, p50, svg.INK, 1.5))
        if len(groups) <= 24 or number % 10 == 0:
            parts.append(svg.text(middle, HEIGHT - 5, group.label, "middle"))
    parts.append(_horizontal_marks(y_of, marks, left, RIGHT))
    parts.append(svg.line(left, UPPER, left, BOTTOM, AXIS))
    parts.append(svg.text(left - 4, TOP - 6, high, "end"))
    parts.append(svg.text(left - 4, BOTTOM, low, "end"))
    return svg.document(WIDTH, HEIGHT, title, parts)


def paired(first: Sequence[Bar], second: Sequence[Bar], *, title: str) -> str:
    """Return two histograms over the same bins: the first as bars, the second as a line.

    Each is drawn by the shares of its own values, so that both have the same area.
    """
    x_of = _scale_across([edge for bar in first for edge in (bar.low, bar.high)], LEFT)
    wholes = [max(sum(bar.count for bar in bars), 1) for bars in (first, second)]
    shares = [
        [bar.count / whole for bar in bars]
        for bars, whole in zip((first, second), wholes, strict=True)
    ]
    most = max(map(max, shares)) if first else 0.0
    y_of = _Scale(0, most or 1, BOTTOM, TOP)
    parts, line = [], []
    for bar, share, other in zip(first, *shares, strict=True):
        x, width = x_of(bar.low), x_of(bar.high) - x_of(bar.low)
        if share:
            top = y_of(share)
            parts.append(svg.rect(x, top, max(width, 0.8), BOTTOM - top, BAR, PAIRED_OPACITY))
        line += [(x, y_of(other)), (x + width, y_of(other))]
    parts += [svg.path(line, MARK), _axes(x_of, _share(most), "0")]
    return svg.document(WIDTH, HEIGHT, title, parts)


def density(
    grid: Density,
    *,
    title: str,
    band: Band | None = None,
    marks: Sequence[Mark] = (),
) -> str:
    """Return a grid of cells, the darker the more pairs of values they have.

    `band` is shaded on the horizontal axis, `marks` are lines at values of the vertical one.
    """
    high, low = map(axis_number, reversed(grid.up))
    x_of = _Scale(*grid.across, _left_of(high, low), DENSITY_WIDTH - 10)
    y_of = _Scale(*grid.up, DENSITY_HEIGHT - 18, UPPER)
    most = max(map(max, grid.counts))
    width = (x_of.last - x_of.first) / len(grid.counts[0])
    height = (y_of.first - y_of.last) / len(grid.counts)
    parts = []
    for row, counts in enumerate(grid.counts):
        y = y_of.first - (row + 1) * height
        for column, count in enumerate(counts):
            if count:
                opacity = round(0.1 + 0.9 * math.sqrt(count / most), 2)
                parts.append(svg.rect(x_of.first + column * width, y, width, height, BAR, opacity))
    if band is not None:
        ends = [x_of(min(max(end, x_of.low), x_of.high)) for end in band]
        top, tall = y_of.last, y_of.first - y_of.last
        parts.append(svg.rect(ends[0], top, ends[1] - ends[0], tall, BAND, BAND_OPACITY))
    inside = [mark for mark in marks if y_of.low <= mark.value <= y_of.high]
    parts.append(_horizontal_marks(y_of, inside, x_of.first, x_of.last))
    parts.append(_axes(x_of, high, low, floor=y_of.first, top_y=UPPER))
    return svg.document(DENSITY_WIDTH, DENSITY_HEIGHT, title, parts)


def _extra_values(marks: Sequence[Mark], band: Band | None) -> list[float]:
    """Return the values of marks and band, which an axis must hold beside the data."""
    ends = [] if band is None else [end for end in band if math.isfinite(end)]
    return [mark.value for mark in marks] + ends


def _scale_across(values: Sequence[float], left: float) -> _Scale:
    low, high = min(values, default=0.0), max(values, default=1.0)
    return _Scale(low, high if high > low else low + 1, left, RIGHT)


def _padded_scale(values: Sequence[float], first: float, last: float) -> _Scale:
    low, high = min(values, default=0.0), max(values, default=1.0)
    pad = (high - low) * 0.06 or 0.5
    return _Scale(low - pad, high + pad, first, last)


def _axes(
    x_of: _Scale,
    top: str,
    bottom: str,
    *,
    ends: bool = True,
    floor: float = BOTTOM,
    top_y: float = TOP,
) -> str:
    """Draw the floor and the ends of the vertical and, if `ends`, the horizontal axis."""
    parts = [
        svg.line(x_of.first, floor, x_of.last, floor, AXIS),
        svg.text(x_of.first - 4, top_y + 7, top, "end"),
        svg.text(x_of.first - 4, floor, bottom, "end"),
    ]
    if ends:
        parts.append(svg.text(x_of.first, floor + 13, axis_number(x_of.low), "start"))
        parts.append(svg.text(x_of.last, floor + 13, axis_number(x_of.high), "end"))
    return "".join(parts)


def _vertical_band(x_of: _Scale, band: Band | None) -> str:
    if band is None:
        return ""
    x = x_of(band[0])
    return svg.rect(x, TOP, x_of(min(band[1], x_of.high)) - x, BOTTOM - TOP, BAND, BAND_OPACITY)


def _vertical_marks(x_of: _Scale, marks: Sequence[Mark]) -> str:
    """Draw marks with their labels, those of neighbours on different heights."""
    parts = []
    for number, mark in enumerate(sorted(marks, key=lambda each: each.value)):
        x = x_of(mark.value)
        y = 9 + 11 * (number % 2)
        label_x, anchor = (x - 3, "end") if x > (LEFT + RIGHT) / 2 else (x + 3, "start")
        parts.append(svg.line(x, y - 8, x, BOTTOM, MARK, dashed=True))
        parts.append(svg.text(label_x, y, mark.label, anchor, MARK, outlined=True))
    return "".join(parts)


def _horizontal_marks(y_of: _Scale, marks: Sequence[Mark], left: float, right: float) -> str:
    """Draw marks as lines, and their labels above the data, which they would cover."""
    lines = [
        svg.line(left, y, right, y, MARK, dashed=True) for y in (y_of(each.value) for each in marks)
    ]
    labels = ", ".join(each.label for each in marks)
    return "".join(lines) + (svg.text(right, UPPER - 3, labels, "end", MARK) if labels else "")
