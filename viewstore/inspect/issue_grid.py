"""A grid with one cell a shard, as SVG: a colour and a sign for what became of it."""

from __future__ import annotations

from collections.abc import Sequence

from viewstore.inspect import svg
from viewstore.inspect.shard_grid import shards_of_a_cell
from viewstore.inspect.shard_states import STATES

ACROSS, SIDE, GAP = 25, 14, 2
# Colours of Okabe and Ito, and a sign: colour alone says nothing.
LOOKS = {
    "ok": ("#009E73", ""),
    "flawed": ("#56B4E9", "."),
    "off goal": ("#F0E442", "-"),
    "failed": ("#E69F00", "x"),
    "damaged": ("#CC79A7", "!"),
    "not built": ("#BBBBBB", "0"),
}


def state_grid(states: Sequence[str], *, title: str) -> str:
    """Return the states of shards, in their order, as a grid; neighbours of one cell the worst."""
    each = shards_of_a_cell(len(states)) or 1
    cells = [
        max(states[first : first + each], key=STATES.index) for first in range(0, len(states), each)
    ]
    parts = []
    for number, state in enumerate(cells):
        x, y = GAP + number % ACROSS * SIDE, GAP + number // ACROSS * SIDE
        colour, sign = LOOKS[state]
        parts.append(svg.rect(x, y, SIDE - GAP, SIDE - GAP, colour))
        if sign:
            parts.append(svg.text(x + (SIDE - GAP) / 2, y + 9.5, sign, "middle", "#000000"))
    width = GAP + SIDE * min(len(cells), ACROSS)
    return svg.document(width, GAP + SIDE * -(-len(cells) // ACROSS), title, parts)
