"""The map of an embedding as SVG: density of all points, some by colour and shape, links."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import counted
from viewstore.inspect import svg
from viewstore.inspect.numbers import axis_number

WIDTH, HEIGHT, EDGE = 640, 480, 22
EDGE_COLOUR = "#333333"
# Okabe and Ito, black last; classes differ in shape too. Steps go from dark to light as numbers go
# from low to high, and grow; the map is white in either scheme, and so marks have a dark edge.
CLASS_COLOURS = (
    "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#F0E442", "#000000",
)  # fmt: skip
STEP_COLOURS = ("#440154", "#414487", "#2A788E", "#22A884", "#7AD151", "#FDE725")
STEP_RADII = (2.0, 2.5, 3.0, 3.5, 4.0, 4.5)
OTHER, SINGLE, PIN = "#8A8A8A", "#0072B2", "#A32800"
_CLASS_SHAPES = (
    "m-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z",  # circle
    "m-2.7-2.7h5.4v5.4h-5.4z",  # square
    "m0-3.6l3.3 5.8h-6.6z",  # triangle
    "m0-3.8l3 3.8l-3 3.8l-3-3.8z",  # diamond
    "m-1-3.4h2v2.4h2.4v2h-2.4v2.4h-2v-2.4h-2.4v-2h2.4z",  # plus
    "m0 3.6l3.3-5.8h-6.6z",  # triangle, down
    "m-3.6-1.2h7.2v2.4h-7.2z",  # bar
)
_SHAPES = (
    *_CLASS_SHAPES,
    *(f"m-{r} 0a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0-{2 * r} 0z" for r in STEP_RADII),
)


@dataclass(frozen=True)
class Ends:
    """What lies at the edges of the map."""

    left: float
    right: float
    low: float
    high: float

    def x(self, value: float) -> float:
        """Return the place of a value of the first component, in pixels."""
        return EDGE + (value - self.left) / (self.right - self.left) * (WIDTH - 2 * EDGE)

    def y(self, value: float) -> float:
        """Return the place of a value of the second component, in pixels."""
        share = (value - self.low) / (self.high - self.low)
        return HEIGHT - EDGE - share * (HEIGHT - 2 * EDGE)


@dataclass(frozen=True, eq=False)
class Marks:
    """Points of a class or step: its words in the legend, colour, shape, and places [P, 2]."""

    label: str
    colour: str
    shape: int
    xy: NDArray[np.float64]


@dataclass(frozen=True)
class Pin:
    """A point that is pointed out: its place, and what stands beside it."""

    at: tuple[float, float]
    label: str


@dataclass(frozen=True)
class Cell:
    """A part of the map that is a link: its edges, and how many points it has."""

    x0: float
    x1: float
    y0: float
    y1: float
    count: int
    link: str


def class_look(number: int) -> tuple[str, int]:
    """Return colour and shape of class `number`; no two of 56 have both."""
    return CLASS_COLOURS[number % len(CLASS_COLOURS)], number % len(_CLASS_SHAPES)


def step_look(step: int, steps: int) -> tuple[str, int]:
    """Return colour and shape of step `step` of `steps`: the last ones are light and large."""
    place = step * (len(STEP_COLOURS) - 1) // max(steps - 1, 1)
    return STEP_COLOURS[place], len(_CLASS_SHAPES) + place


def sample_mark(colour: str, shape: int) -> str:
    """Return a mark for the legend, as a small picture."""
    path = f'<path d="M6 6{_SHAPES[shape]}" fill="{colour}" stroke="{EDGE_COLOUR}"/>'
    return f'<svg width="12" height="12" viewBox="0 0 12 12" aria-hidden="true">{path}</svg>'


def embedding_map(
    ends: Ends,
    density: NDArray[np.int64],
    marks: Sequence[Marks],
    cells: Sequence[Cell],
    pins: Sequence[Pin] = (),
    *,
    title: str,
) -> str:
    """Return the map.

    `density`: counts of equal parts of it, [rows from the lowest, columns]. Pins beyond its edge
    stand at the edge.
    """
    parts = [
        svg.rect(0, 0, WIDTH, HEIGHT, "#ffffff"),
        *_density(density),
        *(_points(ends, each) for each in marks if len(each.xy)),
        *_axes(ends),
        *(part for each in pins for part in _pin(ends, each)),
        *(_link(ends, each) for each in cells),
    ]
    # Not role="img": that would hide the links.
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="group" aria-label="{escape(title)}" font-size="10">'
        f"{''.join(parts)}</svg>"
    )


def _density(counts: NDArray[np.int64]) -> Iterator[str]:
    most = max(1, int(counts.max(initial=0)))
    rows, columns = counts.shape
    width, height = (WIDTH - 2 * EDGE) / columns, (HEIGHT - 2 * EDGE) / rows
    for row, column in np.argwhere(counts).tolist():
        x, y = EDGE + column * width, HEIGHT - EDGE - (row + 1) * height
        opacity = round(0.06 + 0.34 * sqrt(counts[row, column] / most), 2)
        yield svg.rect(x, y, width, height, "#6A7A8A", opacity)


def _points(ends: Ends, marks: Marks) -> str:
    shape = _SHAPES[marks.shape]
    path = "".join(f"M{ends.x(x):.1f} {ends.y(y):.1f}{shape}" for x, y in marks.xy.tolist())
    return (
        f'<path d="{path}" fill="{marks.colour}" fill-opacity="0.8" '
        f'stroke="{EDGE_COLOUR}" stroke-width="0.4"/>'
    )


def _pin(ends: Ends, pin: Pin) -> tuple[str, str]:
    x = ends.x(min(max(pin.at[0], ends.left), ends.right))
    y = ends.y(min(max(pin.at[1], ends.low), ends.high))
    side, anchor = (9, "start") if x < WIDTH - 4 * EDGE else (-9, "end")
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6.5" fill="none" stroke="{PIN}" stroke-width="2"/>',
        f'<text x="{x + side:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}" font-size="12" '
        f'font-weight="bold" fill="{PIN}" stroke="#ffffff" stroke-width="3" '
        f'paint-order="stroke">{escape(pin.label)}</text>',
    )


def _axes(ends: Ends) -> list[str]:
    bottom = HEIGHT - 7
    return [
        svg.text(EDGE, bottom, axis_number(ends.left), "start"),
        svg.text(WIDTH - EDGE, bottom, axis_number(ends.right), "end"),
        svg.text(WIDTH / 2, bottom, "first component", "middle"),
        svg.text(4, HEIGHT - EDGE - 4, axis_number(ends.low), "start"),
        svg.text(4, 12, f"{axis_number(ends.high)} second component", "start"),
    ]


def _link(ends: Ends, cell: Cell) -> str:
    x, y = ends.x(cell.x0), ends.y(cell.y1)
    name = escape(f"{counted(cell.count, 'view')}, x from {cell.x0:g}, y from {cell.y0:g}")
    return (
        f'<a class="cell" href="{escape(cell.link)}" aria-label="{name}">'
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{ends.x(cell.x1) - x:.1f}" '
        f'height="{ends.y(cell.y0) - y:.1f}" fill="#ffffff" fill-opacity="0"/>'
        f"<title>{name}</title></a>"
    )
