"""CutMix's geometry against counted pixels, and its draws against Beta(5, 3)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from viewstore.images.cutmix import boxes_of, kept_shares
from viewstore.train.strategies.mixing import (
    drawn_centres,
    drawn_partners,
    drawn_shares,
    pasted,
)
from viewstore.train.views import At

AT = At(2, 9, 4, 20, 3)
SHARE = st.floats(0, 1, exclude_max=False)
UNIT = st.floats(0, 1, exclude_max=True)
ROWS = np.arange(100_000)


def loop_box(share: float, centre: tuple[float, float], height: int, width: int) -> tuple[int, ...]:
    """CutMix, point by point; (0, 0, 0, 0) where nothing is pasted."""
    h, w = (int(side * math.sqrt(1 - share)) for side in (height, width))
    y, x = math.floor(centre[0] * height), math.floor(centre[1] * width)
    x0, x1 = (min(max(x + sign * (w // 2), 0), width) for sign in (-1, 1))
    y0, y1 = (min(max(y + sign * (h // 2), 0), height) for sign in (-1, 1))
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else (0, 0, 0, 0)


@settings(deadline=None)
@given(
    st.lists(st.tuples(SHARE, UNIT, UNIT), min_size=1, max_size=6),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_the_share_is_that_of_counted_pixels(
    draws: list[tuple[float, float, float]], height: int, width: int
) -> None:
    shares, *centre = np.array(draws).T
    boxes = boxes_of(shares, np.stack(centre, 1), height, width)
    assert boxes.tolist() == [list(loop_box(s, (y, x), height, width)) for s, y, x in draws]
    kept = kept_shares(boxes, height, width)
    own = torch.zeros(len(draws), 2, height, width, dtype=torch.uint8)
    mixed = pasted(own, own + 1, torch.from_numpy(boxes))
    for image, share, (x0, y0, x1, y1) in zip(mixed, kept, boxes.tolist(), strict=True):
        count = sum(int(image[0, y, x] == 0) for y in range(height) for x in range(width))
        assert count / (height * width) == pytest.approx(share, abs=1e-12)
        assert torch.equal(image[0], image[1])
        assert bool((image[0, y0:y1, x0:x1] == 1).all())


def test_boxes_are_of_even_size_before_the_edge_cuts_them() -> None:
    shares = drawn_shares(ROWS[:5000], AT)
    boxes = boxes_of(shares, np.full((5000, 2), 0.5), 33, 33)
    sides = np.stack([boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]])
    assert (sides % 2 == 0).all()
    assert (sides[0] == sides[1]).all()
    assert len(np.unique(sides)) > 8


def test_shares_are_of_beta_5_3() -> None:
    shares = drawn_shares(ROWS, AT)
    assert shares.mean() == pytest.approx(5 / 8, abs=0.002)
    assert shares.std() == pytest.approx(math.sqrt(15 / (64 * 9)), abs=0.002)
    # Its distribution function is sum over j >= 5 of C(7, j) x^j (1 - x)^(7 - j).
    for x in (0.3, 0.5, 0.7, 0.9):
        below = sum(math.comb(7, j) * x**j * (1 - x) ** (7 - j) for j in range(5, 8))
        assert (shares < x).mean() == pytest.approx(below, abs=0.006)


@pytest.mark.parametrize(("side", "mean"), [(224, 0.740), (96, 0.744), (32, 0.759), (16, 0.779)])
def test_the_edge_raises_the_mean_share_that_is_kept(side: int, mean: float) -> None:
    shares, centres = drawn_shares(ROWS, AT), drawn_centres(ROWS, AT, side)
    kept = kept_shares(boxes_of(shares, centres, side, side), side, side)
    assert kept.mean() == pytest.approx(mean, abs=0.002)
    assert kept.std() == pytest.approx(0.12, abs=0.01)


def test_sizes_have_boxes_of_their_own_and_one_share() -> None:
    rows = ROWS[:100]
    large, small = (drawn_centres(rows, AT, side) for side in (224, 96))
    assert (large != small).any(1).all()
    assert np.array_equal(drawn_shares(rows, AT), drawn_shares(rows[::-1], AT)[::-1])


def test_draws_are_keyed_by_epoch_seed_and_row() -> None:
    shares = drawn_shares(ROWS[:50], AT)
    for other in (At(3, 9, 4, 20, 3), At(2, 9, 4, 20, 4)):
        assert (drawn_shares(ROWS[:50], other) != shares).all()
        assert (drawn_centres(ROWS[:50], other, 32) != drawn_centres(ROWS[:50], AT, 32)).any()
    assert np.array_equal(drawn_shares(ROWS[:50], At(2, 10, 4, 20, 3)), shares)


def test_partners_are_a_permutation_keyed_by_the_step() -> None:
    first = drawn_partners(33, AT)
    assert sorted(first) == list(range(33))
    assert np.array_equal(first, drawn_partners(33, AT))
    for other in (At(2, 10, 4, 20, 3), At(3, 9, 4, 20, 3), At(2, 9, 4, 20, 4)):
        assert not np.array_equal(first, drawn_partners(33, other))
    moved = [drawn_partners(6, At(0, step, 4, 20, 3)) for step in range(3000)]
    shares = np.stack([(np.array(moved) == each).mean(0) for each in range(6)])
    assert np.abs(shares - 1 / 6).max() < 0.03


def test_all_kept_or_a_partner_of_its_own_change_nothing() -> None:
    pixels = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    whole = boxes_of(np.ones(4), np.full((4, 2), 0.4), 16, 16)
    assert not whole.any()
    assert torch.equal(pasted(pixels, pixels.flip(0), torch.from_numpy(whole)), pixels)
    assert kept_shares(whole, 16, 16).tolist() == [1] * 4
    half = torch.from_numpy(boxes_of(np.full(4, 0.5), np.full((4, 2), 0.4), 16, 16))
    assert torch.equal(pasted(pixels, pixels, half), pixels)
    assert not torch.equal(pasted(pixels, pixels.flip(0), half), pixels)
