"""JigSaw: the tiles of a grid in another order. Source: DSSL (arXiv:2110.13555), section 4.1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.images.colours import Pixels
from viewstore.randomness import Integers, Op, Stream, integers

MAX_GRID = 15  # tiles a side: numbers of tiles stay below 255, which is a fill
Size = tuple[int, int]  # height, width
WORDS_A_BLOCK = 4


def edges(side: int, grid: int) -> NDArray[np.int64]:
    """Return where the tiles of a side of so many pixels begin and end, int64 [grid + 1].

    Tiles differ by a pixel where the grid does not divide the side.
    """
    return np.arange(grid + 1) * side // grid


def shapes(size: Size, grid: int) -> NDArray[np.int64]:
    """Return height and width of each tile, row by row, int64 [grid * grid, 2]."""
    heights, widths = (np.diff(edges(side, grid)) for side in size)
    return np.stack([heights.repeat(grid), np.tile(widths, grid)], axis=1)


def draw_permutation(
    stream: Stream, index: Integers, view: Integers, size: Size, grid: int
) -> NDArray[np.uint8]:
    """Return which tile each place shows, uint8 [..., grid * grid]; all orders are equally likely.

    Tiles change places with those of their own shape alone: Fisher and Yates within each shape,
    from its last tile on, each by the word of its number.
    """
    count = grid * grid
    blocks = -(-count // WORDS_A_BLOCK)
    u = stream.uniform(Op.JIGSAW, index, view, blocks=blocks)[..., :count]
    flat = u.reshape(-1, count)
    shown = np.tile(np.arange(count, dtype=np.uint8), (len(flat), 1))
    every = np.arange(len(flat))
    for alike in _alike(size, grid):
        for last in range(len(alike) - 1, 0, -1):
            place = alike[last]
            other = alike[integers(flat[:, place], last + 1)]
            moved = shown[every, other]
            shown[every, other] = shown[:, place]
            shown[:, place] = moved
    return shown.reshape(u.shape)


def _alike(size: Size, grid: int) -> list[NDArray[np.int64]]:
    """Return the numbers of the tiles of each shape, ascending."""
    _, kind = np.unique(shapes(size, grid), axis=0, return_inverse=True)
    return [np.flatnonzero(kind.reshape(-1) == each) for each in range(kind.max() + 1)]


def identity(grid: int) -> NDArray[np.uint8]:
    """Return the permutation that moves nothing, uint8 [grid * grid]."""
    return np.arange(grid * grid, dtype=np.uint8)


def rearranged(view: Pixels, permutation: Sequence[int] | NDArray[Any]) -> Pixels:
    """Return the view whose place i shows tile `permutation`[i], both counted row by row.

    Args:
        view: uint8 [H, W, C].
        permutation: Numbers of tiles, [grid * grid]; tiles that change places are of one shape.
    """
    grid = round(len(permutation) ** 0.5)
    rows, columns = (edges(side, grid).tolist() for side in view.shape[:2])
    moved = view.copy()
    for place, tile in enumerate(permutation):
        if place != tile:
            (y, x), (from_y, from_x) = divmod(place, grid), divmod(int(tile), grid)
            moved[rows[y] : rows[y + 1], columns[x] : columns[x + 1]] = view[
                rows[from_y] : rows[from_y + 1], columns[from_x] : columns[from_x + 1]
            ]
    return moved
