"""Chains of operators: what they draw, in which order it is rendered, and hostile records."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from viewstore.errors import ConfigError
from viewstore.images.operators import jigsaw, recorded
from viewstore.images.operators.chain import CHAINS, Chain
from viewstore.images.operators.spaces import NO_MORE, ra16, uniform
from viewstore.images.operators.table import NUMBERS, OPERATORS
from viewstore.randomness import Op, Stream

MANY = 10_000
SIZE = (24, 32)


def picture(seed: int) -> Any:  # noqa: ANN401
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def draws(chain: Chain, count: int = MANY) -> dict[str, Any]:
    return chain.draw(Stream(5), np.arange(count), 3, SIZE)


def rendered(view: Any, params: Any) -> Any:  # noqa: ANN401
    return recorded.put_together(recorded.operated(view, params), params)


def wrong(params: Any, size: tuple[int, int] = SIZE) -> list[tuple[str, list[bool], str]]:  # noqa: ANN401
    return [
        (name, bad.tolist(), why) for name, bad, why in recorded.wrong(params, size) if bad.any()
    ]


def of_row(params: dict[str, Any], row: int) -> dict[str, Any]:
    return {name: column[row].tolist() for name, column in params.items()}


@pytest.mark.parametrize("name", CHAINS)
def test_draws_have_the_planned_forms_and_no_fill(name: str) -> None:
    chain = CHAINS[name]
    params = draws(chain, 200)
    assert sorted(params) == [column.name for column in chain.columns]
    for column in chain.columns:
        assert params[column.name].shape == (200, *column.shape)
        assert params[column.name].dtype == column.numpy_dtype
        assert not column.missing(params[column.name]).any()


@pytest.mark.parametrize("name", CHAINS)
def test_draws_pass_the_check_and_replay_from_what_is_stored(name: str) -> None:
    params = draws(CHAINS[name], 40)
    assert wrong(params) == []
    for row in range(40):
        view = picture(row)
        first = rendered(view, of_row(params, row))
        assert np.array_equal(view, picture(row))
        again = rendered(view, {key: column[row] for key, column in params.items()})
        assert np.array_equal(first, again)


@pytest.mark.parametrize("magnitude", [0, 5, 30])
def test_no_operators_are_the_identity(magnitude: float) -> None:
    chain = Chain(spaces=(ra16(0, magnitude),))
    assert chain.columns == ()
    assert draws(chain) == {}
    assert np.array_equal(rendered(picture(1), {}), picture(1))


def test_the_combination_draws_each_space_from_words_of_its_own() -> None:
    params = draws(CHAINS["paper3"], 300)
    first, of_first = ra16().draw(Stream(5), np.arange(300), 3, SIZE)
    then, of_then = uniform().draw(Stream(5), np.arange(300), 3, SIZE, first=2)
    for row in range(300):
        kept = then[row] != NO_MORE
        expected = [*first[row], *then[row][kept]]
        assert params["ops"][row].tolist() == expected + [NO_MORE] * (4 - len(expected))
        values = np.concatenate([of_first[row], of_then[row][kept]])
        found = params["ops_args"][row]
        assert np.array_equal(found[: len(values)], values, equal_nan=True)
        assert np.isnan(found[len(values) :]).all()
    assert len(np.unique((params["ops"] == NO_MORE).sum(axis=1))) == 3


def test_operators_are_applied_in_order_and_the_jigsaw_last() -> None:
    params = draws(CHAINS["paper"], 30)
    for row in range(30):
        view = picture(row)
        for number, arguments in zip(params["ops"][row], params["ops_args"][row], strict=True):
            view = OPERATORS[number](view, *arguments.astype(float).tolist())
        expected = jigsaw.rearranged(view, params["jigsaw"][row])
        assert np.array_equal(rendered(picture(row), of_row(params, row)), expected)


def test_either_shows_a_jigsaw_instead_of_operators_in_a_tenth_of_the_views() -> None:
    params = draws(CHAINS["either"])
    moved = (params["jigsaw"] != jigsaw.identity(4)).any(axis=1)
    assert moved.mean() == pytest.approx(0.1, abs=0.012)
    assert (params["ops"][moved] == NO_MORE).all()
    assert np.isnan(params["ops_args"][moved]).all()
    assert (params["ops"][~moved] != NO_MORE).all()
    coin = Stream(5).uniform(Op.JIGSAW, np.arange(MANY), 3)[:, 0]
    assert np.array_equal(moved, coin < 0.1)


def test_every_preset_of_the_paper_can_be_reached() -> None:
    ra, tiles = CHAINS["ra16"], CHAINS["jigsaw"]
    for n, m in [(1, 1), (2, 1), (2, 5), (4, 10), (8, 16)]:
        assert ra.with_numbers(n=n, m=m) == Chain(spaces=(ra16(n, m),))
        assert draws(ra.with_numbers(n=n, m=m), 5)["ops"].shape == (5, n)
    for grid in (2, 4):
        assert tiles.with_numbers(grid=grid) == Chain(grid=grid)
    assert CHAINS["ua"] == Chain(spaces=(uniform(),))
    assert CHAINS["paper3"].with_numbers(m=9).spaces == (ra16(2, 9), uniform())


@pytest.mark.parametrize(
    ("name", "numbers", "message"),
    [
        ("ua", {"n": 3}, "this chain has no n: its operators are not drawn at a magnitude"),
        ("jigsaw", {"m": 3}, "this chain has no m"),
        ("ra16", {"grid": 2}, "this chain has no grid: it has no jigsaw"),
        ("paper", {"grid": 0}, r"grid must be in \[1, 15\], got 0"),
        ("paper", {"grid": 16}, r"grid must be in \[1, 15\], got 16"),
    ],
)
def test_numbers_that_a_chain_does_not_have_are_refused(
    name: str, numbers: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        CHAINS[name].with_numbers(**numbers)


def test_a_jigsaw_in_place_of_operators_needs_a_grid() -> None:
    with pytest.raises(ConfigError, match=r"instead must be in \[0, 1\] beside a grid, got 0.1"):
        Chain(spaces=(ra16(),), instead=0.1)
    with pytest.raises(ConfigError, match="instead must be in"):
        replace(CHAINS["either"], instead=1.5)


OF_ONE = {"ops": [3, 255], "ops_args": [[5.0, np.nan, np.nan], [np.nan] * 3]}
CUT = NUMBERS["CutoutAbs"]


@pytest.mark.parametrize(
    ("stored", "column", "why"),
    [
        ({"ops": [99, 255]}, "ops", "has an operator that is not known here"),
        ({"ops": [254, 255]}, "ops", "has an operator that is not known here"),
        ({"ops": [255, 3]}, "ops", "goes on after its end"),
        ({"ops_args": [[np.nan] * 3] * 2}, "ops_args", "has a value that is not in +-65536"),
        ({"ops_args": [[np.inf] * 3] * 2}, "ops_args", "has a value that is not in +-65536"),
        ({"ops_args": [[-1e9, 0, 0]] * 2}, "ops_args", "has a value that is not in +-65536"),
        ({"ops": [CUT, 255]}, "ops_args", "has a value that is not in +-65536"),
        ({"jigsaw": [0, 0, 2, 3]}, "jigsaw", "is no order of its tiles"),
        ({"jigsaw": [0, 1, 2, 255]}, "jigsaw", "is no order of its tiles"),
    ],
)
def test_hostile_params_are_named_before_they_steer_a_renderer(
    stored: Any,  # noqa: ANN401
    column: str,
    why: str,
) -> None:
    good = {**OF_ONE, "jigsaw": [0, 1, 2, 3]}
    dtypes = {"ops": "u1", "ops_args": "f4", "jigsaw": "u1"}
    both = [good, {**good, **stored}]
    params = {key: np.array([each[key] for each in both], dtypes[key]) for key in good}
    assert (column, [False, True], why) in wrong(params)
    grouped = {key: value[None] for key, value in params.items()}
    assert (column, [[False, True]], why) in wrong(grouped)


def test_tiles_of_different_shapes_may_not_change_places() -> None:
    params = {"jigsaw": np.array([[1, 0, 2, 3]], np.uint8)}
    assert wrong(params, (8, 8)) == []
    assert wrong(params, (8, 9)) == [("jigsaw", [True], "is no order of its tiles")]


def test_tiles_that_make_no_square_are_refused() -> None:
    params = {"jigsaw": np.arange(5, dtype=np.uint8)[None]}
    assert wrong(params) == [("jigsaw", [True], "is no order of its tiles")]


@settings(max_examples=300, deadline=None)
@given(
    ops=hnp.arrays(np.uint8, (1, 3), elements=st.integers(0, 255)),
    arguments=hnp.arrays(np.float32, (1, 3, 3)),
    order=hnp.arrays(np.uint8, (1, 4), elements=st.integers(0, 4)),
)
def test_what_passes_the_check_can_be_rendered(ops: Any, arguments: Any, order: Any) -> None:  # noqa: ANN401
    params = {"ops": ops, "ops_args": arguments, "jigsaw": order}
    if not wrong(params):
        assert rendered(picture(1), of_row(params, 0)).shape == (*SIZE, 3)


@settings(max_examples=300, deadline=None)
@given(
    number=st.integers(0, len(OPERATORS) - 1),
    value=st.floats(-65536, 65536, width=32),
    x=st.floats(0, 65536, width=32),
    y=st.floats(0, 65536, width=32),
)
def test_every_value_within_the_limits_can_be_rendered(
    number: int, value: float, x: float, y: float
) -> None:
    params = {
        "ops": np.array([[number]], np.uint8),
        "ops_args": np.array([[[value, x, y]]], np.float32),
    }
    assert wrong(params) == []
    assert rendered(picture(1), of_row(params, 0)).dtype == np.uint8
