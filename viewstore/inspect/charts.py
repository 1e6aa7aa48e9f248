"""Charts as SVG text, from numbers alone: histogram, ranges of groups, scatter plot. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from viewstore.inspect import svg
from viewstore.inspect.distributions import Bar, Range
from viewstore.inspect.numbers import axis_number

WIDTH, HEIGHT = 300, 130
LEFT, RIGHT, TOP, BOTTOM = 34, WIDTH - 10, 26, HEIGHT - 18  # of the area of data
UPPER = TOP - 14  # top of that area where no labels lie above it
WIDEST, MOST_LABELS = 60, 10  # of a bar, in pixels; of bars with a label
BAR, BAND, MARK, AXIS = "#0072B2", "#009E73", "#A32800", "#9A9A9A"
BAND_OPACITY = 0.18

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
    x_of = _scale_across(edges + _extra_values(marks, band))
    most = max((bar.count for bar in bars), default=0)
    y_of = _Scale(0, most or 1, BOTTOM, TOP)
    parts = [_vertical_band(x_of, band)]
    for bar in bars:
        if bar.count:
            x, y = x_of(bar.low), y_of(bar.count)
            slot = x_of(bar.high) - x
            width = min(max(slot - 0.5, 0.8), WIDEST)
            parts.append(svg.rect(x + (slot - 0.5 - width) / 2, y, width, BOTTOM - y, BAR))
    labelled = [bar for bar in bars if bar.label]
    every = -(-len(labelled) // MOST_LABELS) or 1
    for bar in labelled[::every]:
        parts.append(svg.text(x_of((bar.low + bar.high) / 2), HEIGHT - 5, bar.label, "middle"))
    parts.append(_axes(x_of, f"{most:,}", "0", ends=not labelled))
    parts.append(_vertical_marks(x_of, marks))
    return svg.document(WIDTH, HEIGHT, title, parts)


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
    parts = []
    if band is not None:
        top, bottom = y_of(min(band[1], y_of.high)), y_of(band[0])
        parts.append(svg.rect(LEFT, top, RIGHT - LEFT, bottom - top, BAND, BAND_OPACITY))
    step = (RIGHT - LEFT) / max(len(groups), 1)
    width = min(step * 0.6, 18)
    for number, group in enumerate(groups):
        middle = LEFT + step * (number + 0.5)
        p5, p25, p50, p75, p95 = (y_of(value) for value in group.percentiles)
        parts.append(svg.line(middle, p5, middle, p95, BAR))
        parts.append(svg.rect(middle - width / 2, p75, width, max(p25 - p75, 0.8), BAR, 0.45))
        parts.append(svg.line(middle - width / 2, p50, middle + width / 2, p50, svg.INK, 1.5))
        if len(groups) <= 24 or number % 10 == 0:
            parts.append(svg.text(middle, HEIGHT - 5, group.label, "middle"))
    parts += [_horizontal_mark(y_of, mark) for mark in marks]
    parts.append(svg.line(LEFT, UPPER, LEFT, BOTTOM, AXIS))
    parts.append(svg.text(LEFT - 4, TOP - 6, axis_number(y_of.high), "end"))
    parts.append(svg.text(LEFT - 4, BOTTOM, axis_number(y_of.low), "end"))
    return svg.document(WIDTH, HEIGHT, title, parts)


def scatter(
    points: Iterable[tuple[float, float]],
    *,
    title: str,
    band: Band | None = None,
    level: Mark | None = None,
) -> str:
    """Return the finite ones of `points` as dots.

    `band` is shaded on the horizontal axis, `level` is a line at a value of the vertical one.
    """
    pairs = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    x_of = _scale_across([x for x, _ in pairs] + _extra_values((), band))
    levels = [y for _, y in pairs] + ([level.value] if level else [])
    y_of = _padded_scale(levels, BOTTOM, TOP)
    parts = [_vertical_band(x_of, band), svg.dots(((x_of(x), y_of(y)) for x, y in pairs), BAR)]
    if level is not None:
        parts.append(_horizontal_mark(y_of, level))
    parts.append(_axes(x_of, axis_number(y_of.high), axis_number(y_of.low)))
    return svg.document(WIDTH, HEIGHT, title, parts)


def _extra_values(marks: Sequence[Mark], band: Band | None) -> list[float]:
    """Return the values of marks and band, which an axis must hold beside the data."""
    ends = [] if band is None else [end for end in band if math.isfinite(end)]
    return [mark.value for mark in marks] + ends


def _scale_across(values: Sequence[float]) -> _Scale:
    low, high = min(values, default=0.0), max(values, default=1.0)
    return _Scale(low, high if high > low else low + 1, LEFT, RIGHT)


def _padded_scale(values: Sequence[float], first: float, last: float) -> _Scale:
    low, high = min(values, default=0.0), max(values, default=1.0)
    pad = (high - low) * 0.06 or 0.5
    return _Scale(low - pad, high + pad, first, last)


def _axes(x_of: _Scale, top: str, bottom: str, *, ends: bool = True) -> str:
    """Draw the floor and the ends of the vertical and, if `ends`, the horizontal axis."""
    parts = [
        svg.line(LEFT, BOTTOM, RIGHT, BOTTOM, AXIS),
        svg.text(LEFT - 4, TOP + 7, top, "end"),
        svg.text(LEFT - 4, BOTTOM, bottom, "end"),
    ]
    if ends:
        parts.append(svg.text(LEFT, HEIGHT - 5, axis_number(x_of.low), "start"))
        parts.append(svg.text(RIGHT, HEIGHT - 5, axis_number(x_of.high), "end"))
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


def _horizontal_mark(y_of: _Scale, mark: Mark) -> str:
    y = y_of(mark.value)
    label = svg.text(RIGHT, y - 3, mark.label, "end", MARK, outlined=True)
    return svg.line(LEFT, y, RIGHT, y, MARK, dashed=True) + label
