"""Policies rendered on cached views: what is drawn, what is delivered, where it lies."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.loaders.stores import as_array, digits_store
from viewstore.errors import ConfigError
from viewstore.format.columns import Column
from viewstore.images.boxes import compose_boxes
from viewstore.images.policies import POLICIES, Policy, policies
from viewstore.loaders import Cached, Online, ViewLoader
from viewstore.loaders.plan.asked import parse_views
from viewstore.loaders.render.layered import _flips, _through, mirrored_views
from viewstore.randomness import Stream
from viewstore.store.store import Store

MINE = Policy(name="mine", scale=(0.3, 0.6), ratio=(1, 1), jitter_probability=0, gray=0)


def first(store: Store, *views: Any, **changes: Any) -> Any:  # noqa: ANN401
    settings = {"batch_size": 64, "num_threads": 0, **changes}
    return next(iter(ViewLoader(store, list(views), **settings)))


def test_a_flip_mirrors_half_of_the_cached_views_and_says_which(digits: Store) -> None:
    (view,) = first(digits, Cached("hard", then="flip")).views
    batch = first(digits, Cached("hard"))
    (plain,) = batch.views
    flipped = view.params["flip"].numpy().astype(bool)
    assert 16 < flipped.sum() < 48
    stored, shown = as_array(plain.pixels), as_array(view.pixels)
    assert np.array_equal(shown[~flipped], stored[~flipped])
    assert np.array_equal(shown[flipped], stored[flipped][:, :, ::-1])
    assert np.array_equal(view.params["crop_box"], plain.params["crop_box"])
    assert view.source == "cached:hard+flip"
    drawn = policies("flip")[0].draw(Stream(0), batch.index.numpy(), 0, 12, 12)
    assert np.array_equal(drawn["flip"], flipped)


@pytest.mark.parametrize("name", ["simclr", "dino", "dino-local", "digits", "crop"])
def test_stored_views_and_delivered_params_replay_the_view(digits: Store, name: str) -> None:
    batch = first(digits, Cached("hard", n=2, then=name), Online("simclr"), seed=4)
    views = digits.view_sets["hard"]
    for slot, view in enumerate(batch.views[:2]):
        pair = policies(name)
        side = view.pixels.shape[-1]
        policy = pair[slot % len(pair)].for_size(side, side)
        for place, row in enumerate(batch.index.tolist()):
            names = [column.name for column in policy.columns]
            params = {name: view.params[name][place].numpy() for name in names}
            params["crop_box"] = view.params["crop_local"][place].numpy()
            stored = views[row][int(view.view[place])]
            replayed = policy.render(stored, params, (side, side), "area")
            assert np.array_equal(as_array(view.pixels)[place], replayed)


def test_a_crop_of_a_crop_is_delivered_in_source_pixels(digits: Store) -> None:
    (view,) = first(digits, Cached("hard", then="crop")).views
    (plain,) = first(digits, Cached("hard")).views
    for place in range(64):
        top, left, tall, wide = plain.params["crop_box"][place].tolist()
        t, l, h, w = view.params["crop_local"][place].tolist()  # noqa: E741
        if plain.params["flip"][place]:
            l = 12 - l - w  # noqa: E741
        expected = [top + t * tall / 12, left + l * wide / 12, h * tall / 12, w * wide / 12]
        assert view.params["crop_box"][place].tolist() == pytest.approx(expected, rel=1e-6)


def test_composed_boxes_show_the_same_part_of_a_gradient() -> None:
    """Independent of the formula: columns of the source are numbered by their colour."""
    source = np.tile(np.arange(64, dtype=np.uint8)[None, :, None], (64, 1, 3))
    parent = source[8:40, 16:48][:, ::-1]  # a crop of 32 x 32, mirrored
    local = parent[4:12, 2:10]
    box = compose_boxes(
        np.array([[8, 16, 32, 32]]), np.array([True]), (32, 32), np.array([[4, 2, 8, 8]])
    )
    top, left, tall, wide = box[0].astype(int)
    assert np.array_equal(np.sort(local[0, :, 0]), source[top, left : left + wide, 0])
    assert (top, tall) == (12, 8)


def test_without_the_flip_of_the_parent_the_box_would_lie_elsewhere() -> None:
    """The naive composition, which a mirrored parent makes wrong."""
    given = np.array([[0, 0, 32, 32]]), (32, 32), np.array([[0, 0, 8, 8]])
    naive = compose_boxes(given[0], np.array([False]), *given[1:])
    assert naive.tolist() == [[0, 0, 8, 8]]
    assert compose_boxes(given[0], np.array([True]), *given[1:]).tolist() == [[0, 24, 8, 8]]


def test_views_without_a_box_show_the_whole_source(searched: Store) -> None:
    side = int(searched.table.height[0])
    assert mirrored_views(searched, searched.view_sets["w-search"]) is None
    (view,) = first(searched, Cached("w-search", then="flip"), batch_size=4).views
    assert view.params["crop_box"].tolist() == [[0, 0, side, side]] * 4
    assert view.role == "generated"


def test_policies_with_numbers_of_your_own_are_drawn(digits: Store) -> None:
    online, cached = first(
        digits, Online(MINE, size=10), Cached("hard", then=MINE, size=10, filter="linear")
    ).views
    assert online.source == "online:mine"
    for view in (online, cached):
        assert view.pixels.shape[2:] == (10, 10)
    sides = cached.params["crop_local"][:, 2:]
    assert (sides[:, 0] == sides[:, 1]).all()
    assert sides.min() >= 6
    assert sides.max() <= 9


def test_numbers_of_a_policy_are_part_of_the_state(digits: Store) -> None:
    def state(policy: Policy) -> Any:  # noqa: ANN401
        views = [Cached("hard", then=policy)]
        return ViewLoader(digits, views, batch_size=8).state_dict()["views"]

    assert state(MINE) == state(MINE)
    assert state(MINE) != state(Policy(name="mine", scale=(0.3, 0.7)))
    assert state(MINE) != ViewLoader(digits, [Cached("hard")], batch_size=8).state_dict()["views"]


def test_slots_of_one_view_set_stay_apart_whatever_is_rendered_on_them(digits: Store) -> None:
    loader = ViewLoader(digits, "hard,hard+flip,hard+dino-local", batch_size=70, num_threads=0)
    assert loader.roles == ("expert", "expert", "local")
    one, two, three = next(iter(loader)).views
    assert not ((one.view == two.view) | (two.view == three.view) | (one.view == three.view)).any()
    assert three.pixels.shape[2:] == (5, 5)


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 5, 8])
def test_threads_change_nothing(digits: Store, threads: int) -> None:
    views = "hard+flip,hard+crop,digits+simclr"
    with (
        ViewLoader(digits, views, batch_size=64, num_threads=0) as alone,
        ViewLoader(digits, views, batch_size=64, num_threads=threads) as together,
    ):
        for one, other in zip(alone, together, strict=True):
            for mine, theirs in zip(one.views, other.views, strict=True):
                assert np.array_equal(mine.pixels, theirs.pixels)


def test_jpg_views_are_rendered_on_too(photos: Store) -> None:
    (view,) = first(photos, Cached("jpg", then="flip"), batch_size=20).views
    batch = first(photos, Cached("jpg"), batch_size=20)
    flipped = view.params["flip"].numpy().astype(bool)
    assert 0 < flipped.sum() < 20
    expected = as_array(batch.views[0].pixels).copy()
    expected[flipped] = expected[flipped][:, :, ::-1]
    assert np.array_equal(as_array(view.pixels), expected)


def test_the_short_form_names_what_is_rendered_on_cached_views() -> None:
    assert parse_views("w-search+flip", ["w-search"]) == [Cached("w-search", then="flip")]
    assert parse_views("cached:w+crop", []) == [Cached("w", then="crop")]
    with pytest.raises(ConfigError, match="policy 'flop'; did you mean 'flip'"):
        parse_views("w-search+flop", ["w-search"])
    with pytest.raises(ConfigError, match="did you mean 'w-search'"):
        parse_views("w-serch+flip", ["w-search"])


def test_a_size_without_anything_to_render_is_refused() -> None:
    with pytest.raises(ConfigError, match="size is that of the views that `then` renders"):
        Cached("w", size=9)
    with pytest.raises(ConfigError, match="Cached size must be at least 1, got 0"):
        Cached("w", then="flip", size=0)


def test_flips_are_followed_through_all_parents(tmp_path: Path) -> None:
    """A view set whose views derive from its own view 0, which may be mirrored."""
    store = digits_store(tmp_path / "digits")
    views = store.view_sets["hard"]
    own = views.params["flip"] == 1
    views.params.columns["parent"] = Column(name="parent", dtype="i4", shape=(4,))
    views.params._whole["parent"] = np.array([[-1, 0, 1, 2]] * len(own), np.int32)
    expected = np.logical_xor.accumulate(own, axis=1)
    found = mirrored_views(store, views)
    assert found is not None
    rows = np.arange(len(own))[::-1]
    assert np.array_equal(found(rows), expected[::-1])
    assert (expected != own).any()


def test_a_flip_of_a_mirrored_parent_is_seen_the_right_way_round(tmp_path: Path) -> None:
    """A view set with flips of its own, made from views of another one, which are mirrored."""
    store = digits_store(tmp_path / "digits")
    views = store.view_sets["hard"]
    views.params.columns["parent"] = Column(name="parent", dtype="i4", shape=(4,))
    views.params._whole["parent"] = np.array([[0, 1, 1, -1]] * len(views), np.int32)
    above = np.array([True, False])
    found = _through(
        views.params,
        partial(_flips, views.params),
        lambda rows: np.tile(above, (len(rows), 1)),
        np.arange(len(views)),
    )
    own = views.params["flip"] == 1
    assert np.array_equal(found, own ^ [True, False, False, False])


def test_every_policy_can_be_rendered_on_cached_views(digits: Store) -> None:
    views = [Cached("hard", then=name) for name in list(POLICIES)[:4]]
    batch = first(digits, *views)
    assert [view.source for view in batch.views] == [
        f"cached:hard+{name}" for name in list(POLICIES)[:4]
    ]
