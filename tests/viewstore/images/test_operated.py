"""Policies with operators: a standard view first, then the operators on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from viewstore.errors import ConfigError
from viewstore.images.operated import NOTHING_DONE, WHOLE
from viewstore.images.operators.chain import CHAINS, Chain
from viewstore.images.operators.jigsaw import rearranged
from viewstore.images.operators.recorded import operated, put_together
from viewstore.images.policies import POLICIES, Operated, policies
from viewstore.images.resize import resize
from viewstore.randomness import Stream

SIZE = (24, 32)
OPS = {"ops", "ops_args", "jigsaw"}


def photograph(seed: int, height: int = 40, width: int = 50) -> Any:  # noqa: ANN401
    rows, columns = np.mgrid[:height, :width]
    waves = np.stack([rows * 5 + seed, columns * 3, rows * columns // 4], axis=-1)
    return (waves % 256).astype(np.uint8)


def heavy_of(view: Any, params: dict[str, Any]) -> Any:  # noqa: ANN401
    return put_together(operated(view, params), params)


def row(params: dict[str, Any], place: int) -> dict[str, Any]:
    return {name: column[place].tolist() for name, column in params.items()}


@pytest.mark.parametrize(
    "name", [*(name for name in CHAINS if name in POLICIES), "jigsaw2", "jigsaw4"]
)
def test_without_a_standard_policy_operators_see_the_whole_image_resized(name: str) -> None:
    (policy,) = policies(name)
    params = policy.for_size(*SIZE).draw(Stream(1), np.arange(20), 0, 40, 50)
    assert (params["crop_box"] == [0, 0, 40, 50]).all()
    assert not params["flip"].any()
    for place in range(20):
        one = row(params, place)
        expected = heavy_of(resize(photograph(place), *SIZE), one)
        found = policy.render(photograph(place), one, SIZE, "area")
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("heavy", ["ra16", "paper3", "either"])
@pytest.mark.parametrize("name", ["simclr", "byol", "digits", "crop"])
def test_operators_are_applied_to_the_view_of_the_standard_policy(name: str, heavy: str) -> None:
    pair = policies(f"{name}+{heavy}")
    assert [each.name for each in pair] == [f"{name}+{heavy}"] * len(policies(name))
    for view, (both, base) in enumerate(zip(pair, policies(name), strict=True)):
        both, base = both.for_size(*SIZE), base.for_size(*SIZE)
        params = both.draw(Stream(1), np.arange(12), view, 40, 50)
        drawn = base.draw(Stream(1), np.arange(12), view, 40, 50)
        assert params.keys() - drawn.keys() <= OPS
        assert all(np.array_equal(params[each], drawn[each]) for each in drawn)
        for place in range(12):
            standard = base.render(photograph(place), row(drawn, place), SIZE, "area")
            expected = heavy_of(standard, row(params, place))
            found = both.render(photograph(place), row(params, place), SIZE, "area")
            assert np.array_equal(found, expected)


def test_no_policy_with_operators_flips_a_digit() -> None:
    (policy,) = policies("digits+paper3")
    assert "flip" not in {column.name for column in policy.columns}
    for name, (whole, *_) in POLICIES.items():
        if isinstance(whole, Operated) and whole.base is WHOLE:
            params = whole.for_size(8, 8).draw(Stream(2), np.arange(500), 0, 8, 8)
            assert not params["flip"].any(), name


def test_views_with_operators_are_heavy_unless_crops_are_told_apart() -> None:
    names = ("dino+ra16", "dino-local+ra16", "moco+ra16", "ra16", "dssl-byol", "dssl-byol-heavy")
    roles = [policies(name)[0].role for name in names]
    assert roles == ["global", "local", "heavy", "heavy", "expert", "heavy"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("simclr+flip", "policy 'simclr[+]flip': flip is no chain of operators; there are ra16"),
        ("simclr+ra61", "there is no augmentation policy 'ra61'; did you mean 'ra16'"),
        ("simclir+ra16", "there is no augmentation policy 'simclir'; did you mean 'simclr'"),
        ("moco+dssl-byol", "dssl-byol is no chain of operators; there are ra16"),
        ("ra16+ua", "policy ra16[+]ua: ra16 has operators already"),
        ("simclr+ra16+ua", "there is no augmentation policy 'ra16[+]ua'"),
        ("simclr+", "there is no augmentation policy ''"),
    ],
)
def test_a_composition_that_is_none_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        policies(name)


def test_a_policy_that_does_not_know_the_size_of_its_views_draws_nothing() -> None:
    policy = Operated(name="mine", chain=Chain(grid=3))
    with pytest.raises(ConfigError, match="policy mine draws for views of one size; call for_size"):
        policy.draw(Stream(0), 0, 0, 40, 50)


@pytest.mark.parametrize("view", [0, 1])
def test_operators_before_the_crop_are_applied_to_the_image(view: int) -> None:
    policy = policies("dssl-byol")[view].for_size(*SIZE)
    base = policies("byol")[view].for_size(*SIZE)
    heights = np.array([40, 45, 60])
    params = policy.draw(Stream(1), np.arange(3), view, heights, 50)
    drawn = base.draw(Stream(1), np.arange(3), view, heights, 50)
    for place, height in enumerate(heights.tolist()):
        image = operated(photograph(place, height), row(params, place))
        expected = base.render(image, row(drawn, place), SIZE, "area")
        found = policy.render(photograph(place, height), row(params, place), SIZE, "area")
        assert np.array_equal(found, expected)


def test_cutouts_before_the_crop_lie_in_the_image() -> None:
    (policy, _) = policies("dssl-byol")
    heights = np.arange(4000) % 50 + 40
    params = policy.for_size(*SIZE).draw(Stream(1), np.arange(4000), 0, heights, 200)
    x, y = params["ops_args"][:, 0, 1], params["ops_args"][:, 0, 2]
    cut = ~np.isnan(x)
    assert 150 < cut.sum() < 350
    assert x[cut].max() > 190
    assert (y[cut] <= heights[cut]).all()
    assert (y[cut] > 40).any()


def test_a_heavy_view_of_byol_is_a_jigsaw_of_the_whole_view_in_a_tenth_of_the_cases() -> None:
    (policy,) = policies("dssl-byol-heavy")
    params = policy.for_size(*SIZE).draw(Stream(1), np.arange(4000), 0, *SIZE)
    moved = (params["jigsaw"] != np.arange(16)).any(axis=1)
    assert moved.mean() == pytest.approx(0.1, abs=0.02)
    assert (params["crop_box"][moved] == [0, 0, *SIZE]).all()
    assert not (params["crop_box"][~moved] == [0, 0, *SIZE]).all(axis=1).all()
    for name, value in NOTHING_DONE.items():
        assert (params[name][moved] == value).all(), name
        assert name == "solarize" or not (params[name][~moved] == value).all(), name
    place = int(np.flatnonzero(moved)[0])
    found = policy.render(photograph(1, *SIZE), row(params, place), SIZE, "area")
    assert np.array_equal(found, rearranged(photograph(1, *SIZE), params["jigsaw"][place]))
