"""Shards as a grid of cells, each with a colour and a sign for its state. SVG from words; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from viewstore.inspect import svg

SIDE, GAP = 14, 2  # pixels of a cell with its gap, and of the gap
MOST_CELLS = 2048
NARROW = 25  # cells of a line where several grids stand beside each other
WIDE = 64  # where one has the width of the page

# Colours of Okabe and Ito, and a sign: colour alone says nothing. From good to bad.
Looks = Mapping[str, tuple[str, str]]
STORED: Looks = {
    "ok": ("#009E73", ""),
    "flawed": ("#56B4E9", "."),
    "off goal": ("#F0E442", "-"),
    "failed": ("#E69F00", "x"),
    "damaged": ("#CC79A7", "!"),
    "not built": ("#BBBBBB", "0"),
}
BUILT: Looks = {"committed": STORED["ok"], "slow": ("#009E73", "/"), "missing": ("#BBBBBB", "0")}


def shard_grid(states: Sequence[str], looks: Looks, *, title: str, across: int = NARROW) -> str:
    """Return one cell for each shard; where there are more than 2048, for several.

    Args:
        states: Of the shards, in their order; a cell of several shows the worst.
        looks: Colour and sign of each state, from good to bad.
        title: Describes the grid to screen readers.
        across: Cells of a line.
    """
    each, order = shards_of_a_cell(len(states)), list(looks)
    cells = [
        max(states[first : first + each], key=order.index)
        for first in range(0, len(states), each or 1)
    ]
    parts = []
    for state, (colour, sign) in looks.items():
        at = [divmod(number, across) for number, cell in enumerate(cells) if cell == state]
        corners = [(GAP + column * SIDE, GAP + line * SIDE) for line, column in at]
        if corners:
            parts.append(_squares(corners, colour))
        if corners and sign:
            parts.append(_signs(corners, sign))
    width = GAP + SIDE * min(len(cells), across)
    return svg.document(width, GAP + SIDE * -(-len(cells) // across), title, parts)


def shards_of_a_cell(shards: int) -> int:
    """Return for how many shards one cell stands."""
    return -(-shards // MOST_CELLS)


def _squares(corners: Sequence[tuple[int, int]], colour: str) -> str:
    side = SIDE - GAP
    squares = "".join(f"M{x} {y}h{side}v{side}h-{side}z" for x, y in corners)
    return f'<path fill="{colour}" d="{squares}"/>'


def _signs(corners: Sequence[tuple[int, int]], sign: str) -> str:
    """Return one text, with a place of its own for each of its letters."""
    across = " ".join(str(x + (SIDE - GAP) // 2) for x, _ in corners)
    down = " ".join(f"{y + 9.5:g}" for _, y in corners)
    return f'<text text-anchor="middle" x="{across}" y="{down}">{sign * len(corners)}</text>'
