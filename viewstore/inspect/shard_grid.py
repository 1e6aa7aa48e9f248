"""The shards of a build as a grid of cells: committed, slow, missing. SVG from numbers; pure."""

from __future__ import annotations

from collections.abc import Collection

from viewstore.errors import counted
from viewstore.inspect import svg

CELL, ACROSS = 12, 64  # pixels of a cell with its gap, cells in a line
MOST_CELLS = 2048
SIDE = CELL - 3


def shard_grid(shards: int, missing: Collection[int], slow: Collection[int]) -> str:
    """Return one cell for each shard; where there are more than 2048, for several.

    Committed ones are full, slow ones full with a bar across, missing ones empty: colour alone
    says nothing. A cell of several is missing, or slow, where one of its shards is.
    """
    each = shards_of_a_cell(shards)
    kinds: dict[str, list[str]] = {"done": [], "slow": [], "missing": []}
    absent, late = {shard // each for shard in missing}, {shard // each for shard in slow}
    cells = -(-shards // each)
    for cell in range(cells):
        x, y = cell % ACROSS * CELL + 1, cell // ACROSS * CELL + 1
        kinds["missing" if cell in absent else "done"].append(f"M{x} {y}h{SIDE}v{SIDE}h-{SIDE}z")
        if cell in late and cell not in absent:
            kinds["slow"].append(f"M{x} {y + SIDE - 2}l{SIDE}-{SIDE - 4}")
    title = f"{counted(shards, 'shard')}: {len(missing)} missing, {len(slow)} slow"
    parts = [f'<path class="{kind}" d="{"".join(d)}"/>' for kind, d in kinds.items() if d]
    width, height = min(cells, ACROSS) * CELL, -(-cells // ACROSS) * CELL
    return svg.document(width, height, title, parts)


def shards_of_a_cell(shards: int) -> int:
    """Return for how many shards one cell stands."""
    return -(-shards // MOST_CELLS)
