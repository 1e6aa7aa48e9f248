"""The jigsaw: tiles are moved, none is lost, every order is as likely as the others."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from viewstore.images.operators.jigsaw import (
    draw_permutation,
    edges,
    identity,
    rearranged,
    shapes,
)
from viewstore.randomness import Op, Stream


def picture(seed: int, height: int = 32, width: int = 32) -> Any:  # noqa: ANN401
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def tiles(view: Any, grid: int) -> list[bytes]:  # noqa: ANN401
    rows, columns = (edges(side, grid).tolist() for side in view.shape[:2])
    return [
        view[rows[y] : rows[y + 1], columns[x] : columns[x + 1]].tobytes()
        for y in range(grid)
        for x in range(grid)
    ]


@settings(max_examples=60, deadline=None)
@given(
    grid=st.integers(1, 15),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    row=st.integers(0, 2**40),
)
def test_tiles_are_kept_and_the_inverse_order_restores_the_picture(
    grid: int, height: int, width: int, row: int
) -> None:
    view = picture(1, height, width)
    order = draw_permutation(Stream(3), np.array([row]), 2, (height, width), grid)[0]
    assert sorted(order.tolist()) == list(range(grid * grid))
    moved = rearranged(view, order)
    assert tiles(moved, grid) == [tiles(view, grid)[tile] for tile in order]
    assert np.array_equal(rearranged(moved, np.argsort(order)), view)


def test_4_by_4_tiles_of_32_pixels_are_8_pixels_each() -> None:
    assert edges(32, 4).tolist() == [0, 8, 16, 24, 32]
    view = picture(2)
    order = draw_permutation(Stream(0), 5, 0, (32, 32), 4)
    assert not np.array_equal(order, identity(4))
    moved = rearranged(view, order.tolist())
    y, x = divmod(int(order[6]), 4)
    place = moved[8:16, 16:24]
    assert np.array_equal(place, view[8 * y : 8 * y + 8, 8 * x : 8 * x + 8])
    assert Counter(tiles(moved, 4)) == Counter(tiles(view, 4))


def by_fisher_and_yates(words: list[float], groups: list[list[int]]) -> list[int]:
    """Return the order that the words of the page give, one swap after another."""
    shown = list(range(sum(map(len, groups))))
    for group in groups:
        for last in range(len(group) - 1, 0, -1):
            other = group[int(words[group[last]] * (last + 1))]
            shown[group[last]], shown[other] = shown[other], shown[group[last]]
    return shown


@pytest.mark.parametrize("size", [(32, 32), (31, 40), (10, 11)])
def test_swaps_come_from_the_words_of_their_tiles(size: tuple[int, int]) -> None:
    grid = 3
    words = Stream(7).uniform(Op.JIGSAW, np.arange(50), 4, blocks=3)
    found = draw_permutation(Stream(7), np.arange(50), 4, size, grid)
    kinds: dict[tuple[int, ...], list[int]] = {}
    for tile, shape in enumerate(shapes(size, grid).tolist()):
        kinds.setdefault(tuple(shape), []).append(tile)
    for row in range(50):
        assert found[row].tolist() == by_fisher_and_yates(words[row].tolist(), list(kinds.values()))


def test_all_24_orders_of_four_tiles_are_equally_likely() -> None:
    orders = draw_permutation(Stream(1), np.arange(24_000), 0, (32, 32), 2)
    counts = Counter(map(tuple, orders.tolist()))
    assert len(counts) == 24
    # 1000 expected of each: chi-squared with 23 degrees of freedom exceeds 53 once in 3000.
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 53


def test_tiles_of_other_shapes_never_change_places() -> None:
    size, grid = (10, 11), 4
    shape = shapes(size, grid)
    assert len({tuple(each) for each in shape.tolist()}) == 4
    orders = draw_permutation(Stream(2), np.arange(200), 0, size, grid)
    assert (shape[orders] == shape).all()


def test_draws_of_many_rows_and_views_are_those_of_each_alone() -> None:
    together = draw_permutation(Stream(3), np.arange(6), np.array([[0], [9]]), (8, 8), 4)
    assert together.shape == (2, 6, 16)
    assert together.dtype == np.uint8
    for view, number in enumerate((0, 9)):
        for row in range(6):
            alone = draw_permutation(Stream(3), row, number, (8, 8), 4)
            assert np.array_equal(together[view, row], alone)
