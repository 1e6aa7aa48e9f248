"""The Fréchet distance: closed forms, its reference, what it refuses."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.generators.gan.encoder_features import encoder_features
from viewstore.generators.gan.frechet import (
    Features,
    Frechet,
    PixelFrechet,
    principal_components,
)

RAW = Features(
    name="raw numbers", rows=lambda images: images.reshape(len(images), -1).astype(float)
)


def gaussian(count: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, width)) @ rng.normal(size=(width, width)) + rng.normal(
        size=width
    )


def closed_form(a: np.ndarray, b: np.ndarray) -> float:
    """The formula as it is written, with the square root of the product itself."""
    c, d = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values = np.linalg.eigvals(c @ d)
    gap = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return float(gap + np.trace(c) + np.trace(d) - 2 * np.sqrt(values.astype(complex)).real.sum())


@pytest.mark.parametrize("width", [1, 2, 7])
def test_the_distance_is_that_of_the_formula(width: int) -> None:
    a, b = gaussian(300, width, 0), gaussian(200, width, 1)
    wanted = (
        closed_form(a, b)
        if width > 1
        else float((a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2)
    )
    assert Frechet(a, RAW)(b) == pytest.approx(wanted, rel=1e-9)
    assert Frechet(b, RAW)(a) == pytest.approx(wanted, rel=1e-9)


def test_a_set_is_at_no_distance_of_itself_in_any_order() -> None:
    a, b = gaussian(300, 5, 0), gaussian(200, 5, 1)
    order = np.random.default_rng(2).permutation(len(b))
    assert Frechet(a, RAW)(a) == pytest.approx(0, abs=1e-9)
    assert Frechet(a, RAW)(b[order]) == pytest.approx(Frechet(a, RAW)(b), rel=1e-12)


def test_the_distance_is_named_with_what_real_images_have() -> None:
    real = np.random.default_rng(0).normal(size=(400, 1, 2, 2))
    distance = PixelFrechet(real)
    centre, halves = real.mean(0), PixelFrechet(real[::2])
    assert distance.reference == pytest.approx(halves(real[1::2]), rel=1e-6)  # a rotation of axes
    assert (distance.reference_images, distance.dimensions) == (200, 4)
    assert 0 < distance.reference < distance(real + centre + 1)
    assert distance.features == "4 principal components of pixels"
    assert distance.text(73.5).startswith("Fréchet distance 73.50 in 4 principal components of")
    assert f"{distance.reference:.2f}" in distance.text(73.5)
    assert math.isnan(PixelFrechet(real[:3]).reference)


def test_the_distance_of_shifted_gaussians_is_known() -> None:
    rng = np.random.default_rng(0)
    real = rng.normal(size=(20_000, 1, 2, 2)) * [[1.0, 2.0], [3.0, 4.0]]
    distance = PixelFrechet(real, components=4)
    assert distance(real) == pytest.approx(0, abs=1e-9)
    assert distance(real + 0.5) == pytest.approx(4 * 0.25, rel=1e-6)
    assert distance(real * 2) == pytest.approx(sum(s**2 for s in (1, 2, 3, 4)), rel=0.05)


def test_few_images_have_the_components_that_many_pixels_have() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(30, 3, 4, 4)) * np.linspace(0.1, 3, 4)
    found = principal_components(images, 5).rows(images)
    centred = images.reshape(30, -1) - images.reshape(30, -1).mean(0)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(found), np.abs((left * scale)[:, :5]), atol=1e-9)
    assert principal_components(images).name == "29 principal components of pixels"


def test_large_images_are_compared_as_small_ones_by_area() -> None:
    small = np.random.default_rng(0).normal(size=(50, 1, 32, 32))
    large = small.repeat(4, axis=2).repeat(4, axis=3)
    stripes = np.tile([1.0, -1.0], 64)  # finer than a small pixel
    measured = PixelFrechet(large)
    assert measured.features == "40 principal components of pixels at 32 x 32"
    assert measured(large + stripes) == pytest.approx(0, abs=1e-8)
    assert measured.reference == pytest.approx(PixelFrechet(small).reference, rel=1e-9)


@pytest.mark.parametrize(
    ("real", "message"),
    [
        (np.ones((1, 1, 4, 4)), "at least 2 images on either side, got 1"),
        (np.ones((9, 1, 4, 4)), "images that are all the same"),
    ],
)
def test_sets_of_which_a_distance_says_nothing_are_refused(real: np.ndarray, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PixelFrechet(real)


def test_features_that_are_not_finite_and_single_images_are_refused() -> None:
    measured = Frechet(gaussian(50, 3, 0), RAW)
    with pytest.raises(ConfigError, match="raw numbers of an image are not finite"):
        measured(np.full((4, 3), np.nan))
    with pytest.raises(ConfigError, match="got 1"):
        measured(np.ones((1, 3)))


class Means:
    """Sees three images of 2 x 2 pixels at a time, and gives the mean of each channel."""

    input_size, input_views = (2, 2), 3

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def outputs(self, x: Tensor) -> Mapping[str, Tensor]:
        self.shapes.append(tuple(x.shape))
        assert 0 <= float(x.min()) <= float(x.max()) <= 1
        return {"feature": x.mean((2, 3))}


@pytest.mark.parametrize("channels", [1, 3])
def test_an_encoder_sees_levels_in_batches_of_its_shape(channels: int) -> None:
    encoder = Means()
    images = np.random.default_rng(0).uniform(-1.2, 1.2, (7, channels, 4, 4)).astype(np.float32)
    found = encoder_features(encoder, "means").rows(images)
    wanted = ((images.clip(-1, 1) + 1) / 2).mean((2, 3))
    assert encoder.shapes == [(3, 3, 2, 2)] * 3
    np.testing.assert_allclose(found, np.broadcast_to(wanted, (7, 3)), atol=1 / 255)
    alone = encoder_features(encoder, "means").rows(images[4:5])
    np.testing.assert_array_equal(alone[0], found[4])
    assert torch.is_grad_enabled()
