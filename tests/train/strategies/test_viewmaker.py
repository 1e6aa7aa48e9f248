"""The views that a ViewMaker makes in a step: which, of what noise, in whose plan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.train.world import make_method, make_views, slots_of, with_made
from viewstore.errors import ConfigError
from viewstore.randomness import MADE, Op, Stream
from viewstore.train.methods.simclr import SimCLRSettings
from viewstore.train.nets.view_maker import ViewMaker
from viewstore.train.plan import Plan
from viewstore.train.strategies.base import Strategy
from viewstore.train.strategies.table import strategy_of
from viewstore.train.strategies.viewmaker import ViewMakerViews

TWO = ("source", "source")


def network(strategy: Strategy, roles: tuple[str, ...], channels: int = 3) -> ViewMaker:
    assert strategy.maker is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = strategy.maker.network(slots_of(roles), channels)
    assert isinstance(found, ViewMaker)
    return found


def plan_of(name: str, roles: tuple[str, ...]) -> Plan:
    strategy = strategy_of(name, {})
    method = make_method(SimCLRSettings())
    strategy.check(method.traits, slots_of(roles))
    return strategy.plan(with_made(strategy, make_views(roles)), method)


def shown(plan: Plan) -> list[tuple[int, int]]:
    """The views of each pair, student first."""
    found = []
    for pair in plan.pairs:
        assert pair.target is not None
        found.append((plan.students[pair.student].view, plan.targets[pair.target].view))
    return found  # type: ignore[return-value]


def test_the_pairs_are_those_of_the_rows_of_the_table() -> None:
    """Constructive Assimilation, table 1: two made views; an expert and one; two and one beside."""
    assert shown(plan_of("viewmaker", TWO)) == [(3, 2), (2, 3)]
    assert shown(plan_of("viewmaker,a1", ("expert", "source"))) == [(2, 0), (0, 2)]
    third = plan_of("a2,viewmaker", ("expert", "source", "expert"))
    assert shown(third) == [(2, 0), (0, 2), (3, 0), (3, 2)]
    assert [pair.weight for pair in third.pairs] == [0.5, 0.5, 0.25, 0.25]


def test_made_views_lie_near_their_image_and_have_its_params() -> None:
    strategy = strategy_of("viewmaker", {"eps": 0.1, "clamp": False})
    views = make_views(TWO)
    made = with_made(strategy, views)
    assert made.role == (*TWO, "generated", "generated")
    assert made.parent == (-1, -1, 0, 1)
    for source, view in ((0, 2), (1, 3)):
        assert made.params[view] == views.params[source]
        change = (made.pixels[view] - views.pixels[source]) / 255
        torch.testing.assert_close(
            change.abs().mean((1, 2, 3)), torch.full((8,), 0.1), rtol=0, atol=1e-3
        )


def test_noise_is_keyed_by_epoch_sample_and_view() -> None:
    strategy = strategy_of("viewmaker", {})
    views = make_views(TWO)
    views = replace(views, pixels=(views.pixels[0], views.pixels[0]))
    first = with_made(strategy, views)
    assert not torch.equal(first.pixels[2], first.pixels[3])
    order = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])
    moved = replace(
        views, pixels=tuple(each[order] for each in views.pixels), sample=views.sample[order]
    )
    again = with_made(strategy, moved)
    torch.testing.assert_close(again.pixels[3], first.pixels[3][order], rtol=0, atol=1e-3)
    later = replace(views, at=replace(views.at, epoch=views.at.epoch + 1))
    assert not torch.equal(with_made(strategy, later).pixels[2], first.pixels[2])
    maker = network(strategy, TWO)
    noise = Stream(views.at.seed, views.at.epoch).floats(
        Op.NOISE, views.sample.numpy(), MADE + 1, maker.noise_numbers
    )
    with torch.no_grad():
        expected = maker(views.pixels[1] / 255, torch.from_numpy(noise))
    torch.testing.assert_close(first.pixels[3], 255 * expected, rtol=0, atol=1e-3)


def test_noise_is_uniform_and_exact_in_float32() -> None:
    drawn = Stream(3, 1).floats(Op.NOISE, np.arange(50), 4, 2001)
    assert drawn.shape == (50, 2001)
    assert drawn.dtype == np.float32
    assert 0 <= drawn.min() < drawn.max() < 1
    assert np.array_equal(drawn * 2**24, np.floor(drawn.astype(np.float64) * 2**24))
    assert abs(drawn.mean() - 0.5) < 4 / np.sqrt(12 * drawn.size)


def test_a_gray_network_is_shown_changes_of_the_channel_that_it_sees() -> None:
    strategy = strategy_of("viewmaker", {"clamp": False})
    maker = network(strategy, TWO, channels=1)
    views = make_views(TWO)
    assert strategy.maker is not None
    with torch.no_grad():
        made = strategy.maker.make(views, maker).views.pixels[2]
    assert made.shape == views.pixels[0].shape
    assert torch.equal(made[:, 0], made[:, 2])
    change = (made[:, 0] - views.pixels[0][:, 0]).abs().mean((1, 2)) / 255
    torch.testing.assert_close(change, torch.full((8,), 0.05), rtol=0, atol=1e-3)


def test_gradients_lead_from_the_views_to_the_network() -> None:
    strategy = strategy_of("viewmaker", {})
    maker = network(strategy, TWO)
    assert strategy.maker is not None
    made = strategy.maker.make(make_views(TWO), maker).views
    found = torch.autograd.grad(made.pixels[3].square().mean(), list(maker.parameters()))
    assert sum(bool(each.abs().sum() > 0) for each in found) > len(found) / 2


@pytest.mark.parametrize(
    ("name", "roles", "message"),
    [
        ("viewmaker", ("expert", "expert"), "makes views of source images, and none of the views"),
        ("viewmaker", ("source",), "trains on at least 2 views, got 1"),
        ("viewmaker,a1", TWO, "an expert and a generated view, got generated,generated"),
    ],
)
def test_views_that_make_no_pair_are_refused(
    name: str, roles: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        strategy_of(name, {}).check(SimCLRSettings().traits, slots_of(roles))
    assert "--views" in str(caught.value.where)


def test_source_images_of_two_sizes_are_refused() -> None:
    small, large = slots_of(TWO)
    slots = (small, large._replace(size=32))
    with pytest.raises(ConfigError, match="must have one size, they have 16, 32 px"):
        strategy_of("viewmaker", {}).check(SimCLRSettings().traits, slots)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"eps": 2.0}, "eps must be in"), ({"lr": 0.0}, "lr of viewmaker must be above 0, got 0.0")],
)
def test_settings_out_of_range_are_refused(given: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ViewMakerViews(**given)  # type: ignore[arg-type]


def test_parts_of_a_strategy_that_leave_views_out_are_refused() -> None:
    with pytest.raises(ConfigError, match="strategy hvp cannot look at views of viewmaker"):
        strategy_of("viewmaker,hvp", {"every": 2})
