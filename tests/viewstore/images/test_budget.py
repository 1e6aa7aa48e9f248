"""Budgets of attacks: the ball in each norm and unit, against sums over values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from viewstore.errors import ConfigError
from viewstore.images.budget import Budget

STD = (0.2, 0.25, 0.5)


def levels(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, 3, 4, 5), generator=generator).float()


@settings(deadline=None)
@given(
    st.sampled_from(["linf", "l2"]),
    st.sampled_from(["pixel255", "unit", "normalized"]),
    st.floats(0.01, 4),
    st.integers(0, 100),
)
def test_steps_and_starts_stay_in_the_ball_and_in_the_range(
    norm: Any,  # noqa: ANN401
    units: Any,  # noqa: ANN401
    eps: float,
    seed: int,
) -> None:
    budget = Budget(norm=norm, units=units, eps=eps, step=2 * eps)
    clean = levels(seed)
    unit = budget.unit(STD, clean)
    generator = torch.Generator().manual_seed(seed)
    moved = budget.start(clean, torch.rand(clean.shape, generator=generator), unit)
    moved = budget.moved(moved, torch.randn(clean.shape, generator=generator), clean, unit)
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 255
    for image, from_ in zip(moved.double().numpy(), clean.double().numpy(), strict=True):
        far = 0.0
        for channel in range(3):
            of = {"pixel255": 1.0, "unit": 255.0, "normalized": 255.0 * STD[channel]}[units]
            delta = np.abs(image[channel] - from_[channel]) / of
            far = max(far, delta.max()) if norm == "linf" else far + float((delta**2).sum())
        far = far if norm == "linf" else far**0.5
        assert far <= eps * (1 + 1e-4) + 1e-4


def test_a_step_follows_the_sign_and_no_gradient_moves_nothing() -> None:
    clean = torch.full((1, 3, 1, 3), 100.0)
    gradient = torch.tensor([-2.0, 0.0, 0.1]).expand_as(clean)
    budget = Budget()
    moved = budget.moved(clean, gradient, clean, budget.unit(STD, clean))
    assert moved[0, 0, 0].tolist() == [99, 100, 101]


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"norm": "l1"}, "norm must be linf or l2, got 'l1'"),
        ({"units": "levels"}, "units must be pixel255 or unit or normalized"),
        ({"eps": 0}, "eps must be above 0, got 0"),
        ({"step": float("inf")}, "step must be above 0, got inf"),
        ({"steps": 0}, "steps must be a whole number from 1, got 0"),
        ({"steps": 1.5}, "steps must be a whole number from 1, got 1.5"),
    ],
)
def test_other_values_are_refused(given_: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Budget(**given_)
