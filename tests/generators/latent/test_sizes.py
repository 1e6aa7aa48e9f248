"""Generators of 64, 128 and 256 px: inversion, perturbation, and how many samples at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.generators.latent_world import as_view_set, small_encoder, small_gan, world_on
from viewstore.generators.contract import Context, Sample
from viewstore.generators.latent import checks
from viewstore.generators.latent.checks import (
    BYTES_A_VALUE,
    SLOT_BYTES_CPU,
    SLOT_BYTES_CUDA,
    default_slots,
)
from viewstore.generators.latent.decode import to_pixels
from viewstore.generators.latent.inversion import Inversion
from viewstore.generators.latent.perturb import WPerturb
from viewstore.generators.latent.search import WSearch
from viewstore.generators.stylegan2.network import StyleGAN2
from viewstore.generators.stylegan2.shape import Architecture
from viewstore.images.codec import make_codec


def network(size: int) -> StyleGAN2:
    return small_gan(widths=(4,) * (size.bit_length() - 2))


def context_of(gan: StyleGAN2, images: NDArray[np.uint8]) -> Context:
    """Return a context of a source of these images, whose encoder sees them at 16 px."""
    return Context(
        seed=3,
        view_set="views",
        num_samples=len(images),
        source_height=images.shape[1],
        source_width=images.shape[2],
        source_image=lambda row: images[row],
        codec=make_codec("raw"),
        models={"gan": gan, "encoder": small_encoder(np.zeros((4, 16, 16, 3), np.uint8))},
    )


@pytest.mark.parametrize(("size", "source"), [(64, 64), (128, 32), (256, 300)])
def test_a_source_of_any_size_goes_through_inversion_and_perturbation(
    size: int, source: int
) -> None:
    gan = network(size)
    assert (gan.res, gan.num_codes) == (size, 2 * (size.bit_length() - 1) - 2)
    drawn = to_pixels(gan.synthesis(gan.sample(2, 1)))
    images = np.zeros((2, source, source, 3), np.uint8)
    common = min(size, source)
    images[:, :common, :common] = drawn[:, :common, :common]
    notes = list[str]()
    context = replace(context_of(gan, images), note=notes.append)
    settings = Inversion(shift_stop=0.05, max_steps=1, slots=2).resolve(context)
    assert settings.code_shape == (gan.num_codes, 8)
    smaller = f"there are source images of {source} pixels, the generator makes {size}: they are"
    assert [note.startswith(smaller) for note in notes] == [True] * (source < size)
    samples = [Sample.of(row, image) for row, image in enumerate(images)]
    inverted = list(settings.make(context).render(samples))
    for one in inverted:
        assert one.pixels is not None
        assert (one.pixels.shape, one.params["steps"].item()) == ((1, size, size, 3), 1)
        latents = torch.from_numpy(one.params["latent"].astype(np.float32))
        assert np.array_equal(to_pixels(gan.synthesis(latents)), one.pixels)
    world = world_on(context, as_view_set(settings, inverted), images)
    resolved = WPerturb(views=2).resolve(world.context)
    for one in resolved.make(world.context).render(world.samples):
        assert one.pixels is not None
        assert one.pixels.shape == (2, size, size, 3)
        assert (one.params["distance"] > 0).all()


def published(size: int, base: int) -> StyleGAN2:
    """Return a network as large as those that are published, whose weights take no memory."""
    sides = [4 << block for block in range(size.bit_length() - 2)]
    widths = tuple(min(base // side, 512) for side in sides)
    shape = Architecture(z_dim=8, mapping_widths=(8,), channels=widths, image_channels=3)
    with torch.device("meta"):
        return StyleGAN2(shape)


@pytest.mark.parametrize(
    ("size", "base", "views", "cpu", "cuda"),
    [
        (32, 16384, 8, 16, 128),  # what the speed of W-search is measured with
        (64, 16384, 8, 9, 57),
        (128, 16384, 8, 4, 26),
        (256, 16384, 8, 2, 12),
        (256, 16384, 1, 16, 100),
        (1024, 32768, 8, 1, 1),
    ],
)
def test_large_images_get_fewer_slots(
    size: int, base: int, views: int, cpu: int, cuda: int
) -> None:
    gan = published(size, base)
    found = (
        default_slots(gan, "cpu", views=views),
        default_slots(gan, "cuda:0", views=views),
    )
    values = sum(
        conv.weight.shape[0] * side**2
        for side in (4 << i for i in range(size.bit_length() - 2))
        if (conv := getattr(gan.synthesis, f"b{side}").conv1) is not None
    )
    for slots, memory in zip(found, (SLOT_BYTES_CPU, SLOT_BYTES_CUDA), strict=True):
        assert slots == 1 or slots * views * values * BYTES_A_VALUE <= memory
    assert found == (cpu, cuda)


def test_the_number_of_slots_is_part_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(small_gan(), np.zeros((3, 16, 16, 3), np.uint8))
    assert Inversion(shift_stop=0.05).resolve(context).slots == 16
    assert WSearch(eps1=0.3).resolve(context).slots == 16
    values = 12 * (16 + 64 + 256)
    monkeypatch.setattr(checks, "SLOT_BYTES_CPU", 5 * 8 * values * BYTES_A_VALUE)
    assert WSearch(eps1=0.3).resolve(context).slots == 5
    assert WSearch(eps1=0.3, views=4).resolve(context).slots == 10
    assert WSearch(eps1=0.3, slots=7).resolve(context).slots == 7
