"""Colours that gradients pass through, against those of Pillow and finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from viewstore.images.colours import COLOUR_COLUMNS
from viewstore.images.policies import dino_colours, policies
from viewstore.randomness import Stream
from viewstore.train.nets.soft_colours import soft_recolour

SIDE, COUNT = 24, 40


def pictures() -> Any:  # noqa: ANN401
    coarse = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE // 4, SIDE // 4, 3), np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


def softly(pixels: Any, params: dict[str, Any]) -> Any:  # noqa: ANN401
    levels = torch.from_numpy(pixels).permute(0, 3, 1, 2).double()
    tensors = {name: torch.from_numpy(value) for name, value in params.items()}
    return soft_recolour(levels, tensors).permute(0, 2, 3, 1).numpy()


def by_pillow(pixels: Any, params: dict[str, Any]) -> Any:  # noqa: ANN401
    out = pixels.copy()
    for place in range(len(out)):
        one = {name: value[place] for name, value in params.items()}
        policies("dino")[0].recolour(out[place], one)  # type: ignore[attr-defined]
    return out.astype(float)


def nothing() -> dict[str, Any]:
    return {
        "jitter": np.tile(np.array([1, 1, 1, 0], np.float32), (COUNT, 1)),
        "jitter_order": np.full((COUNT, 4), 255, np.uint8),
        "gray": np.zeros(COUNT, np.uint8),
        "blur": np.zeros(COUNT, np.float32),
        "solarize": np.full(COUNT, 256, np.uint16),
    }


def test_nothing_done_is_the_identity() -> None:
    assert np.abs(softly(pictures(), nothing()) - pictures()).max() < 1e-9


@pytest.mark.parametrize(
    ("name", "greatest", "mean"),
    [
        ("brightness", 1, 0.5),
        ("contrast", 2, 0.8),
        ("saturation", 2, 0.8),
        ("hue", 14, 1.2),  # a step of the hue is up to 6 levels, and hue and turn are both cut
        ("gray", 1, 0.5),
        ("blur", 20, 1.2),
    ],
)
def test_each_op_is_that_of_pillow_but_for_roundings(
    name: str, greatest: float, mean: float
) -> None:
    """Pillow cuts hues to 256 steps, and blurs with three boxes."""
    params = nothing()
    values = np.random.default_rng(1).random(COUNT).astype(np.float32)
    ops = ("brightness", "contrast", "saturation", "hue")
    if name in ops:
        column = ops.index(name)
        params["jitter_order"][:, 0] = column
        params["jitter"][:, column] = 0.2 * values - 0.1 if name == "hue" else 0.6 + 0.8 * values
    elif name == "gray":
        params["gray"][:] = 1
    else:
        params["blur"][:] = 0.1 + 1.9 * values
    difference = np.abs(softly(pictures(), params) - by_pillow(pictures(), params))
    assert difference.max() <= greatest
    assert difference.mean() < mean


def test_solarize_inverts_from_the_threshold_on() -> None:
    params = nothing()
    params["solarize"][:] = 128
    assert np.array_equal(softly(pictures(), params), by_pillow(pictures(), params))


@pytest.mark.parametrize(("role", "number"), [("global", 0), ("global", 1), ("local", 5)])
def test_the_colours_of_dino_come_near_those_of_pillow(role: str, number: int) -> None:
    rows = np.arange(COUNT)
    params = dino_colours(role, number, SIDE, Stream(0), rows, 3)
    assert tuple(params) == COLOUR_COLUMNS
    params["solarize"][:] = 256  # where a rounding crosses the threshold a level is inverted
    difference = np.abs(softly(pictures(), params) - by_pillow(pictures(), params))
    assert difference.mean() < 2
    assert np.quantile(difference, 0.99) < 9


def test_each_policy_of_dino_has_its_own_blur_and_solarize() -> None:
    rows = np.arange(4000)
    drawn = {
        key: dino_colours(*key, 32, Stream(0), rows, 0)
        for key in (("global", 0), ("global", 1), ("local", 2))
    }
    blurred = {key: (params["blur"] > 0).mean() for key, params in drawn.items()}
    inverted = {key: (params["solarize"] == 128).mean() for key, params in drawn.items()}
    assert blurred["global", 0] == 1
    assert blurred["global", 1] == pytest.approx(0.1, abs=0.02)
    assert blurred["local", 2] == pytest.approx(0.5, abs=0.04)
    assert inverted["global", 1] == pytest.approx(0.2, abs=0.03)
    assert inverted["global", 0] == inverted["local", 2] == 0


def test_gradients_are_those_of_finite_differences() -> None:
    rows = np.arange(3)
    drawn = dino_colours("global", 0, 6, Stream(5), rows, 0)
    params = {name: torch.from_numpy(value) for name, value in drawn.items()}
    generator = torch.Generator().manual_seed(0)
    levels = 60 + 130 * torch.rand(3, 3, 6, 6, generator=generator, dtype=torch.float64)

    def mean(x: Tensor) -> Tensor:
        weights = torch.arange(x.numel(), dtype=x.dtype).view_as(x).sin()
        return (weights * soft_recolour(x, params)).mean()

    assert torch.autograd.gradcheck(mean, levels.requires_grad_(), eps=1e-5, atol=1e-6)


def test_samples_do_not_see_each_other() -> None:
    drawn = dino_colours("global", 1, SIDE, Stream(0), np.arange(COUNT), 0)
    whole = softly(pictures(), drawn)
    alone = softly(pictures()[7:8], {name: value[7:8] for name, value in drawn.items()})
    assert np.abs(whole[7:8] - alone).max() < 1e-9
