"""LARS and LARC against their formulas, number by number, in float64."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from viewstore.train.optimizers import EPS, LARS

SHAPES = [(4, 3), (4,), (2, 2, 2)]
STEPS = 5


def tensors(seed: int, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES
    ]


def norm(values: list[float]) -> float:
    return math.sqrt(sum(value * value for value in values))


def by_hand(
    weights: list[float],
    gradients: list[list[float]],
    rates: list[float],
    *,
    decay: float,
    momentum: float,
    trust: float,
    clip: bool,
    adapt: bool = True,
) -> list[float]:
    """Return the weights of one tensor after a step with each of its gradients."""
    velocity = [0.0] * len(weights)
    for gradient, lr in zip(gradients, rates, strict=True):
        ratio = 1.0
        if adapt and norm(weights) > 0:
            ratio = trust * norm(weights) / (norm(gradient) + decay * norm(weights) + EPS)
            if clip:
                ratio = min(ratio / lr, 1.0)
        velocity = [
            momentum * v + ratio * (g + decay * w)
            for v, g, w in zip(velocity, gradient, weights, strict=True)
        ]
        weights = [w - lr * v for w, v in zip(weights, velocity, strict=True)]
    return weights


def stepped(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], step: int) -> None:
    for parameter, gradient in zip(parameters, tensors(100 + step), strict=True):
        parameter.grad = gradient.clone()
    optimizer.step()


# At a trust of 0.05 every ratio of these tensors is clipped at some rate and not at another.
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_are_those_of_the_formulas(clip: bool, decay: float, momentum: float) -> None:
    values: dict[str, Any] = {"momentum": momentum, "trust": 0.05, "clip": clip}
    parameters = [nn.Parameter(value) for value in tensors(0)]
    groups = [
        {"params": parameters[:1], "weight_decay": decay},
        {"params": parameters[1:2], "weight_decay": decay, "adapt": False},
        {"params": parameters[2:]},
    ]
    optimizer = LARS(groups, lr=1.0, **values)
    rates = [0.2, 0.01, 0.3, 0.02, 0.1]
    for step, lr in enumerate(rates):
        for group in optimizer.param_groups:
            group["lr"] = lr
        stepped(optimizer, parameters, step)
    for number, parameter in enumerate(parameters):
        gradients = [tensors(100 + step)[number].flatten().tolist() for step in range(STEPS)]
        weights = tensors(0)[number].flatten().tolist()
        wanted = by_hand(
            weights,
            gradients,
            rates,
            decay=0.0 if number == 2 else decay,
            adapt=number != 1,
            **values,
        )
        assert parameter.flatten().tolist() == pytest.approx(wanted, rel=1e-12)


def test_the_clip_is_met_on_both_sides() -> None:
    """What the test before relies on."""
    ratios = [
        0.05 * norm(w.flatten().tolist()) / norm(g.flatten().tolist())
        for w, g in zip(tensors(0), tensors(100), strict=True)
    ]
    assert all(0.01 < ratio < 0.2 for ratio in ratios)


@pytest.mark.parametrize("clip", [False, True])
def test_weights_that_are_zero_move_as_by_sgd(clip: bool) -> None:
    parameter = nn.Parameter(torch.zeros(3))
    optimizer = LARS([parameter], lr=0.5, weight_decay=0.1, clip=clip)
    parameter.grad = torch.tensor([1.0, 2.0, -4.0])
    optimizer.step()
    assert parameter.tolist() == [-0.5, -1.0, 2.0]


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_gradient_that_is_zero_decays_the_weights_alone(clip: bool, decay: float) -> None:
    parameter = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = LARS([parameter], lr=0.5, weight_decay=decay, trust=0.1, clip=clip)
    parameter.grad = torch.zeros(2)
    optimizer.step()
    # The ratio is 0.1 / 0.1 = 1, over the rate 2, of which the clip leaves 1.
    kept = 1 - 0.5 * decay
    assert parameter.tolist() == pytest.approx([3 * kept, 4 * kept])


def test_tensors_without_a_gradient_stay() -> None:
    parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))]
    optimizer = LARS(parameters, lr=0.5, weight_decay=0.1)
    parameters[0].grad = torch.ones(2)
    optimizer.step()
    assert parameters[1].tolist() == [1, 1]
    assert parameters[0].tolist() != [1, 1]
    assert list(optimizer.state_dict()["state"]) == [0]


def test_without_adaptation_it_is_the_sgd_of_torch() -> None:
    ours, theirs = ([nn.Parameter(value) for value in tensors(0)] for _ in range(2))
    lars = LARS([{"params": ours, "adapt": False}], lr=0.1, weight_decay=0.2)
    sgd = torch.optim.SGD(theirs, lr=0.1, momentum=0.9, weight_decay=0.2)
    for step in range(STEPS):
        stepped(lars, ours, step)
        stepped(sgd, theirs, step)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=0)


def test_the_scale_of_gradients_is_of_no_account() -> None:
    """Without weight decay the first step is as long whatever the loss is multiplied by."""
    moved = []
    for scale in (1.0, 1000.0):
        parameter = nn.Parameter(tensors(0)[0])
        parameter.grad = tensors(1)[0] * scale
        LARS([parameter], lr=1.0).step()
        moved.append(parameter.detach())
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-7, atol=0)


def test_a_closure_gives_the_loss_and_the_gradients() -> None:
    parameter = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = LARS([parameter], lr=1.0, trust=0.5)

    def closure() -> float:
        loss = parameter.sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 7.0
    assert parameter.tolist() != [3.0, 4.0]


def test_states_go_from_one_optimizer_to_another_bitwise() -> None:
    parameters = [nn.Parameter(value) for value in tensors(0)]
    optimizer = LARS(parameters, lr=0.1, weight_decay=0.2)
    for step in range(2):
        stepped(optimizer, parameters, step)
    copies = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    other = LARS(copies, lr=9.0)
    other.load_state_dict(deepcopy(optimizer.state_dict()))
    for step in range(2, 4):
        stepped(optimizer, parameters, step)
        stepped(other, copies, step)
    for one, copy in zip(parameters, copies, strict=True):
        assert torch.equal(one, copy)
