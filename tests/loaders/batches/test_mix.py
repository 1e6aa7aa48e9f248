"""Slots that show several view sets: how often, which views, and what is delivered of them."""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.loaders.stores import NUM_DIGITS, as_array
from viewstore.errors import ConfigError
from viewstore.loaders import Cached, Mix, Online, ViewLoader
from viewstore.loaders.plan.mixed import ViewSetGroup
from viewstore.loaders.plan.resolve import resolve
from viewstore.store.store import Store

WEIGHTS = {"hard": 3.0, "digits": 1.0}
FROZEN = [[0, 0], [2, 2], [0, 0], [1, 0], [0, 0], [2, 0], [0, 1], [0, 0]]
FROZEN_BALANCED = [0, 2, 1, 0, 2, 0, 2, 1]


def make(store: Store, *views: Any, **changes: Any) -> ViewLoader:  # noqa: ANN401
    return ViewLoader(store, list(views), **{"batch_size": 10, "num_threads": 0, **changes})


def chosen(
    weights: dict[str, float], epochs: int, *, balanced: bool, rows: int = 4000, seed: int = 0
) -> np.ndarray[Any, Any]:
    """Return the set that each row shows in each epoch, [rows, epochs]."""
    views = ViewSetGroup((), tuple(weights.values()), balanced)
    index = np.arange(rows)
    return np.stack([views.chosen(seed, e, index, [0])[:, 0] for e in range(epochs)], axis=1)


def test_the_choice_of_the_set_is_frozen() -> None:
    views = ViewSetGroup((), (0.5, 0.25, 0.25), False)
    assert views.chosen(0, 0, np.arange(8), [0, 1]).tolist() == FROZEN
    balanced = ViewSetGroup((), (0.5, 0.25, 0.25), True)
    assert np.array_equal(balanced.chosen(0, 0, np.arange(8), [0, 1]), FROZEN)
    later = [balanced.chosen(0, e, np.arange(1), [0])[0, 0] for e in range(8)]
    assert later == FROZEN_BALANCED


@settings(max_examples=30, deadline=None, derandomize=True)  # of 450 draws, one may be odd
@given(
    st.lists(st.floats(0.05, 20.0), min_size=1, max_size=5),
    st.integers(0, 2**53 - 1),
    st.booleans(),
)
def test_sets_are_shown_as_often_as_they_weigh(
    weights: list[float], seed: int, balanced: bool
) -> None:
    """Within four standard deviations of a fair draw, over samples."""
    found = chosen(
        {str(n): w for n, w in enumerate(weights)}, 3, balanced=balanced, rows=8000, seed=seed
    )
    for number, weight in enumerate(weights):
        share = weight / sum(weights)
        sigma = np.sqrt(share * (1 - share) / 8000)
        for epoch in range(3):
            assert abs((found[:, epoch] == number).mean() - share) <= 4 * sigma + 1e-12


def test_balanced_takes_every_sample_through_its_sets_evenly() -> None:
    epochs = 60
    even = (chosen({"a": 0.3, "b": 0.7}, epochs, balanced=True) == 0).sum(axis=1)
    drawn = (chosen({"a": 0.3, "b": 0.7}, epochs, balanced=False) == 0).sum(axis=1)
    assert np.abs(even - 0.3 * epochs).max() < 3
    assert np.abs(drawn - 0.3 * epochs).max() > 8  # what a plain draw does to some samples


def test_a_choice_depends_on_row_slot_epoch_and_seed_alone() -> None:
    views = ViewSetGroup((), (1.0, 1.0), False)
    whole = views.chosen(1, 2, np.arange(50), [0, 1, 2])
    assert np.array_equal(views.chosen(1, 2, np.arange(50)[::-1], [2, 0]), whole[::-1, [2, 0]])
    for other in (views.chosen(2, 1, np.arange(50), [0, 1, 2]), np.roll(whole, 1, axis=1)):
        assert not np.array_equal(other, whole)


def test_a_mixed_slot_holds_stored_views_of_its_sets(digits: Store) -> None:
    shown = {"digits": 0, "hard": 0}
    names = sorted(WEIGHTS)
    for batch in make(digits, Mix(WEIGHTS, n=2), Online("simclr"), tail="keep"):
        for view in batch.views[:2]:
            assert view.source == "cached:digits|hard"
            for place, row in enumerate(batch.index.tolist()):
                name = names[int(view.params["x_set"][place])]
                number = int(view.view[place])
                stored = digits.view_sets[name]
                assert np.array_equal(as_array(view.pixels)[place], stored[row][number])
                box = stored.params["crop_box"][row, number]
                assert np.array_equal(view.params["crop_box"][place].numpy(), box)
                flip = int(view.params["flip"][place])
                assert flip == (stored.params["flip"][row, number] if name == "hard" else 255)
                turn = float(view.params["x_rotation"][place])
                assert np.isnan(turn) == (name == "hard")
                shown[name] += 1
        first, second = batch.views[:2]
        same = first.params["x_set"] == second.params["x_set"]
        assert not (same & (first.view == second.view)).any()
    assert sum(shown.values()) == 2 * NUM_DIGITS
    assert 0.15 < shown["digits"] / sum(shown.values()) < 0.35


@pytest.mark.parametrize("balanced", [False, True])
def test_views_of_each_set_keep_their_own_schedule(digits: Store, balanced: bool) -> None:
    """Where a slot shows a set in an epoch, it shows the view that the set alone would show."""
    mixed = make(digits, Mix({"hard": 1, "digits": 1}, n=2, balanced=balanced), tail="keep")
    alone = {name: make(digits, Cached(name, n=2), tail="keep") for name in ("digits", "hard")}
    for _ in range(12 // gcd(12, 2)):
        for batch, *pair in zip(mixed, alone["digits"], alone["hard"], strict=True):
            for slot in (0, 1):
                numbers = [other.views[slot].view for other in pair]
                sets = batch.views[slot].params["x_set"].tolist()
                expected = [int(numbers[n][place]) for place, n in enumerate(sets)]
                assert batch.views[slot].view.tolist() == expected


def test_a_mix_is_the_same_whatever_the_order_of_its_names(digits: Store) -> None:
    one = make(digits, Mix({"hard": 3, "digits": 1}))
    other = make(digits, Mix({"digits": 0.25, "hard": 0.75}))
    first, second = next(iter(one)), next(iter(other))
    assert first.views[0].pixels.equal(second.views[0].pixels)


def test_threads_and_ranks_change_no_bit_of_a_mix(digits: Store) -> None:
    views = [Mix(WEIGHTS, n=2, then="crop", size=8), Online("digits", size=8)]
    whole = list(make(digits, *views, batch_size=60))
    with make(digits, *views, batch_size=60, num_threads=3) as threaded:
        for batch, again in zip(whole, threaded, strict=True):
            for view, other in zip(batch.views, again.views, strict=True):
                assert view.pixels.equal(other.pixels)
    for rank in range(3):
        (part,) = make(digits, *views, batch_size=60, rank=rank, world_size=3)
        for view, other in zip(whole[0].views, part.views, strict=True):
            assert view.pixels[rank * 20 : rank * 20 + 20].equal(other.pixels)
            for name, column in view.params.items():
                mine = column[rank * 20 : rank * 20 + 20].double().nan_to_num(-7)
                assert mine.equal(other.params[name].double().nan_to_num(-7)), name


def test_what_is_rendered_on_a_mixed_view_is_composed_with_its_own_box(digits: Store) -> None:
    names = ["digits", "hard"]
    for batch in make(digits, Mix(WEIGHTS, then="crop"), tail="keep"):
        (view,) = batch.views
        for place, row in enumerate(batch.index.tolist()):
            stored = digits.view_sets[names[int(view.params["x_set"][place])]]
            top, left, height, width = stored.params["crop_box"][row, int(view.view[place])]
            flipped = "flip" in stored.params and stored.params["flip"][row, int(view.view[place])]
            local = view.params["crop_local"][place].numpy().astype(float)
            start = 12 - local[1] - local[3] if flipped else local[1]
            expected = (
                top + local[0] * height / 12,
                left + start * width / 12,
                local[2] * height / 12,
                local[3] * width / 12,
            )
            assert np.allclose(view.params["crop_box"][place], expected, rtol=1e-6)


def test_a_mix_has_the_roles_its_sets_agree_on_and_is_known_by_its_weights(digits: Store) -> None:
    loader = make(digits, Mix(WEIGHTS), Cached("hard"))
    assert loader.roles == ("expert", "expert")
    state = loader.state_dict()
    for other in (Mix({**WEIGHTS, "hard": 2.9}), Mix(WEIGHTS, balanced=True), Cached("hard")):
        assert make(digits, other, Cached("hard")).state_dict()["views"] != state["views"]
    assert make(digits, Mix(dict(reversed(WEIGHTS.items()))), Cached("hard")).state_dict() == state


def test_two_equal_mixes_share_their_views(digits: Store) -> None:
    cached, _ = resolve([Mix(WEIGHTS), Cached("hard"), Mix(dict(WEIGHTS))], digits)
    assert [(slots.group.name, slots.slots) for slots in cached] == [
        ("hard", (1,)),
        ("digits|hard", (0, 2)),
    ]


def test_only_the_columns_that_are_asked_for_are_delivered(digits: Store) -> None:
    batch = next(iter(make(digits, Mix(WEIGHTS, params=("flip", "x_set")))))
    assert sorted(batch.views[0].params) == ["flip", "x_set"]


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        (lambda: Mix({}), "Mix must name at least one view set"),
        (lambda: Mix({"hard": 0}), "Mix weight of hard must be above 0, got 0"),
        (lambda: Mix({"hard": float("nan")}), "Mix weight of hard must be above 0, got nan"),
        (lambda: Mix(WEIGHTS, n=0), "Mix n must be at least 1, got 0"),
        (lambda: Mix(WEIGHTS, size=8), "Mix size is that of the views that `then` renders"),
        (lambda: Mix({"hart": 1}), "no view set 'hart' in this store; did you mean 'hard'"),
        (lambda: Mix(WEIGHTS, n=4), "view set digits has 3 views a sample, got 4 slots"),
        (lambda: Mix(WEIGHTS, params=("flp",)), "have no column 'flp'; did you mean 'flip'"),
    ],
)
def test_a_mix_that_makes_no_sense_is_refused(digits: Store, mix: Any, message: str) -> None:  # noqa: ANN401
    with pytest.raises(ConfigError, match=message):
        resolve([mix()], digits)


def test_view_sets_of_several_sizes_cannot_be_mixed(photos: Store, digits: Store) -> None:
    with pytest.raises(ConfigError, match=r"one size, got jpg \(48, 40, 3\), hard \(12, 12, 3\)"):
        ViewSetGroup((photos.view_sets["jpg"], digits.view_sets["hard"]), (1.0, 1.0), False)
