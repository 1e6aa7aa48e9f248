"""Masks of patches: blocks up to a ratio, by sample and view and nothing else."""

from __future__ import annotations

import time
from math import exp, log, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from viewstore.errors import ConfigError
from viewstore.images.masks import block_masks
from viewstore.randomness import Op, Stream


@settings(max_examples=60, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 16), st.integers(1, 16)),
    ratio=st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0]),
    seed=st.integers(0, 2**53 - 1),
)
def test_no_mask_hides_more_than_its_ratio_and_few_hide_less(
    grid: tuple[int, int], ratio: float, seed: int
) -> None:
    masks = block_masks(Stream(seed), np.arange(64), 1, grid=grid, ratio=ratio)
    assert (masks.shape, masks.dtype) == ((64, grid[0] * grid[1]), np.bool_)
    wanted = int(ratio * grid[0] * grid[1])
    counts = masks.sum(axis=1)
    assert counts.max() <= wanted
    assert counts.min() >= 0.8 * wanted - 1
    if ratio == 0.3:
        assert counts.mean() >= 0.98 * wanted


def test_a_mask_is_that_of_a_loop_over_its_blocks() -> None:
    """One sample at a time, in sets of patches, by the words of docs/format.md."""
    grid, ratio, stream = (14, 9), 0.3, Stream(3, 8)
    height, width = grid
    masks = block_masks(stream, np.arange(50), 2, grid=grid, ratio=ratio)
    for row in range(50):
        masked: set[tuple[int, int]] = set()
        for block in range(64):
            left = int(ratio * height * width) - len(masked)
            if not left:
                break
            u = stream.uniform(Op.MASK, row, 2, first_block=block)
            least = min(left, (min(grid) / 3) ** 2)
            area, aspect = least + u[0] * (left - least), exp((2 * u[1] - 1) * log(1 / 0.3))
            tall = min(height, max(1, round(sqrt(area * aspect))))
            wide = min(width, max(1, round(sqrt(area / aspect))))
            top, first = int(u[2] * (height - tall + 1)), int(u[3] * (width - wide + 1))
            new = {(y, x) for y in range(top, top + tall) for x in range(first, first + wide)}
            if len(new - masked) <= left:
                masked |= new
        expected = {y * width + x for y, x in masked}
        assert set(np.flatnonzero(masks[row]).tolist()) == expected


def test_masks_go_by_sample_view_epoch_and_seed_alone() -> None:
    def masks(stream: Stream, rows: Any, view: int) -> Any:  # noqa: ANN401
        return block_masks(stream, np.asarray(rows), view, grid=(14, 14))

    whole = masks(Stream(1, 2), range(40), 0)
    assert np.array_equal(whole[[31, 4]], masks(Stream(1, 2), [31, 4], 0))
    for other in (masks(Stream(2, 2), range(40), 0), masks(Stream(1, 3), range(40), 0)):
        assert (whole != other).any(axis=1).all()
    assert (whole != masks(Stream(1, 2), range(40), 1)).any(axis=1).all()
    assert len({mask.tobytes() for mask in whole}) == 40


def test_patches_lie_in_blocks() -> None:
    """Beside a masked patch most are masked; of scattered ones less than a third would be."""
    masks = block_masks(Stream(0), np.arange(500), 0, grid=(14, 14)).reshape(-1, 14, 14)
    beside = masks[:, :, 1:][masks[:, :, :-1]].mean()
    assert beside > 0.7
    assert masks.any(axis=0).all()  # and anywhere


def test_a_batch_of_masks_takes_a_few_milliseconds() -> None:
    spent = []
    for epoch in range(5):
        began = time.perf_counter()
        block_masks(Stream(0, epoch), np.arange(256), 0, grid=(14, 14))
        spent.append(time.perf_counter() - began)
    assert min(spent) < 0.02


@pytest.mark.parametrize(
    ("grid", "ratio", "message"),
    [
        ((0, 14), 0.3, r"grid must have at least one patch a side, got \(0, 14\)"),
        ((14, 14), 1.2, r"ratio must be in \[0, 1\], got 1.2"),
        ((14, 14), float("nan"), r"ratio must be in \[0, 1\], got nan"),
    ],
)
def test_masks_that_cannot_be_are_refused(
    grid: tuple[int, int], ratio: float, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        block_masks(Stream(0), np.arange(2), 0, grid=grid, ratio=ratio)
