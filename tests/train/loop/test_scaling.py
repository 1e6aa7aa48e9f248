"""Losses scaled for float16, gradients clipped, steps skipped."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import nn

from viewstore.errors import CheckpointError, ConfigError
from viewstore.train.loop.scaling import PRECISIONS, Precision, Scaling

CPU = torch.device("cpu")


def trained(precision: Precision, factors: list[float], clip: float | None) -> tuple[Any, ...]:
    """Return weights, momentum, what the steps said and the scaling after steps of SGD."""
    parameter = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = torch.optim.SGD([parameter], lr=0.5, momentum=0.5)
    scaling = Scaling(precision, CPU)
    taken = []
    for factor in factors:
        optimizer.zero_grad()
        scaling.backward(factor * (parameter * torch.tensor([0.6, 0.8])).sum())
        taken.append(scaling.step(optimizer, clip=clip))
    momentum = optimizer.state_dict()["state"].get(0, {}).get("momentum_buffer")
    return parameter.tolist(), momentum, taken, scaling


@pytest.mark.parametrize("precision", list(PRECISIONS))
@pytest.mark.parametrize("clip", [None, 0.25, 8.0])
def test_steps_are_those_of_the_loss_at_its_own_scale(
    precision: Precision, clip: float | None
) -> None:
    """The gradient has the norm 2, of which the clip leaves itself."""
    weights, _, taken, _ = trained(precision, [2.0, 2.0], clip)
    norm = min(2.0, clip or math.inf)
    moved = 0.5 * norm * (1 + 1.5)
    assert taken == [True, True]
    assert weights == pytest.approx([3 - 0.6 * moved, 4 - 0.8 * moved], rel=1e-5)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_step_that_overflows_is_skipped_and_said_to_be(clip: float | None) -> None:
    weights, momentum, taken, scaling = trained("fp16", [1e36], clip)
    assert (weights, momentum, taken) == ([3.0, 4.0], None, [False])
    assert scaling.state_dict() == {"scale": 32768.0, "_growth_tracker": 0}
    _, _, taken, scaling = trained("fp16", [1.0, 1e36, 1.0], clip)
    assert taken == [True, False, True]
    assert scaling.state_dict() == {"scale": 32768.0, "_growth_tracker": 1}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_precisions_have_no_state(precision: Precision) -> None:
    scaling = trained(precision, [1.0], None)[-1]
    assert scaling.state_dict() == {}
    scaling.load_state_dict({})


def test_a_scale_goes_on_from_its_state() -> None:
    state = trained("fp16", [1.0, 1e36, 1.0], None)[-1].state_dict()
    other = Scaling("fp16", CPU)
    other.load_state_dict(json.loads(json.dumps(state)))
    assert other.state_dict() == state
    parameter = nn.Parameter(torch.ones(1))
    other.backward(parameter.sum())
    assert parameter.grad is not None
    assert parameter.grad.item() == 32768.0


@pytest.mark.parametrize(
    ("precision", "state", "message"),
    [
        ("fp16", {}, "belongs to fp16 alone"),
        ("fp32", {"scale": 1.0, "_growth_tracker": 0}, "belongs to fp16 alone"),
        ("fp16", {"scale": 1.0}, "checkpoint.scaler must have other keys, see _growth_tracker"),
        ("fp16", {"scale": "1", "_growth_tracker": 0}, "checkpoint.scaler.scale must be float"),
        ("fp16", {"scale": 0.0, "_growth_tracker": 0}, "must be above 0"),
        ("fp16", {"scale": math.nan, "_growth_tracker": 0}, "must be above 0"),
        ("fp16", {"scale": 1.0, "_growth_tracker": -1}, "must be above 0"),
    ],
)
def test_states_that_are_none_are_refused(
    precision: Precision, state: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        Scaling(precision, CPU).load_state_dict(state)


def test_precisions_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="precision must be one of fp32, bf16, fp16, got 'fp8'"):
        Scaling("fp8", CPU)  # type: ignore[arg-type]
