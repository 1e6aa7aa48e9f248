"""Rates and decays of each step, and what the optimizers of each name do with them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.train.groups import Group, one_group
from viewstore.errors import ConfigError
from viewstore.train.loop.optim import OPTIMIZERS, OptimSettings, Schedule
from viewstore.train.optimizers import LARS

LENGTH: dict[str, int] = {"total_steps": 20, "epoch_steps": 5, "batch_size": 512}


def rates(settings: OptimSettings, length: dict[str, int] = LENGTH) -> list[float]:
    return [settings.rate(step, **length) for step in range(length["total_steps"])]


def parameters(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 2), (3,), (2, 3), (2,)]
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def four_groups(given: list[nn.Parameter]) -> Iterator[Group]:
    """Weights and biases of a backbone, then of a predictor with a rate of its own."""
    for number, parameter in enumerate(given):
        weights = number % 2 == 0
        yield Group([parameter], decay=weights, fixed_lr=number >= 2, adapt=weights)


def rate_before(
    optim: OptimSettings, step: int, *, total_steps: int, epoch_steps: int, batch_size: int
) -> float:
    """Return what the rate was before there was more to it than warm-up and a cosine."""
    peak = optim.lr * batch_size / 256
    warmup = optim.warmup_epochs * epoch_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    if optim.schedule == "constant":
        return peak
    done = (step - warmup) / max(1, total_steps - warmup)
    return peak * (1 + math.cos(math.pi * done)) / 2


@given(
    lr=st.floats(1e-6, 10),
    schedule=st.sampled_from(["cosine", "constant"]),
    warmup=st.integers(0, 6),
    epochs=st.integers(1, 9),
    epoch_steps=st.integers(1, 7),
    batch_size=st.integers(2, 5000),
)
def test_rates_of_earlier_settings_are_bitwise_what_they_were(
    lr: float, schedule: Schedule, warmup: int, epochs: int, epoch_steps: int, batch_size: int
) -> None:
    optim = OptimSettings(lr=lr, schedule=schedule, warmup_epochs=warmup)
    length = {
        "total_steps": epochs * epoch_steps,
        "epoch_steps": epoch_steps,
        "batch_size": batch_size,
    }
    wanted = [rate_before(optim, step, **length) for step in range(length["total_steps"])]
    assert rates(optim, length) == wanted


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_training_by_earlier_settings_is_bitwise_what_it_was(name: str) -> None:
    """One group of all parameters with torch's optimizers, whose rate alone is set."""
    ours, theirs = parameters(), parameters()
    decay = 0.01
    settings = OptimSettings(name=name, lr=0.1, weight_decay=decay)
    before: torch.optim.Optimizer = {
        "sgd": torch.optim.SGD(theirs, 0.1, 0.9, weight_decay=decay),
        "adam": torch.optim.Adam(theirs, 0.1, weight_decay=decay),
        "adamw": torch.optim.AdamW(theirs, 0.1, weight_decay=decay),
    }[name]
    now = settings.make([Group(ours)])
    for step in range(6):
        settings.apply(now, step, **LENGTH)
        before.param_groups[0]["lr"] = rate_before(settings, step, **LENGTH)
        for each in (ours, theirs):
            for number, parameter in enumerate(each):
                parameter.grad = torch.full_like(parameter, math.sin(step + number))
        now.step()
        before.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_the_rate_warms_up_by_epochs_where_asked() -> None:
    optim = OptimSettings(lr=0.5, warmup_epochs=2, warmup="per_epoch")
    assert rates(optim)[:10] == [0.5] * 5 + [1.0] * 5
    assert rates(optim)[10:] == rates(replace(optim, warmup="per_step"))[10:]


def test_nine_epochs_of_warm_up_are_those_of_directional_ssl() -> None:
    """In epoch e, from 1 on, the rate is lr * e / 9."""
    optim = OptimSettings(lr=0.09, scale_lr=False, warmup_epochs=9, warmup="per_epoch")
    length = {"total_steps": 800, "epoch_steps": 2, "batch_size": 512}
    assert rates(optim, length)[0:18:2] == pytest.approx([0.01 * e for e in range(1, 10)])


def test_the_cosine_ends_at_the_least_rate() -> None:
    optim = OptimSettings(lr=0.5, min_lr=0.25, warmup_epochs=2)
    assert optim.rate(10, **LENGTH) == 1.0
    assert optim.rate(15, **LENGTH) == pytest.approx((1.0 + 0.25) / 2)
    assert optim.rate(20, **LENGTH) == 0.25
    small = {**LENGTH, "batch_size": 64}
    assert optim.peak(64) < optim.min_lr
    assert rates(optim, small)[10:] == [0.125] * 10


def test_the_rate_falls_in_steps() -> None:
    optim = OptimSettings(lr=1, scale_lr=False, schedule="steps", milestones=(1, 3), gamma=0.5)
    assert rates(optim) == [1.0] * 5 + [0.5] * 10 + [0.25] * 5
    assert rates(replace(optim, min_lr=0.4))[-1] == 0.4


def test_a_rate_that_is_not_scaled_is_the_same_for_all_batches() -> None:
    optim = OptimSettings(lr=0.5, scale_lr=False, schedule="constant")
    assert {optim.rate(0, **{**LENGTH, "batch_size": n}) for n in (2, 256, 4096)} == {0.5}


def test_the_weight_decay_grows_along_a_cosine() -> None:
    """As in DINO: end + (start - end) * (1 + cos(pi * step / steps)) / 2, without a warm-up."""
    optim = OptimSettings(name="adamw", weight_decay=0.04, weight_decay_end=0.4, warmup_epochs=2)
    optimizer = optim.make(four_groups(parameters()))
    for step in range(20):
        optim.apply(optimizer, step, **LENGTH)
        wanted = 0.4 - 0.36 * (1 + math.cos(math.pi * step / 20)) / 2
        found = [group["weight_decay"] for group in optimizer.param_groups]
        assert found == pytest.approx([wanted, 0, wanted, 0])


def test_groups_have_the_rates_and_decays_that_they_ask_for() -> None:
    optim = OptimSettings(name="lars", lr=0.2, bias_lr=0.0048, weight_decay=1e-6, warmup_epochs=2)
    optimizer = optim.make(four_groups(parameters()))
    assert optim.apply(optimizer, 0, **LENGTH) == pytest.approx(0.04)
    found = [
        (group["lr"], group["weight_decay"], group["adapt"]) for group in optimizer.param_groups
    ]
    assert found == [
        (pytest.approx(0.04), 1e-6, True),
        (pytest.approx(0.00096), 0.0, False),
        (pytest.approx(0.4), 1e-6, True),
        (pytest.approx(0.0096), 0.0, False),
    ]


def test_groups_are_treated_alike_where_asked() -> None:
    optim = OptimSettings(name="larc-sgd", lr=0.2, weight_decay=1e-6, uniform=True)
    optimizer = optim.make(four_groups(parameters()))
    optim.apply(optimizer, 0, **LENGTH)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-6] * 4
    assert [group["adapt"] for group in optimizer.param_groups] == [True] * 4


def test_empty_groups_are_left_out() -> None:
    groups = [Group([], decay=False), Group(parameters()[:1]), Group([], fixed_lr=True)]
    optimizer = OptimSettings().make(groups)
    assert [len(group["params"]) for group in optimizer.param_groups] == [1]


def test_each_name_makes_its_optimizer() -> None:
    kinds = [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, LARS, LARS]
    for (name, defaults), kind in zip(OPTIMIZERS.items(), kinds, strict=True):
        settings = OptimSettings(name=name, lr=defaults.lr, weight_decay=defaults.weight_decay)
        optimizer = settings.make([Group(parameters())])
        assert type(optimizer) is kind
        assert optimizer.param_groups[0]["weight_decay"] == defaults.weight_decay
        assert optimizer.param_groups[0].get("clip", name == "larc-sgd") == (name == "larc-sgd")
    sgd = OptimSettings(momentum=0.5, nesterov=True).make(one_group(nn.Linear(2, 2)))
    assert (sgd.param_groups[0]["momentum"], sgd.param_groups[0]["nesterov"]) == (0.5, True)
    lars = OptimSettings(name="lars", momentum=0.5, trust=0.25).make(one_group(nn.Linear(2, 2)))
    assert (lars.param_groups[0]["momentum"], lars.param_groups[0]["trust"]) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "larc"}, "optimizer must be one of sgd, adam, adamw, lars, larc-sgd, got 'larc'"),
        ({"lr": math.nan}, "lr must be above 0, got nan"),
        ({"bias_lr": 0.0}, "bias lr must be above 0, got 0"),
        ({"bias_lr": 0.1, "uniform": True}, "bias lr has no effect"),
        ({"min_lr": -0.1}, "min lr must be at least 0, got -0.1"),
        ({"min_lr": 0.1, "lr": 0.05}, r"min lr must be in \[0, lr = 0.05\], got 0.1"),
        ({"weight_decay_end": -1.0}, "weight decay end must be at least 0, got -1.0"),
        ({"lr": 1e300}, r"lr must be at most 1e\+30, got 1e\+300"),
        ({"weight_decay": 1e300}, r"weight decay must be at most 1e\+30"),
        ({"name": "adam", "momentum": 0.5}, "momentum 0.5 has no effect without sgd, lars or"),
        ({"trust": 0.01}, "trust 0.01 has no effect without lars or larc-sgd"),
        ({"gamma": 0.5}, "gamma 0.5 has no effect without schedule steps"),
        ({"schedule": "constant", "min_lr": 0.01}, "min lr 0.01 has no effect without schedule"),
        ({"warmup": "per_epoch"}, "warmup per_epoch has no effect without warm-up epochs"),
        ({"trust": 0.0}, "trust must be above 0, got 0.0"),
        ({"clip": 0.0}, "clip must be above 0, got 0.0"),
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
        ({"nesterov": True, "name": "adam"}, "nesterov needs sgd with a momentum, got adam"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov needs sgd with a momentum, got sgd with 0"),
        ({"schedule": "steps"}, "steps and milestones must be given together"),
        ({"milestones": (1,)}, "steps and milestones must be given together"),
        ({"schedule": "steps", "milestones": (0, 1)}, r"grow from 1, got \[0, 1\]"),
        ({"schedule": "steps", "milestones": (2, 2)}, r"grow from 1, got \[2, 2\]"),
        ({"schedule": "steps", "milestones": (2,), "gamma": 1.0}, r"gamma must be in \(0, 1\)"),
        ({"warmup": "by_step"}, "warmup must be per_step or per_epoch, got 'by_step'"),
    ],
)
def test_settings_that_say_nothing_sensible_are_refused(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        OptimSettings(**change)
