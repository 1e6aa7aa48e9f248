"""Views beside the views that they were made from: shown by equal numbers, or refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import viewstore
from viewstore.errors import ConfigError
from viewstore.format.columns import Column
from viewstore.loaders import Cached, Mix, ViewLoader
from viewstore.store.store import Store


@pytest.fixture
def family(digits: Store) -> Store:
    """A store in which the 4 views of `hard` are said to be made from the 3 of `digits`."""
    return with_parent(viewstore.open(digits.root), "hard", "digits")


@pytest.fixture
def twins(digits: Store) -> Store:
    """A store in which `hard` and `twin` are one view set, and `twin` is said to be its child."""
    store = viewstore.open(digits.root)
    twin = viewstore.open(digits.root).view_sets["hard"]
    assert twin.index.plan_id == twin.plan.id  # read while the plan is its own
    store.__dict__["view_sets"] = {**store.view_sets, "twin": twin}
    twin.plan = replace(twin.plan, view_set="twin")
    return with_parent(store, "twin", "hard")


def with_parent(store: Store, child: str, parent: str) -> Store:
    plan = store.view_sets[child].plan
    assert store.view_sets[child].index.rows == plan.rows  # read while the plan is its own
    above = {"view_set": parent, "plan_id": store.view_sets[parent].plan.id}
    store.view_sets[child].plan = replace(plan, parent=above)
    return store


def say_parents(store: Store, name: str, numbers: list[int]) -> None:
    params = store.view_sets[name].params
    params.columns["parent"] = Column(name="parent", dtype="i4", shape=(len(numbers),))
    params._whole["parent"] = np.array([numbers] * len(store.view_sets[name]), np.int32)


def make(store: Store, *views: Any) -> ViewLoader:  # noqa: ANN401
    return ViewLoader(store, list(views), batch_size=16, num_threads=0)


@pytest.mark.parametrize(
    "views",
    [
        [Cached("hard"), Cached("digits")],
        [Cached("digits", n=2), Cached("hard", n=2)],
        [Mix({"hard": 1}), Cached("digits")],
        [Cached("hard", then="flip"), Cached("digits", then="crop")],
    ],
)
def test_views_that_would_pair_by_accident_are_refused(family: Store, views: list[Any]) -> None:
    with pytest.raises(ConfigError, match="views of hard were made from views of digits"):
        make(family, *views)
    make(family, Cached("hard", n=3))


@pytest.mark.parametrize(
    "views",
    [
        [Cached("hard", n=2), Cached("twin")],
        [Cached("hard"), Cached("twin", pick="random")],
        [Cached("hard"), Mix({"twin": 1, "digits": 1})],
    ],
)
def test_equal_views_pair_only_with_equal_slots(twins: Store, views: list[Any]) -> None:
    with pytest.raises(ConfigError, match="views of twin were made from views of hard"):
        make(twins, *views)


@pytest.mark.parametrize("count", [1, 2])
def test_views_whose_numbers_agree_stand_beside_their_parents(twins: Store, count: int) -> None:
    for _ in range(3):
        for batch in make(twins, Cached("hard", n=count), Cached("twin", n=count)):
            for above, below in zip(batch.views[:count], batch.views[count:], strict=True):
                assert above.view.equal(below.view)


def test_numbers_that_mean_other_parents_are_refused(twins: Store) -> None:
    say_parents(twins, "twin", [1, 0, 3, 2])
    with pytest.raises(ConfigError, match="views of twin were made from views of hard"):
        make(twins, Cached("hard"), Cached("twin"))
    say_parents(twins, "twin", [0, 1, 2, 3])
    make(twins, Cached("hard"), Cached("twin"))


def test_grandparents_are_parents_too(twins: Store) -> None:
    with_parent(twins, "hard", "digits")
    with pytest.raises(ConfigError, match="views of twin were made from views of digits"):
        make(twins, Cached("digits"), Cached("twin"))


def test_views_that_follow_pair_by_no_numbers(twins: Store) -> None:
    """The view in a slot that follows another one is not that whose turn it is."""
    say_parents(twins, "twin", [0, 1, 2, 3])
    make(twins, Cached("hard"), Cached("twin"))
    say_parents(twins, "hard", [1, 2, 3, 0])
    make(twins, Cached("hard"), Cached("hard", follow=0))
    with pytest.raises(ConfigError, match="views of twin were made from views of hard"):
        make(twins, Cached("hard"), Cached("hard", follow=0), Cached("twin"))
    make(twins, Cached("hard"), Cached("hard", follow=0), Cached("twin", follow=1))


def test_views_of_a_mix_stand_for_one_another(twins: Store) -> None:
    make(twins, Mix({"hard": 1, "twin": 1}, n=2))
