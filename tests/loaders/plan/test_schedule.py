"""Which cached view is shown: frozen schedule, equal use, and views that were not made."""

from math import gcd

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from viewstore.errors import ConfigError, FormatError
from viewstore.loaders.plan.schedule import (
    Missing,
    Pick,
    check_count,
    choose_views,
    preference,
    replace_missing,
)

INDEX = np.arange(20)


def test_the_schedule_is_frozen() -> None:
    order = preference(0, 0, np.arange(2), cached=8, wanted=8, pick="schedule")
    assert order.tolist() == [[0, 5, 7, 3, 4, 6, 1, 2], [6, 1, 2, 5, 7, 4, 0, 3]]


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 5))
def test_the_schedule_shows_every_view_equally_often(cached: int, wanted: int, cycle: int) -> None:
    if wanted > cached:
        return
    period = cached // gcd(cached, wanted)
    shown = np.concatenate(
        [
            choose_views(
                7, cycle * period + turn, INDEX, cached=cached, wanted=wanted, pick="schedule"
            )
            for turn in range(period)
        ],
        axis=1,
    )
    for row in shown:
        counts = np.bincount(row, minlength=cached)
        assert (counts == wanted // gcd(cached, wanted)).all()


@pytest.mark.parametrize("pick", ["schedule", "random"])
def test_views_of_an_epoch_differ(pick: Pick) -> None:
    for epoch in range(9):
        shown = choose_views(1, epoch, INDEX, cached=7, wanted=3, pick=pick)
        assert all(len(set(row)) == 3 for row in shown.tolist())


def test_pairings_change_from_cycle_to_cycle() -> None:
    pairs = {
        tuple(choose_views(1, epoch, INDEX[:1], cached=8, wanted=2, pick="schedule")[0].tolist())
        for epoch in range(40)
    }
    assert len(pairs) > 20


def test_a_choice_does_not_depend_on_the_batch() -> None:
    together = choose_views(3, 5, INDEX, cached=8, wanted=2, pick="schedule")
    alone = choose_views(3, 5, INDEX[11:12], cached=8, wanted=2, pick="schedule")
    assert np.array_equal(together[11], alone[0])


def test_random_picks_are_uniform_over_epochs() -> None:
    shown = np.concatenate(
        [choose_views(3, e, INDEX, cached=8, wanted=2, pick="random") for e in range(400)]
    )
    counts = np.bincount(shown.ravel(), minlength=8)
    assert np.abs(counts / counts.sum() - 1 / 8).max() < 0.01


def test_more_slots_than_views_are_refused() -> None:
    with pytest.raises(ConfigError, match="view set w-search has 2 views a sample, got 3 slots"):
        check_count("w-search", 3, 2)


ORDER = np.array([[2, 0, 1, 3], [1, 3, 0, 2]])
STATUS = np.array([[1, 2, 1, 3], [1, 0, 1, 4]], np.uint8)


def replaced(missing: Missing, wanted: int = 2) -> list[list[int]]:
    shown = replace_missing(
        ORDER[:, :wanted], ORDER, STATUS, np.array([40, 50]), name="w-search", missing=missing
    )
    return np.asarray(shown).tolist()


def test_views_that_were_not_made_raise_and_name_their_row() -> None:
    with pytest.raises(FormatError, match="view 1 of row 50 of w-search was not made: its status"):
        replaced("raise")


def test_fallback_shows_what_is_stored() -> None:
    assert replaced("fallback") == [[2, 0], [1, 3]]


def test_resample_takes_the_next_usable_views_that_no_slot_shows() -> None:
    assert replaced("resample") == [[2, 0], [0, 2]]


def test_resample_repeats_a_view_where_too_few_were_made() -> None:
    assert replaced("resample", wanted=4) == [[2, 0, 1, 2], [0, 0, 0, 2]]


def test_resample_raises_where_no_view_was_made() -> None:
    with pytest.raises(FormatError, match="no view of row 7 of heavy was made"):
        replace_missing(
            np.array([[0]]),
            np.array([[0, 1]]),
            np.array([[0, 3]], np.uint8),
            np.array([7]),
            name="heavy",
            missing="resample",
        )


def test_a_view_whose_goal_was_not_met_is_shown() -> None:
    status = np.array([[2, 2]], np.uint8)
    shown = replace_missing(
        np.array([[1]]), np.array([[1, 0]]), status, np.array([0]), name="x", missing="raise"
    )
    assert shown.tolist() == [[1]]
