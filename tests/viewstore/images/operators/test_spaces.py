"""Spaces of operators: draws from the words of the page, ranges, and probabilities."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from viewstore.errors import ConfigError
from viewstore.images.operators.spaces import (
    NO_MORE,
    Choice,
    Space,
    ra16,
    randaugment,
    uniform,
)
from viewstore.images.operators.table import NUMBERS, OPERATORS
from viewstore.randomness import Op, Stream

MANY = 10_000
SIZE = (24, 32)


def drawn(space: Space, count: int = MANY, *, first: int = 0) -> tuple[Any, Any]:
    return space.draw(Stream(5), np.arange(count), 3, SIZE, first=first)


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("space", [ra16(3, 7), randaugment(3, 7)])
def test_draws_come_from_two_blocks_of_words_for_each_operator(space: Space, first: int) -> None:
    numbers, arguments = drawn(space, 60, first=first)
    for row in range(60):
        for place in range(3):
            u = Stream(5).uniform(Op.OP_LIST, row, 3, blocks=2, first_block=2 * (first + place))
            choice = space.choices[int(u[0] * len(space.choices))]
            value = 7 / 30 * (choice.high - choice.low) + choice.low
            value = choice.middle + (-value if choice.signed and u[1] < 0.5 else value)
            operator = OPERATORS[numbers[row, place]]
            assert operator.name == choice.name
            centre = [32 - 31 * u[4], 24 - 23 * u[5]] if operator.cuts else [math.nan] * 2
            expected = [value if operator.has_value else math.nan, *centre]
            assert np.array_equal(arguments[row, place], np.float32(expected), equal_nan=True)


def test_operators_of_ra16_are_drawn_equally_often_and_with_replacement() -> None:
    numbers, arguments = drawn(ra16(2, 5))
    assert numbers.dtype == np.uint8
    assert arguments.dtype == np.float32
    rate = np.bincount(numbers.reshape(-1), minlength=16) / (2 * MANY)
    assert len(rate) == 16
    assert rate == pytest.approx(1 / 16, abs=4 * math.sqrt(1 / 16 / (2 * MANY)))
    assert (numbers[:, 0] == numbers[:, 1]).mean() == pytest.approx(1 / 16, abs=0.01)
    turned = arguments[..., 0][numbers == NUMBERS["Rotate"]]
    assert sorted(set(turned.tolist())) == [-5, 5]
    assert (turned > 0).mean() == pytest.approx(0.5, abs=0.06)


def test_values_at_magnitude_5_are_those_of_the_table() -> None:
    expected = {"Rotate": 5, "Posterize": 4 / 6, "Solarize": 42.667, "SolarizeAdd": 18.333}
    expected |= {"Color": 0.4, "ShearX": 0.05, "CutoutAbs": 6.667, "TranslateXabs": 16.667}
    numbers, arguments = drawn(ra16(2, 5))
    for name, value in expected.items():
        found = np.abs(arguments[..., 0][numbers == NUMBERS[name]])
        assert len(found) > 1000
        assert found == pytest.approx(value, abs=1e-3), name


def test_cutouts_lie_between_1_and_the_side() -> None:
    numbers, arguments = drawn(ra16(2, 5))
    cut = numbers == NUMBERS["CutoutAbs"]
    x, y = arguments[cut][:, 1], arguments[cut][:, 2]
    assert 1 < x.min() < 1.2
    assert 31.8 < x.max() <= 32
    assert 1 < y.min() < 1.2
    assert 23.8 < y.max() <= 24
    assert np.isnan(arguments[~cut][:, 1:]).all()


def test_an_operator_of_uniform_augment_is_applied_with_its_own_probability() -> None:
    numbers, arguments = drawn(uniform())
    u = Stream(5).uniform(Op.OP_LIST, np.arange(MANY), 3, blocks=4).reshape(MANY, 2, 8)
    assert np.array_equal(numbers == NO_MORE, u[..., 6] >= u[..., 3])
    assert np.isnan(arguments[numbers == NO_MORE]).all()
    applied = numbers != NO_MORE
    assert applied.mean() == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / (2 * MANY)))
    likely = u[..., 3] > 0.8
    assert applied[likely].mean() == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("choice", uniform().choices, ids=lambda choice: choice.name)
def test_values_of_uniform_augment_are_uniform_in_their_ranges(choice: Choice) -> None:
    numbers, arguments = drawn(uniform())
    found = arguments[..., 0][numbers == NUMBERS[choice.name]].astype(np.float64)
    expected = MANY / 15
    assert abs(len(found) - expected) < 4 * math.sqrt(expected)
    if not OPERATORS[NUMBERS[choice.name]].has_value:
        assert np.isnan(found).all()
        return
    low = -choice.high if choice.signed else choice.low
    share = np.sort((found - low) / (choice.high - low))
    assert share.min() >= 0
    assert share.max() <= 1
    # Kolmogorov and Smirnov: exceeded once in 2000.
    distance = np.abs(share - (np.arange(len(share)) + 0.5) / len(share)).max()
    assert distance * math.sqrt(len(share)) < 2


def test_uniform_augment_has_the_ranges_of_the_page() -> None:
    ranges = {choice.name: (choice.low, choice.high, choice.signed) for choice in uniform().choices}
    assert len(ranges) == 15
    assert ranges["ShearX"] == ranges["ShearY"] == (0, 0.3, True)
    assert ranges["TranslateX"] == ranges["TranslateY"] == (0, 0.45, True)
    assert ranges["Rotate"] == (0, 30, True)
    assert ranges["Solarize"] == (0, 256, False)
    assert ranges["Posterize"] == (4, 8, False)
    assert ranges["Cutout"] == (0, 0.2, False)
    for name in ("Contrast", "Color", "Brightness", "Sharpness"):
        assert ranges[name] == (0.1, 1.9, False)


def test_the_standard_randaugment_grows_heavier_with_its_magnitude() -> None:
    view = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for choice in randaugment().choices:
        operator = OPERATORS[NUMBERS[choice.name]]
        changes = []
        for magnitude in (0, 10, 20, 30):
            value = choice.middle + magnitude / 30 * (choice.high - choice.low) + choice.low
            found = operator(view, value, 0, 0).astype(int)
            changes.append(np.abs(found - view).sum())
        assert changes == sorted(changes), choice
        if operator.has_value:
            assert changes[0] == 0 < changes[-1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ra16(-1, 5), r"number of operators must be whole and in \[0, 16\], got -1"),
        (lambda: ra16(1.5, 5), "must be whole"),  # type: ignore[arg-type]
        (lambda: ra16(17, 5), r"must be whole and in \[0, 16\], got 17"),
        (lambda: ra16(2, 31), r"magnitude must be in \[0, 30\], got 31"),
        (lambda: ra16(2, math.nan), "magnitude must be"),
        (lambda: Choice("Rotat"), "there is no operator 'Rotat'; there are AutoContrast"),
    ],
)
def test_spaces_that_make_no_sense_are_refused(make: Any, message: str) -> None:  # noqa: ANN401
    with pytest.raises(ConfigError, match=message):
        make()
