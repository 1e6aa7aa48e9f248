"""Policies with operators in a loader: online, on cached views, by words, with late colours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.loaders.stores import as_array
from viewstore.errors import ConfigError
from viewstore.images.operators.chain import CHAINS
from viewstore.images.policies import Operated, policies
from viewstore.loaders import Cached, Online, ViewLoader
from viewstore.loaders.plan.asked import parse_views
from viewstore.randomness import Stream
from viewstore.store.store import Store

NAMES = ["ra16", "paper3", "either", "ua", "jigsaw4", "simclr+ra16"]


def batches(store: Store, views: Any, **changes: Any) -> list[Any]:  # noqa: ANN401
    settings = {"batch_size": 11, "num_threads": 2, "seed": 3, **changes}
    with ViewLoader(store, views, **settings) as loader:
        return list(loader)


@pytest.mark.parametrize("resize_filter", ["area", "pil"])
def test_online_views_are_replayed_by_their_params(photos: Store, resize_filter: Any) -> None:  # noqa: ANN401
    asked = [Online(name, n=2, size=40, filter=resize_filter) for name in NAMES]
    for batch in batches(photos, asked):
        for slot, view in enumerate(batch.views):
            policy = policies(NAMES[slot // 2])[0].for_size(40, 40)
            assert view.source == f"online:{policy.name}"
            rows = batch.index.numpy()
            sizes = photos.table.height[rows], photos.table.width[rows]
            drawn = policy.draw(Stream(3), rows, slot, *sizes)
            for place, row in enumerate(rows.tolist()):
                params = {key: values[place].numpy() for key, values in view.params.items()}
                assert all(
                    params[key].tobytes() == column[place].tobytes()
                    for key, column in drawn.items()
                )
                image = photos.source.image(row)
                replayed = policy.render(image, params, (40, 40), resize_filter)
                assert np.array_equal(as_array(view.pixels)[place], replayed)


@pytest.mark.parametrize("name", NAMES)
def test_on_cached_views_operators_are_drawn_anew_in_every_epoch(digits: Store, name: str) -> None:
    loader = ViewLoader(digits, [Cached("hard", then=name)], batch_size=70, seed=3)
    with loader:
        epochs = [next(iter(loader)), next(iter(loader))]
    views = digits.view_sets["hard"]
    policy = policies(name)[0].for_size(12, 12)
    for batch in epochs:
        (view,) = batch.views
        for place, row in enumerate(batch.index.tolist()):
            params = {each.name: view.params[each.name][place].numpy() for each in policy.columns}
            params["crop_box"] = view.params["crop_local"][place].numpy()
            stored = views[row][int(view.view[place])]
            replayed = policy.render(stored, params, (12, 12), "area")
            assert np.array_equal(as_array(view.pixels)[place], replayed)
    if name == "ra16":
        (first,), (second,) = (batch.views for batch in epochs)
        stored_boxes = np.stack(
            [
                views.params["crop_box"][row, view]
                for row, view in zip(epochs[0].index.tolist(), first.view.tolist(), strict=True)
            ]
        )
        assert np.array_equal(first.params["crop_box"], stored_boxes)
        assert not np.array_equal(first.params["ops"], second.params["ops"])


@pytest.mark.parametrize("views", ["simclr+ra16,ra16,byol", "hard+simclr+ra16"])
def test_colours_that_operators_follow_are_made_at_once(digits: Store, views: str) -> None:
    usual = batches(digits, views)
    late = batches(digits, views, photometric="device", device="cpu")
    for one, other in zip(usual, late, strict=True):
        for view, same in zip(one.views, other.views, strict=True):
            assert np.array_equal(as_array(view.pixels), as_array(same.pixels))


def test_words_name_operators_behind_policies_and_view_sets() -> None:
    assert parse_views("simclr+ra16,ua", []) == [Online("simclr+ra16"), Online("ua")]
    assert parse_views("simclr+ra16", ["simclr"]) == [Cached("simclr", then="ra16")]
    assert parse_views("online:simclr+ra16", ["simclr"]) == [Online("simclr+ra16")]
    assert parse_views("w-search+simclr+ra16", ["w-search"]) == [
        Cached("w-search", then="simclr+ra16")
    ]
    with pytest.raises(ConfigError, match="flip is no chain of operators; there are ra16"):
        parse_views("simclr+flip", ["w-search"])


def test_a_policy_with_numbers_of_ones_own_is_a_part_of_the_state(digits: Store) -> None:
    chain = CHAINS["ra16"]
    states = []
    for n, m in [(2, 5), (2, 6), (4, 10)]:
        mine = Operated(name="mine", chain=chain.with_numbers(n=n, m=m))
        with ViewLoader(digits, [Online(mine)], batch_size=8) as loader:
            states.append(loader.state_dict()["views"])
            assert next(iter(loader)).views[0].params["ops"].shape == (8, n)
    assert len(set(states)) == 3


@pytest.mark.parametrize("name", ["ra16", "paper", "dssl-byol-heavy"])
def test_heavy_views_are_rendered_on_the_pixels_of_another_slot(digits: Store, name: str) -> None:
    (batch,) = batches(digits, [Cached("hard"), Online(name, on=0)], batch_size=70)
    standard, heavy = batch.views
    policy = policies(name)[0].for_size(12, 12)
    for place in range(70):
        params = {each.name: heavy.params[each.name][place].numpy() for each in policy.columns}
        params["crop_box"] = heavy.params["crop_local"][place].numpy()
        below = as_array(standard.pixels)[place]
        expected = policy.render(below, params, (12, 12), "area")
        assert np.array_equal(as_array(heavy.pixels)[place], expected)
    assert heavy.parent.tolist() == standard.view.tolist()
