"""The few SVG elements of which charts are made, as text: attributes only, all text escaped.

Style attributes would be blocked by the policy of the report's page.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

INK = "#444444"


def document(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    """Return a picture of `width` x `height` pixels; `title` describes it to screen readers."""
    name = escape(title)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{name}" font-size="10">'
        f"<title>{name}</title>{''.join(parts)}</svg>"
    )


def rect(x: float, y: float, width: float, height: float, fill: str, opacity: float = 1) -> str:
    """Return a filled rectangle with its upper left corner at (x, y)."""
    faded = "" if opacity == 1 else f' fill-opacity="{opacity}"'
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'fill="{fill}"{faded}/>'
    )


def line(
    x0: float,
    y0: float,
    x1: float,
    y1: float,
    stroke: str,
    width: float = 1,
    dashed: bool = False,
) -> str:
    """Return a line from (x0, y0) to (x1, y1)."""
    dashes = ' stroke-dasharray="3 2"' if dashed else ""
    return (
        f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" '
        f'stroke="{stroke}" stroke-width="{width}"{dashes}/>'
    )


def text(
    x: float, y: float, content: str, anchor: str, fill: str = INK, *, outlined: bool = False
) -> str:
    """Return text whose `anchor` (start, middle, end) is at (x, y).

    If `outlined`, its letters have a white outline and stay legible over data.
    """
    position = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    outline = ' stroke="#ffffff" stroke-width="3" paint-order="stroke"' if outlined else ""
    return f'<text {position} fill="{fill}"{outline}>{escape(content)}</text>'


def path(points: Iterable[tuple[float, float]], stroke: str, width: float = 1.5) -> str:
    """Return a line through points; nothing if there are none."""
    steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    if not steps:
        return ""
    return f'<path d="M{steps}" stroke="{stroke}" stroke-width="{width}" fill="none"/>'
