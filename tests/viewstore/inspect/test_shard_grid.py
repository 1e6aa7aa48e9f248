"""The grid of shards: each state has a colour and a sign, and its cells are bounded."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from viewstore.inspect.pages.building import progress_drawn
from viewstore.inspect.shard_grid import BUILT, MOST_CELLS, STORED, shard_grid, shards_of_a_cell
from viewstore.inspect.shard_states import STATE_MEANINGS


def cells(svg: str) -> Counter[str]:
    """Return how many cells of each colour a grid has, and how many of each sign."""
    found: Counter[str] = Counter()
    for colour, squares in re.findall(r'<path fill="([^"]*)" d="([^"]*)"', svg):
        found[colour] += squares.count("M")
    for signs in re.findall(r"<text [^>]*>([^<]*)</text>", svg):
        found[signs[0]] += len(signs)
    return found


def of_build(shards: int, missing: list[int], slow: list[int]) -> str:
    each = {"shards": shards, "missing": missing, "slow": slow}
    return str(progress_drawn({"v": each})["grids"]["v"])


def test_a_cell_is_a_shard_and_slow_ones_have_a_bar() -> None:
    grid = of_build(10, [3, 7], [0, 1, 9])
    assert cells(grid) == {"#009E73": 8, "#BBBBBB": 2, "/": 3, "0": 2}
    assert 'aria-label="10 shards: 2 missing, 3 slow"' in grid
    assert "style" not in grid


@pytest.mark.parametrize("shards", [1, MOST_CELLS, MOST_CELLS + 1, 1_000_000])
def test_a_grid_of_many_shards_stays_small(shards: int) -> None:
    each = shards_of_a_cell(shards)
    states = ["committed"] * (shards - 1) + ["missing"]
    found = cells(shard_grid(states, BUILT, title="t"))
    assert found["#BBBBBB"] == found["0"] == 1
    assert sum(found.values()) - 1 == -(-shards // each) <= MOST_CELLS
    for state in BUILT:
        assert len(shard_grid([state] * shards, BUILT, title="t")) < 75_000


def test_a_cell_of_several_shows_the_worst_of_them() -> None:
    grid = of_build(2 * MOST_CELLS, [0, 1, 5], [4, 8, 9])
    assert cells(grid) == {"#009E73": MOST_CELLS - 2, "#BBBBBB": 2, "/": 1, "0": 2}


def test_no_shards_are_an_empty_grid_and_every_state_has_a_look() -> None:
    assert cells(shard_grid([], STORED, title="t")) == {}
    assert list(STORED) == list(STATE_MEANINGS)
