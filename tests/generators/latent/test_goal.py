"""The objective of W-search: its distances, bounds and gradients."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from viewstore.generators.latent.goal import Goal, distances, is_accepted, is_candidate, view_losses
from viewstore.store.constraints import pair_bound

GOAL = Goal(
    views=4,
    eps1=0.3,
    eps2=0.4,
    eps_min=0.15,
    lam=0.1,
    delta="l2",
    spread="per-view",
    stop="distances",
    loss_stop=1e-3,
    tol=0.02,
)


def unit(*shape: int, seed: int = 0) -> Tensor:
    noise = torch.Generator().manual_seed(seed)
    drawn = torch.randn(shape, generator=noise, dtype=torch.float64)
    return torch.nn.functional.normalize(drawn, dim=-1)


@pytest.mark.parametrize(
    ("eps1", "bound"),
    [(0.1, 0.151), (0.2, 0.301), (0.3, 0.448), (0.5, 0.732), (0.7, 0.991), (0.9, 1.215)],
)
def test_the_bound_has_its_published_values(eps1: float, bound: float) -> None:
    assert round(pair_bound(eps1, 8), 3) == bound


@pytest.mark.parametrize("views", range(2, 17))
def test_the_bound_is_what_an_optimiser_finds(views: int) -> None:
    """Points on the sphere at distance eps1 of a pole, pushed apart as far as they go."""
    eps1 = 0.7
    cosine = 1 - eps1**2 / 2
    free = torch.randn(views, views, generator=torch.Generator().manual_seed(views))
    free = free.double().requires_grad_()
    adam = torch.optim.Adam([free], lr=0.05)
    best = 0.0
    for _ in range(400):
        around = torch.nn.functional.normalize(free, dim=1) * math.sqrt(1 - cosine**2)
        points = torch.cat([around, torch.full((views, 1), cosine).double()], dim=1)
        pole = torch.zeros(views + 1, dtype=torch.float64)
        pole[-1] = 1
        measured = distances(points, pole)
        assert torch.allclose(measured.anchor, torch.tensor(eps1, dtype=torch.float64))
        mean = measured.mean_pair.mean()
        best = max(best, mean.item())
        adam.zero_grad()
        (-mean).backward()
        adam.step()
    assert best <= pair_bound(eps1, views) + 1e-9
    assert best == pytest.approx(pair_bound(eps1, views), rel=1e-3)


@pytest.mark.parametrize("delta", ["l2", "l1", "hinge", "cosine"])
@pytest.mark.parametrize("spread", ["per-view", "mean"])
@pytest.mark.parametrize("eps_min", [0.0, 1.3])
def test_the_loss_is_that_of_a_slow_loop(delta: str, spread: str, eps_min: float) -> None:
    goal = replace(GOAL, delta=delta, spread=spread, eps_min=eps_min, eps1=1.2, eps2=1.5)
    h, h0 = unit(3, 4, 6), unit(3, 6, seed=1)
    losses = view_losses(goal, distances(h, h0)).mean(-1)
    for sample in range(3):
        expected = slow_loss(goal, h[sample].numpy(), h0[sample].numpy())
        assert losses[sample].item() == pytest.approx(expected, rel=1e-6)


def slow_loss(goal: Goal, h: np.ndarray, h0: np.ndarray) -> float:
    total, means, floor = 0.0, [], 0.0
    for k in range(len(h)):
        d = math.dist(h[k], h0)
        total += {
            "l2": (d - goal.eps1) ** 2,
            "l1": abs(d - goal.eps1),
            "hinge": max(0.0, goal.eps1 - d),
            "cosine": (float(h[k] @ h0) - (1 - goal.eps1**2 / 2)) ** 2,
        }[goal.delta]
        pairs = [math.dist(h[k], h[j]) for j in range(len(h)) if j != k]
        means.append(sum(pairs) / len(pairs))
        floor += max(0.0, goal.eps_min - min(pairs)) if goal.eps_min else 0.0
    if goal.spread == "per-view":
        apart = sum(max(0.0, goal.eps2 - mean) for mean in means) / len(means)
    else:
        apart = max(0.0, goal.eps2 - sum(means) / len(means))
    return total / len(h) + goal.lam * apart + goal.lam * floor / len(h)


def test_gradients_are_right() -> None:
    anchor = unit(1, 6, seed=1)

    def loss(h: Tensor) -> Tensor:
        goal = replace(GOAL, eps1=1.2, eps2=1.6, eps_min=1.3)
        return view_losses(goal, distances(h, anchor)).sum()

    assert torch.autograd.gradcheck(loss, unit(1, 4, 6).requires_grad_())


def test_a_view_on_its_anchor_has_a_finite_gradient() -> None:
    anchor = unit(1, 6)
    h = anchor[:, None].repeat(1, 4, 1).requires_grad_()
    view_losses(GOAL, distances(h, anchor)).sum().backward()
    assert h.grad is not None
    assert bool(h.grad.isfinite().all())


def test_small_distances_keep_their_digits() -> None:
    """Through 2 - 2 h.h in float32, 1e-4 becomes 0 or 3e-4."""
    angle = torch.tensor([0.0, 1e-4], dtype=torch.float64)
    h = torch.stack([angle.cos(), angle.sin()], dim=-1).float()
    measured = distances(h, h[0])
    assert measured.anchor[1].item() == pytest.approx(1e-4, rel=1e-3)
    naive = (2 - 2 * (h[0] @ h[1])).clamp(min=0).sqrt().item()
    assert naive != pytest.approx(1e-4, rel=1e-1)


def measured(
    *, anchor: float = 0.3, mean_pair: float = 0.42, least_pair: float = 0.2, loss: float = 0.0
) -> np.ndarray:
    """Four views with the same figures."""
    return np.tile(np.array([anchor, mean_pair, least_pair, loss], np.float32), (4, 1))


def test_a_candidate_meets_every_distance() -> None:
    for good in (measured(), measured(anchor=0.314), measured(mean_pair=0.401)):
        assert is_candidate(GOAL, good, tol_search=0.015)
    for bad in (
        measured(anchor=0.316),
        measured(anchor=0.284),
        measured(mean_pair=0.399),
        measured(least_pair=0.149),
    ):
        assert not is_candidate(GOAL, bad, tol_search=0.015)


def test_one_view_that_is_off_refuses_the_sample() -> None:
    one_off = measured()
    one_off[2, 0] = 0.33
    assert not is_candidate(GOAL, one_off, tol_search=0.015)
    assert not is_accepted(GOAL, one_off)


def test_acceptance_allows_what_rounding_costs() -> None:
    assert is_accepted(GOAL, measured(anchor=0.319, mean_pair=0.393, least_pair=0.0))
    assert not is_accepted(GOAL, measured(anchor=0.321))
    assert not is_accepted(GOAL, measured(mean_pair=0.391))


def test_an_unreachable_mean_pair_is_asked_for_at_95_percent_of_the_bound() -> None:
    goal = replace(GOAL, eps2=9.0)
    bound = pair_bound(0.3, 4)
    assert is_candidate(goal, measured(mean_pair=0.951 * bound), tol_search=0.015)
    assert not is_candidate(goal, measured(mean_pair=0.949 * bound), tol_search=0.015)


def test_without_a_push_pairs_are_not_asked_for() -> None:
    goal = replace(GOAL, lam=0.0)
    assert is_candidate(goal, measured(mean_pair=0.0, least_pair=0.0), tol_search=0.015)
    assert is_accepted(goal, measured(mean_pair=0.0, least_pair=0.0))


def test_a_hinge_asks_for_eps1_or_more() -> None:
    goal = replace(GOAL, delta="hinge")
    assert is_candidate(goal, measured(anchor=0.9), tol_search=0.015)
    assert not is_candidate(goal, measured(anchor=0.28), tol_search=0.015)


def test_a_search_by_loss_stops_by_it_and_keeps_to_the_distance() -> None:
    goal = replace(GOAL, stop="loss")
    assert is_candidate(goal, measured(anchor=0.9, loss=9e-4), tol_search=0.015)
    assert not is_candidate(goal, measured(loss=1.1e-3), tol_search=0.015)
    assert is_accepted(goal, measured(mean_pair=0.0))
    assert not is_accepted(goal, measured(anchor=0.33))
