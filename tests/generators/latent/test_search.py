"""W-search settings: presets, what is refused, and what is filled in."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.generators.latent_world import (
    World,
    make_world,
    small_encoder,
    small_gan,
    without_gradient,
)
from viewstore.errors import ConfigError, StoppedError
from viewstore.generators.contract import Input, Rendered
from viewstore.generators.latent.search import WSearch
from viewstore.store.constraints import pair_bound

BASE: Mapping[str, Any] = {"slots": 4, "views": 4, "eps1": 0.3}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(num=6)


@pytest.fixture(scope="module", params=["adam", "secant"])
def solver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def searched(world: World, solver: str) -> dict[int, Rendered]:
    return search(world, solver=solver)


def search(world: World, rows: Iterable[int] | None = None, **changes: object) -> dict[int, Any]:
    settings = WSearch(**{**BASE, **changes}).resolve(world.context)  # type: ignore[arg-type]
    wanted = range(len(world.samples)) if rows is None else rows
    generator = settings.make(world.context)
    return {one.index: one for one in generator.render(world.samples[row] for row in wanted)}


def assert_equal(first: Rendered, second: Rendered) -> None:
    assert np.array_equal(first.pixels, second.pixels)
    for name, value in first.params.items():
        assert np.array_equal(value, second.params[name]), name


def stored_distances(world: World, one: Rendered) -> dict[str, NDArray[np.float64]]:
    """Measure views as a reader of the store would, in float64 and with plain loops."""
    encoder, parent = world.context.models["encoder"], world.context.parent
    assert parent is not None
    pixels = world.context.codec.roundtrip(one.pixels)
    both = np.concatenate([pixels, parent[one.index]]).transpose(0, 3, 1, 2) / np.float32(255)
    h = encoder(torch.from_numpy(both.astype(np.float32))).double().numpy()
    views = len(pixels)
    pairs = np.array([[np.linalg.norm(h[k] - h[j]) for j in range(views)] for k in range(views)])
    others = [np.delete(pairs[k], k) for k in range(views)]
    return {
        "distance": np.linalg.norm(h[:views] - h[views], axis=1),
        "mean_pair_distance": np.array([row.mean() for row in others]),
        "min_pair_distance": np.array([row.min() for row in others]),
    }


def test_every_column_of_the_plan_is_given_in_its_dtype(
    world: World, searched: dict[int, Rendered]
) -> None:
    columns = WSearch(**BASE).resolve(world.context).columns()
    assert {"status", "distance", "seed", "anchor_shift"} < {column.name for column in columns}
    for one in searched.values():
        assert set(one.params) == {column.name for column in columns}
        assert one.pixels.shape == (4, 16, 16, 3)
        for column in columns:
            value = one.params[column.name]
            assert (value.dtype, value.shape) == (column.numpy_dtype, column.shape), column.name
            assert not (value == column.fill).any(), column.name


@pytest.mark.parametrize("codec", ["raw", "jpg"])
def test_recorded_distances_are_those_of_stored_pixels(
    world: World, codec: str, solver: str
) -> None:
    there = world.with_codec(codec)
    for one in search(there, max_steps=60, solver=solver).values():
        for name, expected in stored_distances(there, one).items():
            assert np.allclose(one.params[name], expected, atol=1e-4), name


def test_converged_views_are_within_the_tolerance(searched: dict[int, Rendered]) -> None:
    assert len(searched) == 6
    for one in searched.values():
        assert one.params["converged"].all()
        assert (one.params["status"] == 1).all()
        assert np.abs(one.params["distance"] - 0.3).max() <= 0.02
        target = 0.95 * pair_bound(0.3, 4)
        assert one.params["mean_pair_distance"].mean() >= 0.98 * target


def test_order_and_neighbours_change_no_byte(
    world: World, searched: dict[int, Rendered], solver: str
) -> None:
    for rows in ([5, 4, 3, 2, 1, 0], [3, 3, 1], [2]):
        for row, one in search(world, rows, solver=solver).items():
            assert_equal(one, searched[row])


@pytest.mark.parametrize("gradient", [True, False])
def test_order_changes_no_byte_where_samples_are_refined(
    world: World, solver: str, gradient: bool
) -> None:
    """With jpg most samples are refused and go through the small pool."""
    if solver == "adam" and not gradient:
        return
    there = world.with_codec("jpg") if gradient else without_gradient(world.with_codec("jpg"))
    first = search(there, max_steps=60, tol=0.05, solver=solver)
    assert 2 in np.concatenate([one.params["status"] for one in first.values()])
    rows = [4, 0, 5, 2, 1, 3]
    for row, one in search(there, rows, max_steps=60, tol=0.05, solver=solver).items():
        assert_equal(one, first[row])


def test_resuming_with_the_plan_s_own_settings_gives_the_same_views(
    world: World, searched: dict[int, Rendered], solver: str
) -> None:
    first = WSearch(**BASE, solver=solver).resolve(world.context)  # type: ignore[arg-type]
    again = WSearch(**asdict(first)).resolve(world.context)
    assert again == first
    for one in again.make(world.context).render(world.samples[:2]):
        assert_equal(one, searched[one.index])


def test_samples_are_pulled_as_there_is_room(world: World) -> None:
    pulled: list[int] = []

    def watched() -> Iterator[Any]:
        for sample in world.samples:
            pulled.append(sample.index)
            yield sample

    generator = WSearch(**BASE).resolve(world.context).make(world.context)
    next(iter(generator.render(watched())))
    assert 4 <= len(pulled) < 6


def test_another_number_of_slots_moves_no_pixel_by_more_than_one_level(world: World) -> None:
    searched = search(world)
    for row, one in search(world, slots=6).items():
        difference = one.pixels.astype(int) - searched[row].pixels
        assert np.abs(difference).max() <= 1


def test_without_a_push_every_view_leaves_the_anchor(world: World, solver: str) -> None:
    """The authors' loop starts view 0 on the anchor, where the distance has no gradient."""
    ended = search(world, lam=0.0, exact_first=True, max_steps=399, solver=solver)
    for one in ended.values():
        assert one.params["distance"].min() > 0.2
        assert one.params["steps"].max() < 399


def test_max_steps_ends_a_sample_and_flags_it(world: World) -> None:
    for one in search(world, [0, 1], max_steps=3).values():
        assert one.params["steps"].tolist() == [3] * 4
        assert one.params["status"].tolist() == [2] * 4
        assert one.params["converged"].tolist() == [0] * 4


def test_what_secant_leaves_is_ended_by_adam_s_steps_and_flagged(world: World) -> None:
    """No view lies at this distance: features of one sign."""
    (one,) = search(world, [0], eps1=1.9, max_steps=3, solver="secant").values()
    assert one.params["steps"].min() > 3
    assert one.params["status"].tolist() == [2] * 4
    assert one.params["converged"].tolist() == [0] * 4
    assert all(np.isfinite(value).all() for value in one.params.values())


def test_on_miss_error_stops(world: World) -> None:
    with pytest.raises(StoppedError, match="did not converge in 3 steps"):
        search(world, [0, 1], max_steps=3, on_miss="error")


def test_a_sample_that_explodes_falls_back_to_its_reconstruction(world: World) -> None:
    parent = world.context.parent
    assert parent is not None
    for one in search(world, [0, 1], lr=1e38).values():
        assert one.params["status"].tolist() == [3] * 4
        assert np.abs(one.pixels.astype(int) - parent[one.index]).max() <= 1
        assert np.isfinite(one.params["distance"]).all()


@pytest.mark.parametrize(
    "changes", [{"delta": "l1"}, {"spread": "mean"}, {"delta": "hinge"}, {"anchor": "image"}]
)
def test_every_variant_runs(world: World, changes: dict[str, Any]) -> None:
    ended = search(world, [0, 1], max_steps=20, **changes)
    assert sorted(ended) == [0, 1]


def test_the_image_anchor_measures_to_the_source(world: World) -> None:
    (one,) = search(world, [1], anchor="image", max_steps=1).values()
    encoder = world.context.models["encoder"]
    both = np.concatenate([one.pixels, world.samples[1].image[None]])
    h = encoder(torch.from_numpy(both.transpose(0, 3, 1, 2) / np.float32(255)))
    expected = (h[:4] - h[4]).norm(dim=1).numpy()
    assert np.allclose(one.params["distance"], expected, atol=1e-4)


def test_a_search_in_bf16_is_accepted_in_fp32(world: World) -> None:
    for one in search(world, [0, 1], precision="bf16", max_steps=200).values():
        for name, expected in stored_distances(world, one).items():
            assert np.allclose(one.params[name], expected, atol=1e-4), name
        if one.params["converged"].all():
            assert np.abs(one.params["distance"] - 0.3).max() <= 0.02


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_order_changes_no_byte_on_cuda(precision: str) -> None:
    there = make_world(num=6)
    there = replace(there, context=replace(there.context, device="cuda"))
    first = search(there, precision=precision)
    assert np.mean([one.params["converged"] for one in first.values()]) > 0.5
    for row, one in search(there, [5, 3, 1, 0, 2, 4], precision=precision).items():
        assert_equal(one, first[row])


def test_stored_latents_give_the_pixels_again(world: World) -> None:
    gan = world.context.models["gan"]
    for one in search(world, [0, 1], keep_latents=True).values():
        latents = torch.from_numpy(one.params["latent"].astype(np.float32))
        images = ((gan.synthesis(latents) + 1) * 127.5).round().clamp(0, 255)
        again = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
        assert np.abs(again - one.pixels).max() <= 2
        assert np.isfinite(one.params["latent0"]).all()


def test_psi_pulls_latents_to_the_average(world: World) -> None:
    """Latents w under psi are latents w_avg + psi (w - w_avg) without it."""
    gan, parent = world.context.models["gan"], world.context.parent
    assert parent is not None
    plan = replace(parent.plan, generator={"args": {"psi": 0.5}})
    pulled = replace(world.context, parent=replace(parent, plan=plan))  # type: ignore[type-var]
    settings = WSearch(**BASE, psi=0.5, keep_latents=True, max_steps=2).resolve(pulled)
    (one,) = settings.make(pulled).render(world.samples[:1])
    latents = torch.from_numpy(one.params["latent"].astype(np.float32))
    images = gan.synthesis(gan.w_avg + 0.5 * (latents - gan.w_avg))
    again = ((images + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(again - one.pixels).max() <= 2


def test_an_eps2_out_of_reach_warns_and_stops_below_the_bound(world: World) -> None:
    warnings: list[str] = []
    context = replace(world.context, warn=warnings.append)
    resolved = WSearch(views=8, eps1=0.3, eps2=0.5).resolve(context)
    assert (
        "eps2=0.500 cannot be reached with eps1=0.300 and n=8 (bound 0.448); stopping at 0.426"
        in warnings
    )
    assert resolved.eps2 == pytest.approx(0.426, abs=5e-4)


def test_strict_refuses_an_eps2_out_of_reach(world: World) -> None:
    with pytest.raises(ConfigError, match=r"bound 0\.448"):
        WSearch(views=8, eps1=0.3, eps2=0.5, strict=True).resolve(world.context)


def test_the_published_preset_keeps_its_eps2_in_the_loss(world: World) -> None:
    warnings: list[str] = []
    context = replace(world.context, warn=warnings.append, parent=None)
    resolved = WSearch(preset="paper").resolve(context)
    assert resolved.eps2 == 0.5
    assert warnings == [
        "eps2=0.500 cannot be reached with eps1=0.300 and n=8 (bound 0.448); "
        "kept in the loss, stopping at loss 1e-3"
    ]
    assert (resolved.psi, resolved.max_steps, resolved.exact_first) == (0.7, 1000, True)
    assert resolved.mean_pair_target == pytest.approx(0.426, abs=5e-4)


@pytest.mark.parametrize(
    ("eps1", "eps2"), [(0.1, 0.15), (0.2, 0.35), (0.3, 0.5), (0.5, 0.7), (0.7, 0.9), (0.9, 1.1)]
)
def test_the_published_eps2_follows_eps1(world: World, eps1: float, eps2: float) -> None:
    context = replace(world.context, parent=None)
    resolved = WSearch(preset="paper", eps1=eps1).resolve(context)
    assert resolved.eps2 == eps2
    assert WSearch(**asdict(resolved)).resolve(context) == resolved
    assert WSearch(preset="paper", eps1=eps1, eps2=0.4).resolve(context).eps2 == 0.4


def test_a_published_search_that_stops_by_distances_says_so(world: World) -> None:
    warnings: list[str] = []
    context = replace(world.context, warn=warnings.append, parent=None)
    WSearch(preset="paper", stop="distances").resolve(context)
    assert warnings[0].endswith("kept in the loss, stopping at 0.426")


def test_reconstructions_far_from_their_sources_are_warned_of(world: World) -> None:
    warnings: list[str] = []
    context = replace(world.context, warn=warnings.append)
    WSearch(**{**BASE, "eps1": 0.05}).resolve(context)
    assert any("more than half of eps1=0.050" in warning for warning in warnings)


def test_eps1_is_calibrated_when_it_is_not_given(world: World) -> None:
    resolved = WSearch().resolve(world.context)
    assert resolved.calibration is not None
    assert resolved.eps1 == resolved.calibration["mean"]
    assert resolved.eps2 == pytest.approx(0.95 * pair_bound(resolved.eps1, 8))
    assert resolved.eps_min == resolved.eps1 / 2


def test_a_single_view_is_searched_without_pairs(world: World, solver: str) -> None:
    alone = WSearch(views=1, lam=0.0, eps1=0.3).resolve(world.context)
    assert (alone.eps2, alone.eps_min) == (0.0, 0.0)
    assert WSearch(**asdict(alone)).resolve(world.context) == alone
    (one,) = search(world, [1], views=1, lam=0.0, solver=solver).values()
    assert one.params["converged"].all()
    assert "mean_pair_distance" not in one.params


@pytest.mark.parametrize(
    "changes",
    [{"slots": 5}, {"eps1": 0.31}, {"lam": 0.2}, {"threads": 2}, {"precision": "bf16"}],
)
def test_what_decides_bytes_is_in_the_resolved_settings(
    world: World, changes: dict[str, Any]
) -> None:
    first = WSearch(**BASE).resolve(world.context)
    second = WSearch(**{**BASE, **changes}).resolve(world.context)
    assert asdict(first) != asdict(second)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps1": 2.0}, r"eps1 must be in \(0, 2\), got 2.0"),
        ({"eps1": 0.0}, r"eps1 must be in \(0, 2\)"),
        ({"views": 1}, "views must be 2 or more while lam is 0.1, got 1"),
        ({"delta": "l3"}, "delta must be one of"),
        ({"preset": "slow"}, "preset must be one of"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"start": -1.0}, "start must be 0 or more"),
        ({"solver": "newton"}, "solver must be one of"),
        ({"solver": "secant", "preset": "paper"}, "stops by distances, not by the loss"),
        ({"solver": "secant", "stop": "loss"}, "stops by distances, not by the loss"),
        ({"solver": "secant", "views": 8, "probes": 6}, "probes must be 7 or more for 8 views"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WSearch(**changes)


def test_networks_that_do_not_fit_are_named(world: World) -> None:
    images = np.stack([sample.image for sample in world.samples])
    colour = world.with_models(gan=small_gan(channels=3))
    with pytest.raises(ConfigError, match="3 channels, the encoder reads 1 channel"):
        WSearch(**BASE).resolve(colour.context)
    both = colour.with_models(encoder=small_encoder(images, in_channels=3))
    assert WSearch(**BASE).resolve(both.context).height == 16
    with pytest.raises(ConfigError, match="generator's, 16x16, got 32x32"):
        WSearch(**BASE, height=32, width=32).resolve(world.context)


def test_a_parent_of_another_psi_is_refused(world: World) -> None:
    with pytest.raises(ConfigError, match=r"psi must be that of the inversion, 1, got 0\.7"):
        WSearch(**BASE, psi=0.7).resolve(world.context)


def test_the_search_needs_its_parent(world: World) -> None:
    alone = replace(world.context, parent=None)
    settings = WSearch(**BASE).resolve(alone)
    with pytest.raises(ConfigError, match="start from the view set 'recon'"):
        settings.make(alone)


def test_a_parent_is_asked_for_the_psi_of_the_search_and_nothing_else() -> None:
    assert WSearch(preset="paper", lr=0.5).inputs() == {"parent": Input("recon", {"psi": 0.7})}


def test_a_generator_without_a_gradient_is_searched_by_forward_passes(world: World) -> None:
    there = without_gradient(world)
    settings = WSearch(**BASE).resolve(there.context)
    assert settings.solver == "secant"
    ended = search(there)
    for row, one in search(there, [5, 4, 3, 2, 1, 0]).items():
        assert_equal(one, ended[row])
    assert np.mean([one.params["converged"].all() for one in ended.values()]) > 0.5
    for one in ended.values():
        if one.params["converged"].all():
            assert np.abs(one.params["distance"] - 0.3).max() <= 0.02
            assert one.params["mean_pair_distance"].mean() >= 0.98 * settings.mean_pair_target
        else:
            assert (one.params["status"] == 2).all()


@pytest.mark.parametrize("changes", [{"solver": "adam"}, {"preset": "paper"}])
def test_adam_is_refused_where_there_is_no_gradient(world: World, changes: dict[str, Any]) -> None:
    there = without_gradient(world)
    there = replace(there, context=replace(there.context, parent=None))
    with pytest.raises(ConfigError, match="no gradient"):
        WSearch(**{**BASE, **changes}).resolve(there.context)


@pytest.mark.parametrize("gradient", [True, False])
def test_an_encoder_that_sees_nothing_leaves_a_clear_status(world: World, gradient: bool) -> None:
    flat = copy.deepcopy(world.context.models["encoder"])
    with torch.no_grad():
        for parameter in list(flat.parameters())[:-1]:
            parameter.zero_()
        for name, value in flat.named_buffers():
            if name.endswith("running_mean"):
                value.fill_(-1.0)
    there = world.with_models(encoder=flat)
    there = there if gradient else without_gradient(there)
    for one in search(there, [0, 1], max_steps=3, solver="secant").values():
        assert (one.params["status"] == 2).all()
        assert all(np.isfinite(value).all() for value in one.params.values())
        assert one.params["distance"].max() < 1e-3


def test_plans_of_before_there_were_solvers_are_adam_s(world: World) -> None:
    first = asdict(WSearch(**BASE).resolve(world.context))
    before = {name: value for name, value in first.items() if name not in WSearch.LATER}
    assert {name: first[name] for name in WSearch.LATER} == WSearch.LATER
    assert asdict(WSearch(**before).resolve(world.context)) == first
