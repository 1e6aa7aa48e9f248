"""The map of an embedding as SVG: density of all points, some by colour and shape, links."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from viewstore.inspect import svg
from viewstore.inspect.numbers import axis_number

WIDTH, HEIGHT, EDGE = 640, 480, 22
# Okabe and Ito, black last; classes differ in shape too. Steps go from light to dark.
CLASS_COLOURS = (
    "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#F0E442", "#000000",
)  # fmt: skip
STEP_COLOURS = ("#A0DA39", "#4AC16D", "#1FA187", "#277F8E", "#365C8D", "#440154")
OTHER = "#8A8A8A"
_SHAPES = (
    "m-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z",  # circle
    "m-2.7-2.7h5.4v5.4h-5.4z",  # square
    "m0-3.6l3.3 5.8h-6.6z",  # triangle
    "m0-3.8l3 3.8l-3 3.8l-3-3.8z",  # diamond
    "m-1-3.4h2v2.4h2.4v2h-2.4v2.4h-2v-2.4h-2.4v-2h2.4z",  # plus
    "m0 3.6l3.3-5.8h-6.6z",  # triangle, down
    "m-3.6-1.2h7.2v2.4h-7.2z",  # bar
)


@dataclass(frozen=True, eq=False)
class Marks:
    """Points of a class or step: its words in the legend, colour, shape, and places [P, 2]."""

    label: str
    colour: str
    shape: int
    xy: NDArray[np.float64]


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
    return CLASS_COLOURS[number % len(CLASS_COLOURS)], number % len(_SHAPES)


def sample_mark(colour: str, shape: int) -> str:
    """Return a mark for the legend, as a small picture."""
    path = f'<path d="M6 6{_SHAPES[shape]}" fill="{colour}"/>'
    return f'<svg width="12" height="12" viewBox="0 0 12 12" aria-hidden="true">{path}</svg>'


def embedding_map(
    x_edges: NDArray[np.float64],
    y_edges: NDArray[np.float64],
    density: NDArray[np.int64],
    marks: Sequence[Marks],
    cells: Sequence[Cell],
    *,
    title: str,
) -> str:
    """Return the map between the first and last of its edges.

    `density`: counts of equal parts of it, [rows from the lowest, columns].
    """

    def x_of(x: float) -> float:
        share = (x - x_edges[0]) / (x_edges[-1] - x_edges[0])
        return float(EDGE + share * (WIDTH - 2 * EDGE))

    def y_of(y: float) -> float:
        share = (y - y_edges[0]) / (y_edges[-1] - y_edges[0])
        return float(HEIGHT - EDGE - share * (HEIGHT - 2 * EDGE))

    parts = [svg.rect(0, 0, WIDTH, HEIGHT, "#ffffff")]
    most = max(1, int(density.max(initial=0)))
    rows, columns = density.shape
    width, height = (WIDTH - 2 * EDGE) / columns, (HEIGHT - 2 * EDGE) / rows
    for row, column in np.argwhere(density).tolist():
        x, y = EDGE + column * width, HEIGHT - EDGE - (row + 1) * height
        opacity = round(0.06 + 0.34 * sqrt(density[row, column] / most), 2)
        parts.append(svg.rect(x, y, width, height, "#6A7A8A", opacity))
    for each in marks:
        path = "".join(f"M{x_of(x):.1f} {y_of(y):.1f}{_SHAPES[each.shape]}" for x, y in each.xy)
        if path:
            parts.append(
                f'<path d="{path}" fill="{each.colour}" fill-opacity="0.8" stroke="#ffffff" '
                'stroke-width="0.4"/>'
            )
    ends = (axis_number(float(each)) for each in (*x_edges[[0, -1]], *y_edges[[0, -1]]))
    left, right, low, high = ends
    parts += [
        svg.text(EDGE, HEIGHT - 7, left, "start"),
        svg.text(WIDTH - EDGE, HEIGHT - 7, right, "end"),
        svg.text(WIDTH / 2, HEIGHT - 7, "first component", "middle"),
        svg.text(4, HEIGHT - EDGE - 4, low, "start"),
        svg.text(4, 12, f"{high} second component", "start"),
    ]
    for cell in cells:
        x, y = x_of(cell.x0), y_of(cell.y1)
        name = escape(f"{cell.count} views, x from {cell.x0:g}, y from {cell.y0:g}")
        parts.append(
            f'<a class="cell" href="{escape(cell.link)}" aria-label="{name}">'
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{x_of(cell.x1) - x:.1f}" '
            f'height="{y_of(cell.y0) - y:.1f}" fill="#ffffff" fill-opacity="0"/>'
            f"<title>{name}</title></a>"
        )
    # Not role="img": that would hide the links.
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="group" aria-label="{escape(title)}" font-size="10">'
        f"{''.join(parts)}</svg>"
    )
