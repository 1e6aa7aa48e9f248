"""Barlow Twins against loops from the paper."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.train.methods.scores import random_rows, score_of, standard_plan
from tests.train.world import make_method, make_views
from viewstore.errors import ConfigError
from viewstore.train.methods.barlow_twins import BarlowTwinsSettings
from viewstore.train.methods.base import Method
from viewstore.train.plan import Pair, cosine, pull

WEIGHT = 0.3  # of redundancy; the default would hide half of the loss behind rounding
EPSILON = 1e-5  # of the batch norm that standardises


def make_barlow() -> Method:
    return make_method(BarlowTwinsSettings(redundancy_weight=WEIGHT))


def standardised(z: Tensor) -> list[list[float]]:
    columns = []
    for column in z.T.tolist():
        mean = sum(column) / len(column)
        variance = sum((value - mean) ** 2 for value in column) / len(column)
        columns.append([(value - mean) / (variance + EPSILON) ** 0.5 for value in column])
    return columns


def loop_loss(first: Tensor, second: Tensor, weights: list[float] | None = None) -> float:
    """Equation 1 of the paper, with a weight of each sample in the cross-correlation."""
    a, b = standardised(first), standardised(second)
    weights = weights or [1.0] * len(first)
    loss = 0.0
    for i, left in enumerate(a):
        for j, right in enumerate(b):
            terms = (w * x * y for w, x, y in zip(weights, left, right, strict=True))
            c = sum(terms) / len(first)
            loss += (c - 1) ** 2 if i == j else WEIGHT * c**2
    return loss


def reduced(z: Tensor, *pairs: Pair) -> Tensor:
    method = make_barlow()
    plan = standard_plan(method, make_views(("expert",) * len(z), samples=z.shape[1]))
    plan = replace(plan, pairs=pairs or plan.pairs)
    return method.reduce({"z": z}, {"z": z}, plan)


def test_the_loss_is_the_loop_of_the_paper() -> None:
    z = random_rows(2)
    assert reduced(z).item() == pytest.approx(loop_loss(*z), rel=1e-12)
    assert reduced(z, Pair(1, 0)).item() == pytest.approx(loop_loss(*z), rel=1e-12)


def test_more_views_are_the_mean_over_their_pairs() -> None:
    z = random_rows(3)
    losses = [loop_loss(z[s], z[t]) for s, t in ((0, 1), (0, 2), (1, 2))]
    assert reduced(z).item() == pytest.approx(sum(losses) / 3, rel=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    z = random_rows(2, samples=5, dimension=3).requires_grad_()
    assert torch.autograd.gradcheck(reduced, (z,))


def test_the_score_is_the_slope_of_the_loss_by_the_weight_of_a_sample() -> None:
    z = random_rows(2)
    for s, t in ((0, 1), (1, 0)):
        scores = score_of(make_barlow(), {"z": z}, {"z": z}, Pair(s, t))
        influence = scores.pull + scores.push
        for n in range(z.shape[1]):
            weights = [1.0] * z.shape[1]
            sides = []
            for step in (1e-6, -1e-6):
                weights[n] = 1 + step
                sides.append(loop_loss(z[0], z[1], weights))
            slope = (sides[0] - sides[1]) / 2e-6
            assert influence[n].item() == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_a_score_records_no_gradient_but_its_cosine_does() -> None:
    z = random_rows(2).requires_grad_()
    scores = score_of(make_barlow(), {"z": z}, {"z": z}, Pair(0, 1))
    assert not scores.pull.requires_grad
    assert scores.cosine.requires_grad
    assert scores.scale == 0


def test_other_terms_are_averaged_over_samples_beside_the_loss() -> None:
    z = random_rows(3)
    loss = reduced(z, Pair(0, 1, 0.5), Pair(2, 1, 0.25, cosine, detach=True))
    cosines = torch.nn.functional.cosine_similarity(z[2], z[1])
    expected = 0.5 * loop_loss(z[0], z[1]) - 0.25 * float(cosines.mean())
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    alone = reduced(z, Pair(2, 1, 2.0, pull))
    scores = score_of(make_barlow(), {"z": z}, {"z": z}, Pair(2, 1))
    torch.testing.assert_close(alone, 2 * scores.pull.mean())


def test_a_detached_target_gets_no_gradient() -> None:
    for pair in (Pair(0, 1, detach=True), Pair(0, 1, term=cosine, detach=True)):
        z = random_rows(2).requires_grad_()
        reduced(z, pair).backward()
        assert z.grad is not None
        assert z.grad[0].abs().max() > 0
        assert torch.equal(z.grad[1], torch.zeros_like(z.grad[1]))


def test_both_views_get_gradient() -> None:
    z = random_rows(2).requires_grad_()
    reduced(z).backward()
    assert z.grad is not None
    assert z.grad.abs().amax((1, 2)).min() > 0


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ConfigError, match="redundancy_weight must be at least 0, got -1"):
        BarlowTwinsSettings(redundancy_weight=-1)
