"""Charts as SVG text, from numbers alone: presentation attributes only, all text escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 300, 130
LEFT, RIGHT, TOP, BOTTOM = 34, 10, 26, 18
WIDEST, MOST_LABELS = 60, 10  # of a bar, in pixels; of bars with a label
BAR, BAND, MARK, AXIS, TEXT = "#0072B2", "#009E73", "#A32800", "#9A9A9A", "#444444"


@dataclass(frozen=True)
class Mark:
    """A labelled line at a value of the horizontal or, in `ranges`, the vertical axis."""

    value: float
    label: str


@dataclass(frozen=True)
class Bar:
    """How many values lie in [low, high); `label` names the one value of a bar that has one."""

    low: float
    high: float
    count: int
    label: str = ""


@dataclass(frozen=True)
class Range:
    """Percentiles 5, 25, 50, 75 and 95 of a group of values."""

    label: str
    percentiles: tuple[float, float, float, float, float]


@dataclass(frozen=True)
class _Scale:
    """Values low..high onto pixels first..last."""

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
    band: tuple[float, float] | None = None,
) -> str:
    """Return bars over their values; `band` is shaded, `marks` are drawn where they lie."""
    edges = [edge for bar in bars for edge in (bar.low, bar.high)]
    across = _across(edges + _shown(marks, band))
    top = max((bar.count for bar in bars), default=0)
    down = _Scale(0, top or 1, HEIGHT - BOTTOM, TOP)
    parts = [_band_across(across, band)]
    for bar in bars:
        if bar.count:
            x, y = across(bar.low), down(bar.count)
            room = across(bar.high) - x
            width = min(max(room - 0.5, 0.8), WIDEST)
            parts.append(_rect(x + (room - 0.5 - width) / 2, y, width, HEIGHT - BOTTOM - y, BAR))
    labelled = [bar for bar in bars if bar.label]
    every = -(-len(labelled) // MOST_LABELS) or 1
    for bar in labelled[::every]:
        parts.append(_text(across((bar.low + bar.high) / 2), HEIGHT - 5, bar.label, "middle"))
    parts.append(_axes(across, f"{top:,}", "0", ends=not labelled))
    parts.append(_marks_across(across, marks))
    return _svg(title, parts)


def ranges(
    groups: Sequence[Range],
    *,
    title: str,
    marks: Sequence[Mark] = (),
    band: tuple[float, float] | None = None,
) -> str:
    """Return a box per group: percentiles 5 to 95 as a line, 25 to 75 as a box, 50 as a tick."""
    values = [value for group in groups for value in group.percentiles] + _shown(marks, band)
    down = _padded(values, HEIGHT - BOTTOM, TOP - 14)
    parts = []
    if band is not None:
        high, low = down(min(band[1], down.high)), down(band[0])
        parts.append(_rect(LEFT, high, WIDTH - LEFT - RIGHT, low - high, BAND, 0.18))
    step = (WIDTH - LEFT - RIGHT) / max(len(groups), 1)
    width = min(step * 0.6, 18)
    for number, group in enumerate(groups):
        middle = LEFT + step * (number + 0.5)
        p5, p25, p50, p75, p95 = (down(value) for value in group.percentiles)
        parts.append(_line(middle, p5, middle, p95, BAR))
        parts.append(_rect(middle - width / 2, p75, width, max(p25 - p75, 0.8), BAR, 0.45))
        parts.append(_line(middle - width / 2, p50, middle + width / 2, p50, TEXT, 1.5))
        if len(groups) <= 24 or number % 10 == 0:
            parts.append(_text(middle, HEIGHT - 5, group.label, "middle"))
    for mark in marks:
        y = down(mark.value)
        parts.append(_line(LEFT, y, WIDTH - RIGHT, y, MARK, dashed=True))
        parts.append(_text(WIDTH - RIGHT, y - 3, mark.label, "end", MARK))
    parts.append(_line(LEFT, TOP - 14, LEFT, HEIGHT - BOTTOM, AXIS))
    parts.append(_text(LEFT - 4, TOP - 6, _number(down.high), "end"))
    parts.append(_text(LEFT - 4, HEIGHT - BOTTOM, _number(down.low), "end"))
    return _svg(title, parts)


def scatter(
    points: Iterable[tuple[float, float]],
    *,
    title: str,
    band: tuple[float, float] | None = None,
    level: Mark | None = None,
) -> str:
    """Return points; `band` is shaded across, `level` is a line at a height."""
    pairs = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    across = _across([x for x, _ in pairs] + _shown((), band))
    levels = [y for _, y in pairs] + ([level.value] if level else [])
    down = _padded(levels, HEIGHT - BOTTOM, TOP)
    parts = [_band_across(across, band)]
    dots = "".join(f"M{across(x):.1f} {down(y):.1f}h0" for x, y in pairs)
    if dots:
        parts.append(
            f'<path d="{dots}" stroke="{BAR}" stroke-width="3" stroke-linecap="round" '
            'stroke-opacity="0.45" fill="none"/>'
        )
    if level is not None:
        y = down(level.value)
        parts.append(_line(LEFT, y, WIDTH - RIGHT, y, MARK, dashed=True))
        parts.append(_text(WIDTH - RIGHT, y - 3, level.label, "end", MARK))
    parts.append(_axes(across, _number(down.high), _number(down.low)))
    return _svg(title, parts)


def bars_of(low: float | None, high: float | None, counts: Sequence[int]) -> list[Bar]:
    """Return bars of the counts of equal bins between `low` and `high`, both None if empty.

    Whole numbers of few values get one bar each; otherwise bins are merged while most are empty.
    """
    if low is None or high is None or not counts:
        return []
    span = high - low
    if span == 0:
        return [Bar(low - 0.5, low + 0.5, sum(counts), _number(low))]
    if float(low).is_integer() and float(span).is_integer() and span < len(counts):
        bins = [min(len(counts) - 1, int(v * len(counts) / span)) for v in range(int(span) + 1)]
        if sum(counts[place] for place in bins) == sum(counts):
            return [
                Bar(low + v - 0.5, low + v + 0.5, counts[at], _number(low + v))
                for v, at in enumerate(bins)
            ]
    merged = list(counts)
    while len(merged) > 8 and sum(count == 0 for count in merged) > len(merged) // 2:
        merged = [merged[i] + merged[i + 1] for i in range(0, len(merged), 2)]
    step = span / len(merged)
    return [Bar(low + i * step, low + (i + 1) * step, n) for i, n in enumerate(merged)]


def _shown(marks: Sequence[Mark], band: tuple[float, float] | None) -> list[float]:
    ends = [] if band is None else [end for end in band if math.isfinite(end)]
    return [mark.value for mark in marks] + ends


def _across(values: Sequence[float]) -> _Scale:
    low, high = min(values, default=0.0), max(values, default=1.0)
    return _Scale(low, high if high > low else low + 1, LEFT, WIDTH - RIGHT)


def _padded(values: Sequence[float], first: float, last: float) -> _Scale:
    low, high = min(values, default=0.0), max(values, default=1.0)
    pad = (high - low) * 0.06 or 0.5
    return _Scale(low - pad, high + pad, first, last)


def _svg(title: str, parts: Iterable[str]) -> str:
    name = escape(title)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{name}" font-size="10">'
        f"<title>{name}</title>{''.join(parts)}</svg>"
    )


def _axes(across: _Scale, top: str, bottom: str, *, ends: bool = True) -> str:
    """Draw the floor and the ends of the vertical and, if `ends`, the horizontal axis."""
    floor = HEIGHT - BOTTOM
    parts = [
        _line(LEFT, floor, WIDTH - RIGHT, floor, AXIS),
        _text(LEFT - 4, TOP + 7, top, "end"),
        _text(LEFT - 4, floor, bottom, "end"),
    ]
    if ends:
        parts.append(_text(LEFT, HEIGHT - 5, _number(across.low), "start"))
        parts.append(_text(WIDTH - RIGHT, HEIGHT - 5, _number(across.high), "end"))
    return "".join(parts)


def _band_across(across: _Scale, band: tuple[float, float] | None) -> str:
    if band is None:
        return ""
    x = across(band[0])
    return _rect(x, TOP, across(min(band[1], across.high)) - x, HEIGHT - TOP - BOTTOM, BAND, 0.18)


def _marks_across(across: _Scale, marks: Sequence[Mark]) -> str:
    """Draw marks with their labels, those of neighbours on different heights."""
    parts = []
    for number, mark in enumerate(sorted(marks, key=lambda each: each.value)):
        x = across(mark.value)
        right = x > (LEFT + WIDTH - RIGHT) / 2
        y = 9 + 11 * (number % 2)
        parts.append(_line(x, y - 8, x, HEIGHT - BOTTOM, MARK, dashed=True))
        at = x - 3 if right else x + 3
        parts.append(_text(at, y, mark.label, "end" if right else "start", MARK))
    return "".join(parts)


def _rect(x: float, y: float, width: float, height: float, fill: str, opacity: float = 1) -> str:
    faded = "" if opacity == 1 else f' fill-opacity="{opacity}"'
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'fill="{fill}"{faded}/>'
    )


def _line(
    x0: float,
    y0: float,
    x1: float,
    y1: float,
    stroke: str,
    width: float = 1,
    dashed: bool = False,
) -> str:
    dashes = ' stroke-dasharray="3 2"' if dashed else ""
    return (
        f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" '
        f'stroke="{stroke}" stroke-width="{width}"{dashes}/>'
    )


def _text(x: float, y: float, text: str, anchor: str, fill: str = TEXT) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    # The label of a mark lies over data: a seam around its letters keeps it legible.
    seam = ' stroke="#ffffff" stroke-width="3" paint-order="stroke"' if fill == MARK else ""
    return f'<text {place} fill="{fill}"{seam}>{escape(text)}</text>'


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
