"""The views that a spatial transformer makes in a step: where, with which colours and penalty."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.train.world import make_views, slots_of
from viewstore.errors import ConfigError
from viewstore.images.boxes import transformed_boxes
from viewstore.images.colours import COLOUR_COLUMNS
from viewstore.images.policies import dino_colours
from viewstore.randomness import MADE, Op, Stream
from viewstore.train.methods.dino import DINOSettings
from viewstore.train.methods.simclr import SimCLRSettings
from viewstore.train.nets.soft_colours import soft_recolour
from viewstore.train.nets.spatial_transformer import (
    CROPS,
    SpatialTransformer,
    identity_penalty,
    theta_crops_penalty,
    wanted_crops,
)
from viewstore.train.strategies.stn import TransformedViews
from viewstore.train.strategies.table import strategy_of
from viewstore.train.views import Views

ROLES = ("source",)
SMALL = {"n_globals": 2, "n_locals": 3}


def game(**given: Any) -> tuple[TransformedViews, SpatialTransformer, Views]:  # noqa: ANN401
    """A maker, its network with other weights than those of the start, and a batch."""
    maker = TransformedViews(**{**SMALL, **given})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = maker.network(slots_of(ROLES), 3)
        with torch.no_grad():
            for head in network.heads:
                head[-1].weight.normal_(std=0.2)  # type: ignore[index,union-attr]
    views = make_views(ROLES)
    params = {**views.params[0], "crop_box": torch.tensor([[0.0, 0, 40, 20]]).repeat(8, 1)}
    return maker, network.double(), replace(views, params=(params,))


def test_views_are_cut_where_the_network_says_and_coloured_as_dino() -> None:
    maker, network, views = game()
    made = maker.make(views, network).views
    assert made.role == ("source", "global", "global", "local", "local", "local")
    assert made.parent == (-1, 0, 0, 0, 0, 0)
    network.load_state_dict(game()[1].state_dict())
    images = views.pixels[0].double()
    theta = network(images / 255).detach()
    stream, rows = Stream(views.at.seed, views.at.epoch), views.sample.numpy()
    for number, size in enumerate((16, 16, 8, 8, 8)):
        role, params = made.role[1 + number], made.params[1 + number]
        drawn = dino_colours(role, number, size, stream, rows, MADE + number)
        assert set(params) == {*COLOUR_COLUMNS, "crop_box", "x_theta"}
        for name in COLOUR_COLUMNS:
            assert np.array_equal(params[name].numpy(), drawn[name])
        cut = network.cut(images, theta[:, number], size)
        expected = soft_recolour(cut, {k: torch.from_numpy(v) for k, v in drawn.items()})
        torch.testing.assert_close(made.pixels[1 + number].detach(), expected)
        torch.testing.assert_close(params["x_theta"].double(), theta[:, number], rtol=1e-6, atol=0)
        boxes = transformed_boxes(theta[:, number].numpy(), 40, 20)
        torch.testing.assert_close(params["crop_box"], torch.from_numpy(boxes))
    assert not torch.equal(made.pixels[1], made.pixels[2])


@pytest.mark.parametrize(
    ("mode", "boxes"),
    [("translation_scale", True), ("rotation_translation", False), ("affine", False)],
)
def test_only_views_that_are_not_turned_have_boxes(mode: str, boxes: bool) -> None:
    maker, network, views = game(mode=mode)
    slots = maker.made(slots_of(ROLES))
    made = maker.make(views, network).views
    for slot, params in zip(slots, made.params[1:], strict=True):
        assert slot.columns == set(params)
        assert ("crop_box" in slot.columns) == boxes


@pytest.mark.parametrize("penalty", ["tcp", "identity", "none"])
def test_the_penalty_is_weighed_once(penalty: str) -> None:
    maker, network, views = game(penalty=penalty, eps=7.0)
    found = maker.make(views, network).penalty
    network.load_state_dict(game()[1].state_dict())
    theta = network(views.pixels[0].double() / 255)
    stream, rows = Stream(views.at.seed, views.at.epoch), views.sample.numpy()
    wanted = [
        wanted_crops(
            torch.from_numpy(stream.floats(Op.NOISE, rows, MADE + number, 2)).double(), CROPS[role]
        )
        for number, role in enumerate(["global"] * 2 + ["local"] * 3)
    ]
    expected = {
        "tcp": theta_crops_penalty(theta, torch.stack(wanted, 1)),
        "identity": identity_penalty(theta),
        "none": theta.new_zeros(()),
    }
    torch.testing.assert_close(found, 7 * expected[penalty])
    assert (expected[penalty] > 0) == (penalty != "none")


def test_gradients_lead_from_every_view_to_its_head() -> None:
    maker, network, views = game()
    made = maker.make(views, network).views
    for number in range(5):
        loss = made.pixels[1 + number].square().mean()
        bias = [head[-1].bias for head in network.heads]  # type: ignore[index,union-attr]
        found = torch.autograd.grad(loss, bias, allow_unused=True, retain_graph=True)
        assert [each is not None and bool(each.abs().sum() > 0) for each in found] == [
            place == number for place in range(5)
        ]


def test_failures_are_told() -> None:
    maker, network, views = game(local_size=4)
    spread = maker.make(views, network).facts
    assert float(spread["theta_spread"]) > 0.01
    assert maker.warnings(spread) == ()
    with torch.no_grad():
        for head in network.heads:
            head[-1].weight.zero_()  # type: ignore[index,union-attr]
            head[-1].bias.zero_()  # type: ignore[index,union-attr]
    static = maker.make(views, network).facts
    assert float(static["theta_spread"]) == 0
    first, second = maker.warnings(static)
    assert first.startswith("the views of stn are static: where they are cut does not depend on")
    assert second == "100% of the views of stn zoom into a single colour"
    assert maker.warnings({}) == ()


def test_the_optimizer_is_that_of_the_run_or_its_own() -> None:
    assert TransformedViews().optim is None
    own = TransformedViews(own=True).optim
    assert own is not None
    assert (own["name"], own["lr"]) == ("adamw", 5e-4)
    assert TransformedViews().clip == 3


def test_dino_trains_on_its_views() -> None:
    strategy = strategy_of("stn", {})
    strategy.check(DINOSettings().traits, slots_of(ROLES))
    slots = strategy.slots(slots_of(ROLES))
    assert [slot.role for slot in slots] == ["source"] + ["global"] * 2 + ["local"] * 8
    assert [slot.size for slot in slots[1:]] == [16] * 2 + [8] * 8
    assert strategy.base([slot.role for slot in slots]) == tuple(range(1, 11))


@pytest.mark.parametrize(
    ("name", "roles", "message"),
    [
        ("stn", ("global", "global"), "makes views of source images, and none of the views"),
        ("stn", ("source", "source"), "cuts all its views out of one source image, got more"),
        ("stn,viewmaker", ROLES, "one network makes views, got stn and viewmaker"),
        ("stn,graded", ROLES, "strategy graded"),
    ],
)
def test_what_cannot_train_is_refused(name: str, roles: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        strategy_of(name, {}).check(DINOSettings().traits, slots_of(roles))


def test_graded_similarity_refuses_views_without_boxes() -> None:
    given = {"mode": "affine", "n_locals": 0, "align_scale": "exact"}
    with pytest.raises(ConfigError, match="reads the column crop_box, which stn lacks"):
        strategy_of("stn,graded", given).check(SimCLRSettings().traits, slots_of(ROLES))
    strategy_of("stn,graded", {**given, "mode": "translation_scale"}).check(
        SimCLRSettings().traits, slots_of(ROLES)
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"penalty": "huber"}, "penalty must be tcp, identity or none, got 'huber'"),
        ({"eps": -1.0}, "eps must be at least 0, got -1.0"),
        ({"mode": "shear"}, "mode must be one of"),
        ({"local_size": 1}, r"local_size must be in \[4, 4096\], got 1"),
        ({"n_locals": 100}, r"n_locals must be in \[0, 64\], got 100"),
    ],
)
def test_settings_out_of_range_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TransformedViews(**given)
