"""How much crops of one image overlap: the figures that methods of hard views rest on."""

from __future__ import annotations

import itertools
from math import sqrt
from typing import Any

import numpy as np
import pytest

from viewstore.images.draws import draw_crop
from viewstore.randomness import Stream

MANY = 20_000
VIEWS = 4
PAIRS = list(itertools.combinations(range(VIEWS), 2))
ROUNDED = 5e-4  # the figures have three digits


def overlaps(height: int, width: int, scale: tuple[float, float]) -> tuple[Any, Any]:
    """Return IoU and the share of the first in the intersection, of every pair, [MANY, 6]."""
    box = draw_crop(
        Stream(11),
        np.arange(MANY)[:, None],
        np.arange(VIEWS),
        height,
        width,
        scale=scale,
        ratio=(3 / 4, 4 / 3),
    ).astype(np.float64)
    first, second = (box[:, list(side)] for side in zip(*PAIRS, strict=True))
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
    common = np.maximum(high - low, 0).prod(-1)
    areas = first[..., 2:].prod(-1), second[..., 2:].prod(-1)
    return common / (sum(areas) - common), common / areas[0]


def close(values: Any, figure: float) -> bool:  # noqa: ANN401
    """Return whether a mean is within 4 standard errors of a figure."""
    return bool(abs(values.mean() - figure) <= 4 * values.std() / sqrt(len(values)) + ROUNDED)


@pytest.mark.parametrize(
    ("size", "scale", "mean", "least", "ties", "inside"),
    [
        ((32, 32), (0.2, 1), 0.495, 0.318, 0.007, 0.75),
        ((32, 32), (0.08, 1), 0.409, 0.217, 0.022, 0.65),
        ((375, 500), (0.2, 1), 0.474, 0.286, None, None),
    ],
)
def test_crops_overlap_as_the_specification_says(
    size: tuple[int, int],
    scale: tuple[float, float],
    mean: float,
    least: float,
    ties: float | None,
    inside: float | None,
) -> None:
    iou, share = overlaps(*size, scale)
    assert close(iou[:, 0], mean)
    assert close(iou.min(axis=1), least)
    if ties is not None and inside is not None:
        assert close((iou == iou.min(axis=1, keepdims=True)).sum(axis=1) > 1, ties)
        assert (share[:, 0] > 0.5).mean() == pytest.approx(inside, abs=0.01)


def test_few_pairs_of_small_images_hardly_overlap() -> None:
    iou, _ = overlaps(32, 32, (0.2, 1))
    assert (iou[:, 0] <= 0.3).mean() == pytest.approx(0.16, abs=0.01)
    assert (iou[:, 0] <= 0.1).mean() == pytest.approx(0.01, abs=0.005)


def test_another_range_of_areas_would_be_noticed() -> None:
    iou, _ = overlaps(32, 32, (0.3, 1))
    assert not close(iou[:, 0], 0.495)
