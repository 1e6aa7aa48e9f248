"""The grid of shards: each state has a shape of its own, and its cells are bounded."""

from __future__ import annotations

import re

import pytest

from viewstore.inspect.shard_grid import MOST_CELLS, shard_grid, shards_of_a_cell


def cells(svg: str) -> dict[str, int]:
    """Return how many cells of which kind a grid has."""
    return {kind: path.count("M") for kind, path in re.findall(r'class="(\w+)" d="([^"]*)"', svg)}


def test_a_cell_is_a_shard_and_slow_ones_are_committed_too() -> None:
    grid = shard_grid(10, [3, 7], [0, 1, 9])
    assert cells(grid) == {"done": 8, "slow": 3, "missing": 2}
    assert 'aria-label="10 shards: 2 missing, 3 slow"' in grid
    assert "style" not in grid


@pytest.mark.parametrize("shards", [1, MOST_CELLS, MOST_CELLS + 1, 1_000_000])
def test_a_grid_of_many_shards_stays_small(shards: int) -> None:
    each = shards_of_a_cell(shards)
    grid = shard_grid(shards, [shards - 1], [])
    found = cells(grid)
    assert found["missing"] == 1
    assert sum(found.values()) == -(-shards // each) <= MOST_CELLS
    assert len(grid) < 60_000


def test_a_cell_of_several_is_missing_where_one_of_them_is() -> None:
    grid = shard_grid(2 * MOST_CELLS, [0, 1, 5], [8, 9])
    assert cells(grid) == {"done": MOST_CELLS - 2, "slow": 1, "missing": 2}
