"""Colours of one view against Pillow, which they equal to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from viewstore.images import colours
from viewstore.images.policies import policies
from viewstore.randomness import Stream

OFF: dict[str, Any] = {
    "jitter": (1, 1, 1, 0),
    "jitter_order": (255,) * 4,
    "gray": False,
    "blur": 0,
    "solarize": 256,
}


def picture(height: int, width: int, seed: int = 0) -> Any:  # noqa: ANN401
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def recoloured(pixels: Any, **changes: Any) -> Any:  # noqa: ANN401
    """Return what `recolour` makes of `pixels` where all but `changes` is off."""
    copy = pixels.copy()
    colours.recolour(copy, **{**OFF, **changes})
    return copy


def shift_hue(image: Image.Image, turns: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = Image.fromarray(np.asarray(hue) + np.uint8(int(turns * 255) % 256))
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


JITTERS = (
    lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    shift_hue,
)


def with_pillow(pixels: Any, **changes: Any) -> Any:  # noqa: ANN401
    """Return the same, made by Pillow alone: what views have been since the first version."""
    params = {**OFF, **changes}
    image = Image.fromarray(pixels)
    for op in params["jitter_order"]:
        if op != 255:
            image = JITTERS[op](image, float(params["jitter"][op]))
    if params["gray"]:
        image = image.convert("L").convert("RGB")
    if params["blur"] > 0:
        image = image.filter(ImageFilter.GaussianBlur(params["blur"]))
    if params["solarize"] < 256:
        image = ImageOps.solarize(image, params["solarize"])
    return np.asarray(image)


level = st.floats(0, 4, width=32)


@settings(max_examples=150, deadline=None)
@given(
    jitter=st.tuples(level, level, level, st.floats(-0.5, 0.5, width=32)),
    order=st.permutations(range(4)) | st.just([255] * 4),
    gray=st.booleans(),
    blur=st.just(0.0) | st.floats(0, 8, width=32),
    solarize=st.integers(0, 256),
    shape=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    seed=st.integers(0, 99),
)
def test_any_params_give_the_pixels_of_pillow(
    jitter: tuple[float, ...],
    order: list[int],
    gray: bool,
    blur: float,
    solarize: int,
    shape: tuple[int, int],
    seed: int,
) -> None:
    params: dict[str, Any] = {"jitter": jitter, "jitter_order": order}
    params |= {"gray": gray, "blur": blur, "solarize": solarize}
    pixels = picture(*shape, seed)
    assert np.array_equal(recoloured(pixels, **params), with_pillow(pixels, **params))


@pytest.mark.parametrize("name", ["simclr", "moco", "byol", "dino"])
def test_drawn_params_give_the_pixels_of_pillow(name: str) -> None:
    for view, policy in enumerate(policies(name)):
        params = policy.draw(Stream(4), np.arange(40), view, 64, 64)
        for place in range(40):
            mine = {key: params[key][place] for key in OFF}
            mine |= {"blur": float(mine["blur"]), "solarize": int(mine["solarize"])}
            # Smooth in places, as photographs are: hues repeat and chroma is small.
            rows, columns = np.mgrid[:24, :24]
            pixels = np.stack([rows * 3 + place, columns * 9, rows + columns], -1).astype(np.uint8)
            assert np.array_equal(recoloured(pixels, **mine), with_pillow(pixels, **mine))


@pytest.mark.parametrize("turns", [-0.37, 0.1])
def test_the_hue_of_a_million_colours_turns_as_with_pillow(turns: float) -> None:
    steps = np.array([*range(0, 255, 3), *range(240, 256)], np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1)
    pixels = cube.reshape(len(steps), -1, 3)
    change: dict[str, Any] = {"jitter": (1, 1, 1, turns), "jitter_order": (3, 255, 255, 255)}
    assert np.array_equal(recoloured(pixels, **change), with_pillow(pixels, **change))


def test_a_part_of_an_image_is_recoloured_in_place() -> None:
    pixels = picture(20, 30)
    part = pixels[4:12, 5:25]
    params: dict[str, Any] = {"jitter": (1.3, 0.7, 1.6, 0.2), "jitter_order": (3, 1, 0, 2)}
    expected = with_pillow(np.ascontiguousarray(part), **params, blur=0.9)
    colours.recolour(part, **{**OFF, **params, "blur": 0.9})
    assert np.array_equal(pixels[4:12, 5:25], expected)
    assert np.array_equal(pixels[12:], picture(20, 30)[12:])


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
@pytest.mark.parametrize("op", [0, 1, 2])
def test_jitter_equals_the_enhancers_of_pillow(op: int, factor: float) -> None:
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    pixels = picture(17, 23)
    jitter = [1.0, 1.0, 1.0, 0.0]
    jitter[op] = factor
    ours = recoloured(pixels, jitter=jitter, jitter_order=(op, 255, 255, 255))
    theirs = np.asarray(enhancers[op](Image.fromarray(pixels)).enhance(factor))
    assert np.array_equal(ours, theirs)


def test_jitter_applies_its_ops_in_the_drawn_order() -> None:
    pixels = picture(9, 9)
    jitter = (1.6, 0.4, 1.5, 0.1)
    forward = recoloured(pixels, jitter=jitter, jitter_order=(0, 1, 2, 3))
    backward = recoloured(pixels, jitter=jitter, jitter_order=(3, 2, 1, 0))
    assert not np.array_equal(forward, backward)
    step = pixels
    for op in (3, 2, 1, 0):
        step = recoloured(step, jitter=jitter, jitter_order=(op, 255, 255, 255))
    assert np.array_equal(backward, step)


@pytest.mark.parametrize(("turns", "step"), [(0.1, 25), (-0.1, 231), (0.5, 127), (0.0, 0)])
def test_hue_moves_the_hue_channel_of_pillow(turns: float, step: int) -> None:
    pixels = picture(17, 23)
    hsv = np.asarray(Image.fromarray(pixels).convert("HSV")).copy()
    hsv[..., 0] += np.uint8(step)
    theirs = np.asarray(Image.fromarray(hsv, mode="HSV").convert("RGB"))
    ours = recoloured(pixels, jitter=(1, 1, 1, turns), jitter_order=(3, 255, 255, 255))
    assert np.array_equal(ours, theirs)


def test_gray_blur_and_solarize_equal_pillow() -> None:
    pixels = picture(17, 23)
    image = Image.fromarray(pixels)
    gray = np.asarray(image.convert("L").convert("RGB"))
    assert np.array_equal(recoloured(pixels, gray=True), gray)
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(1.3)))
    assert np.array_equal(recoloured(pixels, blur=1.3), blurred)
    solarized = np.asarray(ImageOps.solarize(image, 128))
    assert np.array_equal(recoloured(pixels, solarize=128), solarized)
    assert solarized[pixels >= 128].max() == 127


def test_everything_off_changes_nothing() -> None:
    pixels = picture(8, 8)
    assert np.array_equal(recoloured(pixels), pixels)
