"""The average precision of 11 points."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.train.eval.multilabel import (
    average_precision_11,
    mean_average_precision,
    one_hot,
)


def by_loops(scores: NDArray[np.float64], targets: NDArray[np.int8]) -> float:
    """Precision and recall at every rank, then the best at 11 recalls."""
    counted = [(s, t) for s, t in zip(scores.tolist(), targets.tolist(), strict=True) if t >= 0]
    ranked = sorted(counted, key=lambda each: -each[0])
    points, found, total = [], 0, sum(t == 1 for _, t in counted)
    for rank, (_, target) in enumerate(ranked, 1):
        found += target == 1
        points.append((found / total, found / rank))
    best = [max(p for r, p in points if r >= least / 10 - 1e-9) for least in range(11)]
    return sum(best) / 11


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([1, 0, -1]), min_size=1, max_size=30), st.integers(0, 99))
def test_it_is_that_of_loops(targets: list[int], seed: int) -> None:
    given_targets = np.array([1, *targets], np.int8)
    scores = np.random.default_rng(seed).normal(size=len(given_targets))
    assert average_precision_11(scores, given_targets) == pytest.approx(
        by_loops(scores, given_targets)
    )


def test_a_perfect_ranking_is_one_and_a_hand_made_one_is_known() -> None:
    targets = np.array([1, 1, 0, 0], np.int8)
    assert average_precision_11(np.array([4, 3, 2, 1]), targets) == 1
    # Ranks 1 and 3: precision 1 up to recall .5, then 2/3.
    assert average_precision_11(np.array([4, 2, 3, 1]), targets) == pytest.approx(
        (6 * 1 + 5 * 2 / 3) / 11
    )
    ignored = np.array([1, -1, 1, 0], np.int8)
    assert average_precision_11(np.array([4, 3, 2, 1]), ignored) == 1


def test_the_mean_is_over_classes_and_a_class_must_be_shown() -> None:
    scores = np.array([[4, 1], [3, 2], [2, 3], [1, 4]])
    targets = np.array([[1, 1], [1, 1], [0, 0], [0, 0]], np.int8)
    second = average_precision_11(scores[:, 1], targets[:, 1])
    assert mean_average_precision(scores, targets) == pytest.approx((1 + second) / 2)
    with pytest.raises(ConfigError, match="must have an image that shows it"):
        mean_average_precision(scores, np.zeros((4, 2), np.int8))


def test_labels_are_targets_of_one_class_each() -> None:
    assert one_hot(np.array([1, 0]), 3).tolist() == [[0, 1, 0], [1, 0, 0]]
