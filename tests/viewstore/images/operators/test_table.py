"""The operators against the reference's pictures, Pillow, and each other's mirror images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from viewstore.images.operators.spaces import ra16
from viewstore.images.operators.table import NUMBERS, OPERATORS

CENTRE = (14.986781378252932, 9.829129642454998)  # as the README of the reference says
MAGNITUDES = (1, 2, 5, 9, 16)
NAMES = [choice.name for choice in ra16().choices]
SIGNED = {"Rotate": 1, "ShearX": 1, "TranslateXabs": 1, "ShearY": 0, "TranslateYabs": 0}


def picture(seed: int, height: int = 32, width: int = 32) -> Any:  # noqa: ANN401
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def applied(name: str, view: Any, value: float, centre: tuple[float, float] = CENTRE) -> Any:  # noqa: ANN401
    return OPERATORS[NUMBERS[name]](view, value, *centre)


@pytest.fixture(scope="module")
def reference(shared: Path) -> Any:  # noqa: ANN401
    path = shared / "fixtures" / "ssl" / "dssl_randaugment_ops.npz"
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file}


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("name", NAMES)
def test_every_pixel_is_that_of_the_reference(reference: Any, name: str, magnitude: int) -> None:  # noqa: ANN401
    value = float(reference[f"M{magnitude}_{name}_val"])
    value = -value if name in SIGNED else value
    # The second is what a store keeps of the value and the centre.
    stored = np.float32([value, *CENTRE]).astype(float).tolist()
    for given_value, *centre in ([value, *CENTRE], stored):
        found = applied(name, reference["image"], given_value, tuple(centre))
        assert np.array_equal(found, reference[f"M{magnitude}_{name}"])


def test_numbers_and_ranges_are_those_of_the_reference(reference: Any) -> None:  # noqa: ANN401
    assert reference["op_names"].tolist() == NAMES
    assert [NUMBERS[name] for name in NAMES] == list(range(16))
    for number, choice in enumerate(ra16().choices):
        if OPERATORS[number].has_value:
            limits = (reference["op_lo"][number], reference["op_hi"][number])
            assert (choice.low, choice.high) == limits, choice
    assert {choice.name for choice in ra16().choices if choice.signed} == set(SIGNED)


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize(("name", "axis"), SIGNED.items())
def test_a_positive_value_is_the_mirror_image_of_a_negative_one(
    name: str, axis: int, magnitude: int
) -> None:
    choice = ra16().choices[NUMBERS[name]]
    value = magnitude / 30 * choice.high
    view = picture(1)
    mirrored = np.flip(applied(name, np.ascontiguousarray(np.flip(view, axis)), -value), axis)
    assert np.array_equal(applied(name, view, value), mirrored)
    assert magnitude < 5 or not np.array_equal(mirrored, view)


def test_a_sign_that_is_lost_would_be_noticed() -> None:
    view = picture(1)
    assert not np.array_equal(applied("Rotate", view, 10), applied("Rotate", view, -10))


def test_at_magnitude_0_solarize_inverts_everything_and_colour_is_a_tenth() -> None:
    view = picture(2)
    by_name = {choice.name: choice for choice in ra16(1, 0).choices}
    assert np.array_equal(applied("Solarize", view, by_name["Solarize"].low), 255 - view)
    assert {by_name[name].low for name in ("Color", "Contrast", "Brightness", "Sharpness")} == {0.1}
    tenth = ImageEnhance.Color(Image.fromarray(view)).enhance(0.1)
    assert np.array_equal(applied("Color", view, by_name["Color"].low), np.asarray(tenth))


def test_posterize_keeps_at_least_one_bit() -> None:
    view = picture(3)
    for value in (0, 0.7, 1.9):
        assert np.array_equal(applied("Posterize", view, value), view & 0x80)
    assert np.array_equal(applied("Posterize", view, 8), view)


def with_pillow(name: str, view: Any, value: float) -> Any:  # noqa: ANN401
    """Return what Pillow makes of a picture, in the words of the paper's table."""
    image = Image.fromarray(view)
    if name in ("Color", "Contrast", "Brightness", "Sharpness"):
        return np.asarray(getattr(ImageEnhance, name)(image).enhance(value))
    if name == "Posterize":
        return np.asarray(ImageOps.posterize(image, max(1, int(value))))
    if name == "SolarizeAdd":
        added = np.clip(view.astype(int) + value, 0, 255).astype(np.uint8)
        return np.asarray(ImageOps.solarize(Image.fromarray(added), 128))
    return np.asarray(ImageOps.solarize(image, value))


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, width=32), seed=st.integers(0, 99))
@pytest.mark.parametrize(
    ("name", "high"),
    [
        *((name, 2) for name in ("Color", "Contrast", "Brightness", "Sharpness")),
        ("Posterize", 8),
        ("SolarizeAdd", 110),
        ("Solarize", 256),
    ],
)
def test_tables_of_levels_give_the_pixels_of_pillow(
    name: str, high: float, share: float, seed: int
) -> None:
    view = picture(seed, 9, 11)
    assert np.array_equal(applied(name, view, share * high), with_pillow(name, view, share * high))


@settings(max_examples=200, deadline=None)
@given(
    x=st.floats(1, 24),
    y=st.floats(1, 17),
    side=st.floats(0, 40),
)
def test_a_cutout_is_the_rectangle_that_pillow_draws(x: float, y: float, side: float) -> None:
    view = picture(4, 17, 24)
    image = Image.fromarray(view)
    left, top = int(max(0, x - side / 2)), int(max(0, y - side / 2))
    corners = (left, top, min(24, left + side), min(17, top + side))
    ImageDraw.Draw(image).rectangle(corners, (125, 123, 114))
    assert np.array_equal(applied("CutoutAbs", view, side, (x, y)), np.asarray(image))
    assert np.array_equal(
        applied("Cutout", view, side / 24, (x, y)),
        applied("CutoutAbs", view, side / 24 * 24, (x, y)),
    )


def test_shares_of_the_size_are_pixels_of_it() -> None:
    view = picture(5, 20, 40)
    assert np.array_equal(applied("TranslateX", view, 0.25), applied("TranslateXabs", view, 10))
    assert np.array_equal(applied("TranslateY", view, 0.25), applied("TranslateYabs", view, 5))
    moved = applied("TranslateXabs", view, 10)
    assert np.array_equal(moved[:, :30], view[:, 10:])
    assert not moved[:, 30:].any()


@pytest.mark.parametrize("number", range(len(OPERATORS)))
def test_no_operator_changes_the_picture_it_is_given(number: int) -> None:
    view = picture(6)
    before = view.copy()
    found = OPERATORS[number](view, 1.7, 5.0, 6.0)
    assert found.shape == view.shape
    assert found.dtype == np.uint8
    assert np.array_equal(view, before)
