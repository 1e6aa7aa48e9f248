"""Views beside the views that they were made from: shown by equal numbers, or refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import viewstore
from viewstore.errors import ConfigError
from viewstore.format.columns import Column
from viewstore.images.boxes import overlap
from viewstore.images.iou_pairs import IouThreshold, iou_pair
from viewstore.loaders import Cached, Mix, Online, ViewLoader
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


def test_crops_that_overlap_little_stand_behind_one_another(digits: Store) -> None:
    first, second = iou_pair("cifar", IouThreshold(start=0.3, end=0.3, epochs=4))
    views = [Cached("hard"), Online(first, size=8), Online(second, size=12), Online("cifar")]
    with ViewLoader(digits, views, batch_size=35, num_threads=0) as loader:
        assert [slot.name for slot in loader.slots[1:3]] == ["cifar-iou"] * 2
        shown = [batch for _ in range(2) for batch in loader]
    for batch in shown:
        boxes = [batch.views[slot].params["crop_box"].numpy() for slot in (1, 2)]
        accepted = batch.views[1].params["x_iou_accepted"].numpy() == 1
        assert accepted.mean() > 0.9
        assert np.array_equal(overlap(*boxes) <= 0.3, accepted)
        assert batch.views[1].pixels.shape[2:] == (8, 8)
    pairs = [batch.views[2].params["crop_box"].numpy() for batch in shown]
    assert not any(np.array_equal(pairs[0], other) for other in pairs[1:])


def test_a_crop_without_its_partner_is_refused(digits: Store) -> None:
    threshold = IouThreshold(start=0.3, end=0.3, epochs=4)
    first, second = iou_pair("cifar", threshold)
    others = iou_pair("simclr", threshold)
    later = iou_pair("cifar", replace(threshold, end=0.2))
    alone: list[tuple[Any, int, str]] = [
        ([Online(first)], 0, "behind"),
        ([Online(second), Online(first)], 0, "before"),
        ([Online(first), Online("cifar"), Online(second)], 0, "behind"),
        ([Online(first, n=2), Online(second)], 0, "behind"),
        ([Online(first), Online(others[1])], 0, "behind"),
        ([Online(first), Online(later[1])], 0, "behind"),
        ([Cached("hard", then=first), Cached("hard", then=second)], 0, "behind"),
        ([Cached("hard"), Online(first, on=0), Online(second, on=0)], 1, "behind"),
    ]
    for views, slot, where in alone:
        message = f"of slot {slot} shows one of two crops .* slot {where} it does not show"
        with pytest.raises(ConfigError, match=message):
            ViewLoader(digits, views, batch_size=8)
