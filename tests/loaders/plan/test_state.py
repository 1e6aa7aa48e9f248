"""Loader states: small, exact about what they refuse, valid for any topology."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from viewstore.errors import ConfigError
from viewstore.loaders.plan.state import State, rows_digest, stores_digest

STATE = State(
    store="0123456789abcdef" * 2,
    order="1:global",
    seed=0,
    epoch=3,
    step=117,
    G=512,
    tail="drop",
    rows=None,
    views="0123456789abcdef",
)


def test_a_state_survives_json_and_stays_below_200_bytes() -> None:
    assert State.from_json(json.loads(json.dumps(STATE.to_json()))) == STATE
    large = replace(STATE, seed=2**53 - 1, epoch=9999, step=99_999, order="1:block:64")
    assert len(json.dumps(STATE.to_json(), separators=(",", ":"))) < 200
    assert len(json.dumps(large.to_json(), separators=(",", ":"))) < 200


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("store", "f" * 32, "store"),
        ("order", "1:none", "order"),
        ("G", 256, "batch_size"),
        ("tail", "pad", "tail"),
        ("rows", "0123456789abcdef", "row filter or rates"),
    ],
)
def test_a_state_of_something_else_is_refused_by_name(key: str, value: Any, what: str) -> None:  # noqa: ANN401
    saved = replace(STATE, **{key: value})
    with pytest.raises(ConfigError, match=f"has another {what}: it was saved with {key} "):
        STATE.check_resumes(saved)


def test_another_seed_epoch_or_step_is_accepted() -> None:
    STATE.check_resumes(replace(STATE, seed=9, epoch=0, step=0))


def test_other_views_only_warn() -> None:
    with pytest.warns(UserWarning, match="saved with other views"):
        STATE.check_resumes(replace(STATE, views="f" * 16))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v": 2}, "must have version 1, got 2"),
        ({"step": -1}, "integers >= 0"),
        ({"epoch": "3"}, "integers >= 0"),
        ({"extra": 1}, r"differing: \['extra'\]"),
    ],
)
def test_what_is_no_state_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        State.from_json({**STATE.to_json(), **change})


def test_row_filters_are_told_apart() -> None:
    assert rows_digest([None]) is None
    first, second = rows_digest([np.arange(5)]), rows_digest([np.arange(6)])
    assert first != second
    assert first == rows_digest([np.arange(5, dtype=np.int64)])


def test_several_stores_are_told_apart_by_ids_rows_and_rates() -> None:
    assert stores_digest(["a" * 64]) == "a" * 32
    assert stores_digest(["a" * 64, "b" * 64]) != stores_digest(["b" * 64, "a" * 64])
    digests = [
        rows_digest([None, None], [1.0, 1.0]),
        rows_digest([None, None], [1.0, 0.5]),
        rows_digest([np.arange(5), None], [1.0, 1.0]),
        rows_digest([None, np.arange(5)], [1.0, 1.0]),
    ]
    assert len({*digests, None}) == 5
