"""W-perturb: settings that are refused, and views at the strength that was asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.generators.latent_world import World, as_view_set, make_world, world_on
from viewstore.errors import ConfigError
from viewstore.generators.contract import Input, Rendered
from viewstore.generators.latent.decode import start_noise
from viewstore.generators.latent.inversion import Inversion
from viewstore.generators.latent.perturb import WPerturb
from viewstore.randomness import Stream


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(num=4, max_steps=2)


def perturb(world: World, rows: list[int], **changes: object) -> dict[int, Rendered]:
    settings = WPerturb(**{"views": 3, **changes}).resolve(world.context)  # type: ignore[arg-type]
    generator = settings.make(world.context)
    return {one.index: one for one in generator.render(world.samples[row] for row in rows)}


def test_every_column_of_the_plan_is_given_in_its_dtype(world: World) -> None:
    columns = WPerturb(views=3, keep_latents=True).resolve(world.context).columns()
    for one in perturb(world, [0, 1], keep_latents=True).values():
        assert set(one.params) == {column.name for column in columns}
        for column in columns:
            value = one.params[column.name]
            assert (value.dtype, value.shape) == (column.numpy_dtype, column.shape), column.name


def test_a_view_depends_on_its_sample_and_number_alone(world: World) -> None:
    first = perturb(world, [0, 1, 2, 3])
    for row, one in perturb(world, [3, 1]).items():
        assert np.array_equal(one.pixels, first[row].pixels)
    assert not np.array_equal(first[0].pixels[0], first[0].pixels[1])


def test_noise_has_the_asked_for_spread(world: World) -> None:
    gan = world.context.models["gan"]
    spread = gan.sample(10_000, 0)[:, 0].std(0).numpy()
    for units, expected in (("wstd", 0.4 * spread), ("abs", np.full(8, 0.4))):
        options = {"keep_latents": True, "views": 64, "sigma": 0.4, "sigma_units": units}
        (one,) = perturb(world, [0], **options).values()
        noise = (one.params["latent"] - one.params["latent0"]).astype(np.float64)
        assert np.allclose(noise.reshape(-1, 8).std(0), expected, rtol=0.15)


def test_noise_is_standard_normal_and_of_each_layer_its_own() -> None:
    """By chi-square over 10^4 draws, and by the correlations between all pairs of layers."""
    stream = Stream.of_view_set(3, "views", 1)
    drawn = [start_noise(stream, row, 100, (4, 6))[0] for row in range(100)]
    noise = torch.cat(drawn).double().numpy()
    count = len(noise)
    assert count == 10_000
    band = 5 * np.sqrt(2 * count)  # five standard deviations of chi-square of as many degrees
    assert (abs((noise**2).sum(0) - count) < band).all()
    for dimension in range(6):
        between = np.corrcoef(noise[:, :, dimension].T)[np.triu_indices(4, 1)]
        assert (abs(between) < 5 / np.sqrt(count)).all()


def test_a_step_behind_psi_is_psi_times_as_long(world: World) -> None:
    """Abs .2 at psi .7 is abs .14 in what the generator decodes."""
    gan = world.context.models["gan"]
    settings = Inversion(max_steps=1, shift_stop=0.05, slots=4, psi=0.7).resolve(world.context)
    parent = as_view_set(settings, settings.make(world.context).render(world.samples))
    images = np.stack([sample.image for sample in world.samples])
    behind = world_on(world.context, parent, images)
    steps = []
    for place, psi, sigma in ((behind, 0.7, 0.2), (world, 1.0, 0.14)):
        options = {"keep_latents": True, "sigma": sigma, "sigma_units": "abs", "psi": psi}
        (one,) = perturb(place, [1], **options).values()
        ends = [one.params[name].astype(np.float64) for name in ("latent", "latent0")]
        decoded = [gan.w_avg.numpy() + psi * (each - gan.w_avg.numpy()) for each in ends]
        steps.append(decoded[0] - decoded[1])
    np.testing.assert_allclose(steps[0], steps[1], atol=3e-3)


def test_a_conditional_network_is_perturbed_without_labels() -> None:
    """Its unit is the spread over its classes in turn, as that of sigma_w is."""
    world = make_world(num=2, max_steps=2, classes=3)
    gan = world.context.models["gan"]
    labels = torch.arange(10_000) % 3
    spread = gan.sample(10_000, 0, labels)[:, 0].std(0).numpy()
    options = {"keep_latents": True, "views": 96, "sigma": 0.4}
    (one,) = perturb(world, [1], **options).values()
    noise = (one.params["latent"] - one.params["latent0"]).astype(np.float64)
    assert np.allclose(noise.reshape(-1, 8).std(0), 0.4 * spread, rtol=0.12)


def test_distances_are_those_of_stored_pixels(world: World) -> None:
    there = world.with_codec("jpg")
    encoder, parent = there.context.models["encoder"], there.context.parent
    assert parent is not None
    for row, one in perturb(there, [0, 2]).items():
        seen = np.concatenate([there.context.codec.roundtrip(one.pixels), parent[row]])
        h = encoder(torch.from_numpy(seen.transpose(0, 3, 1, 2) / np.float32(255)))
        expected = (h[:3] - h[3]).norm(dim=1).numpy()
        assert np.allclose(one.params["distance"], expected, atol=1e-4)
        near = min((h[0] - h[1]).norm().item(), (h[0] - h[2]).norm().item())
        assert one.params["min_pair_distance"][0] == pytest.approx(near, abs=1e-4)


def test_without_an_encoder_no_distance_is_claimed(world: World) -> None:
    models = {"gan": world.context.models["gan"]}
    alone = replace(world, context=replace(world.context, models=models))
    (one,) = perturb(alone, [0]).values()
    assert "distance" not in one.params


def test_a_larger_sigma_goes_further(world: World) -> None:
    means = []
    for sigma in (0.05, 0.5):
        ended = perturb(world, [0, 1, 2, 3], sigma=sigma)
        means.append(np.mean([one.params["distance"] for one in ended.values()]))
    assert means[0] < means[1]


def test_bad_settings_are_refused(world: World) -> None:
    with pytest.raises(ConfigError, match="sigma must be above 0"):
        WPerturb(sigma=0.0)
    with pytest.raises(ConfigError, match="sigma_units must be one of"):
        WPerturb(sigma_units="var")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="psi must be that of the inversion"):
        WPerturb(psi=0.7).resolve(world.context)


def test_a_parent_is_asked_for_the_psi_of_the_perturbation_and_nothing_else() -> None:
    assert WPerturb(psi=0.7, sigma=0.5, threads=2).inputs() == {
        "parent": Input("recon", {"psi": 0.7})
    }
