"""The view set recon: an image is inverted to the latent whose image is most like it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.generators.latent_world import World, make_world, small_encoder, small_gan
from viewstore.errors import ConfigError
from viewstore.generators.contract import Rendered, Sample
from viewstore.generators.gan.inverter import Inverter, InverterShape
from viewstore.generators.latent.inversion import Inversion
from viewstore.generators.stylegan2.network import StyleGAN2


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(num=5, max_steps=1)


def invert(world: World, rows: list[int], **changes: object) -> dict[int, Rendered]:
    options = {"slots": 3, "shift_stop": 0.05, "max_steps": 15, **changes}
    settings = Inversion(**options).resolve(world.context)  # type: ignore[arg-type]
    generator = settings.make(world.context)
    return {one.index: one for one in generator.render(world.samples[row] for row in rows)}


def test_every_column_of_the_plan_is_given_in_its_dtype(world: World) -> None:
    columns = Inversion(shift_stop=0.05).resolve(world.context).columns()
    for one in invert(world, [0, 1]).values():
        assert set(one.params) == {column.name for column in columns}
        for column in columns:
            value = one.params[column.name]
            assert (value.dtype, value.shape) == (column.numpy_dtype, column.shape), column.name
            if column.name != "parent":
                assert not (value == column.fill).any(), column.name


def test_more_steps_come_nearer_in_pixels_and_features(world: World) -> None:
    few, many = invert(world, [0, 1, 2]), invert(world, [0, 1, 2], max_steps=150)
    for row, one in many.items():
        assert one.params["x_invert_mse"] < few[row].params["x_invert_mse"]
        assert one.params["loss"] < one.params["loss0"]
    shift = [np.mean([one.params["anchor_shift"] for one in of.values()]) for of in (few, many)]
    assert shift[1] < shift[0]


def test_the_reconstruction_is_that_of_the_stored_latents(world: World) -> None:
    gan = world.context.models["gan"]
    for one in invert(world, [0, 1]).values():
        latents = torch.from_numpy(one.params["latent"].astype(np.float32))
        images = ((gan.synthesis(latents) + 1) * 127.5).round().clamp(0, 255)
        assert np.array_equal(images.permute(0, 2, 3, 1).repeat(1, 1, 1, 3).numpy(), one.pixels)


def test_recorded_figures_are_those_of_stored_pixels(world: World) -> None:
    encoder = world.context.models["encoder"]
    for row, one in invert(world, [0, 1]).items():
        both = np.stack([one.pixels[0], world.samples[row].image]).transpose(0, 3, 1, 2)
        unit = torch.from_numpy(both / np.float32(255))
        h = encoder(unit)
        assert np.allclose(one.params["anchor_shift"], (h[0] - h[1]).norm().item(), atol=1e-4)
        mse = (2 * unit[0] - 2 * unit[1]).square().mean().item()
        assert np.allclose(one.params["x_invert_mse"], mse, rtol=1e-4)


def test_order_and_neighbours_change_no_byte(world: World) -> None:
    first = invert(world, [0, 1, 2, 3, 4])
    for row, one in {**invert(world, [4, 3, 2, 1, 0]), **invert(world, [2])}.items():
        assert np.array_equal(one.pixels, first[row].pixels)
        for name, value in one.params.items():
            assert np.array_equal(value, first[row].params[name]), name


def test_a_sample_stops_where_it_is_good_enough(world: World) -> None:
    ended = invert(world, [0, 1, 2], mse_stop=0.15, shift_stop=2.0, max_steps=100)
    for one in ended.values():
        assert one.params["steps"].item() < 100
        assert one.params["status"].item() == one.params["converged"].item() == 1
    (missed,) = invert(world, [0], max_steps=2).values()
    assert (missed.params["status"].item(), missed.params["converged"].item()) == (2, 0)


def test_the_goal_is_the_shift_whatever_the_pixel_error(world: World) -> None:
    """Half of the digits were off goal by their pixels while every shift was small."""
    shifts = [one.params["anchor_shift"] for one in invert(world, [0, 1, 2, 3, 4]).values()]
    stop = float(np.median(shifts))
    ended = invert(world, [0, 1, 2, 3, 4], mse_stop=1e-9, shift_stop=stop).values()
    missed = [bool(one.params["anchor_shift"] > stop) for one in ended]
    assert set(missed) == {True, False}
    assert [one.params["status"].item() == 2 for one in ended] == missed
    assert [one.params["converged"].item() == 0 for one in ended] == missed


def test_without_an_encoder_the_goal_is_the_pixel_error(world: World) -> None:
    alone = replace(world, context=replace(world.context, models={"gan": small_gan()}))
    for stop, status in ((1e-9, 2), (4.0, 1)):
        for one in invert(alone, [0, 1], lam_f=0.0, mse_stop=stop, shift_stop=None).values():
            assert one.params["status"].item() == status


def test_without_an_encoder_features_are_left_out(world: World) -> None:
    alone = replace(world, context=replace(world.context, models={"gan": small_gan()}))
    ended = invert(alone, [0, 1], lam_f=0.0)
    assert all("anchor_shift" not in one.params for one in ended.values())
    with pytest.raises(ConfigError, match="recon needs an encoder"):
        Inversion().resolve(alone.context)


def recalling(gan: StyleGAN2, latents: Tensor) -> Inverter:
    """Return an inverter that always answers `latents`."""
    inverter = Inverter(InverterShape.of(gan)).requires_grad_(False).eval()
    inverter.out.weight.zero_()
    inverter.out.bias.copy_(latents.flatten())
    return inverter


@pytest.mark.parametrize("psi", [1.0, 0.5])
def test_an_inverter_s_answer_is_the_start_and_shortens_the_search(
    world: World, psi: float
) -> None:
    gan = small_gan()
    latents = gan.sample(1, 99)
    pixels = ((gan.synthesis(latents) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    image = pixels[0].permute(1, 2, 0).repeat(1, 1, 3).numpy()
    there = world.with_models(inverter=recalling(gan, latents[0]))
    settings = Inversion(slots=2, shift_stop=0.05, psi=psi).resolve(there.context)
    assert (settings.inverter, settings.max_steps) == (True, 50)
    (one,) = settings.make(there.context).render([Sample.of(0, image)])
    assert one.params["steps"].item() == 0
    assert Inversion(shift_stop=0.05).resolve(world.context).max_steps == 300


def test_an_inverter_of_another_generator_is_refused(world: World) -> None:
    other = recalling(small_gan(seed=1), torch.zeros(6, 8))
    with pytest.raises(ConfigError, match="the inverter was trained for generator"):
        Inversion(shift_stop=0.05).resolve(world.with_models(inverter=other).context)


def test_a_gray_generator_refuses_colour(world: World) -> None:
    colour = Sample.of(0, np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    generator = Inversion(shift_stop=0.05).resolve(world.context).make(world.context)
    with pytest.raises(ConfigError, match="1 channel, the source has images of 3"):
        list(generator.render([colour]))


def test_a_colour_world_works_too() -> None:
    world = make_world(num=2, channels=3, max_steps=3)
    assert world.context.parent is not None
    assert world.context.parent[0].shape == (1, 16, 16, 3)


def test_a_larger_source_is_averaged_down(world: World) -> None:
    image = np.repeat(np.repeat(world.samples[0].image, 2, axis=0), 2, axis=1)
    settings = Inversion(slots=3, shift_stop=0.05, max_steps=15).resolve(world.context)
    (one,) = settings.make(world.context).render([Sample.of(0, image)])
    assert np.array_equal(one.pixels, invert(world, [0])[0].pixels)


def test_stop_rules_come_from_the_encoder(world: World) -> None:
    resolved = Inversion().resolve(world.context)
    assert resolved.calibration is not None
    assert resolved.shift_stop == pytest.approx(resolved.calibration["mean"] / 5, abs=1e-4)


def test_the_encoder_must_see_colour(world: World) -> None:
    images = np.stack([sample.image for sample in world.samples])
    models = {"gan": small_gan(channels=3), "encoder": small_encoder(images)}
    with pytest.raises(ConfigError, match="encoder reads 1 channel"):
        Inversion().resolve(replace(world.context, models=models))
