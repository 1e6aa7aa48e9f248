"""Where eps1 comes from: distances of expert views, over images of the whole source."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.generators.latent_world import World, make_world
from viewstore.errors import ConfigError, FormatError
from viewstore.generators.latent.calibration import calibrate, calibration_rows, summarise
from viewstore.generators.latent.inversion import Inversion
from viewstore.generators.latent.search import WSearch


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(num=6, max_steps=1)


def test_figures_are_those_of_plain_loops() -> None:
    noise = torch.Generator().manual_seed(0)
    anchors, views = torch.randn(5, 7, generator=noise), torch.randn(5, 4, 7, generator=noise)
    found = summarise(anchors, views)
    to_anchor = [(views[i, v] - anchors[i]).norm().item() for i in range(5) for v in range(4)]
    pairs = [(views[i, v] - views[i, v - 1]).norm().item() for i in range(5) for v in range(4)]
    between = [(anchors[i] - anchors[i - 1]).norm().item() for i in range(5)]
    assert found.mean == pytest.approx(np.mean(to_anchor), abs=1e-4)
    assert found.std == pytest.approx(np.std(to_anchor), abs=1e-4)
    assert found.p95 == pytest.approx(np.percentile(to_anchor, 95), abs=1e-4)
    assert found.view_view == pytest.approx(np.mean(pairs), abs=1e-4)
    assert found.between == pytest.approx(np.mean(between), abs=1e-4)


def test_a_large_source_is_sampled_by_key() -> None:
    rows = calibration_rows(5000, seed=1)
    assert len(set(rows.tolist())) == 2048
    assert np.array_equal(rows, calibration_rows(5000, seed=1))
    assert not np.array_equal(rows, calibration_rows(5000, seed=2))
    assert calibration_rows(7, seed=1).tolist() == list(range(7))


def test_the_seed_decides_the_figures(world: World) -> None:
    first = calibrate(world.context)
    assert first == calibrate(world.context)
    assert first != calibrate(replace(world.context, seed=4))
    assert first.samples == 6


def test_images_that_cannot_be_read_are_passed_over(world: World) -> None:
    def torn(row: int) -> NDArray[np.uint8]:
        if row % 2:
            raise FormatError("a torn image")
        return world.context.source_image(row)

    assert calibrate(replace(world.context, source_image=torn)).samples == 3
    with pytest.raises(FormatError, match="none of 1 images"):
        calibrate(replace(world.context, whole_source=lambda: (1, lambda row: torn(1))))


def test_the_standard_error_is_that_of_all_draws(world: World) -> None:
    found = replace(calibrate(world.context), samples=64, draws=4, mean=0.306, std=0.176)
    assert found.text() == "eps1 0.306 +- 0.011 from 64 x 4"


def test_an_unknown_policy_is_named(world: World) -> None:
    encoder = copy.copy(world.context.models["encoder"])
    encoder.settings = replace(encoder.settings, policy="mirror")
    with pytest.raises(ConfigError, match="the policy mirror, which is not known here"):
        calibrate(world.with_models(encoder=encoder).context)


def test_an_encoder_without_a_policy_is_said_to_have_none(world: World) -> None:
    encoder = copy.copy(world.context.models["encoder"])
    encoder.settings = replace(encoder.settings, policy="")
    context = world.with_models(encoder=encoder).context
    with pytest.raises(ConfigError, match="names no augmentation policy") as caught:
        calibrate(context)
    assert "gan invert --set shift_stop" in str(caught.value.fix)
    assert Inversion(shift_stop=0.06).resolve(context).shift_stop == 0.06  # as the advice says
    assert WSearch(eps1=0.3).resolve(context).eps1 == 0.3
