"""Colours that are left to the caller: pixels of crop and flip, and what colours make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.loaders.stores import as_array
from tests.viewstore.small_stores import build_small, write_photographs
from viewstore.errors import ConfigError
from viewstore.images.colours import COLOUR_COLUMNS
from viewstore.images.policies import Policy
from viewstore.loaders import Cached, Online, ViewLoader
from viewstore.loaders.batches.batch import Batch
from viewstore.store.store import Store, open_store

SIDE = 24
VIEWS = [
    Cached("simclr", n=2),  # 0, 1: recipes of the images
    Online("byol", n=2, size=SIDE),
    Cached("stored", then="moco"),
    Cached("stored"),  # 5
    Online("simclr+ra16", size=SIDE),  # 6
    Online("crop", size=SIDE),  # 7
    Online("moco", size=SIDE),  # 8
    Online("ra16", on=8),  # 9
]
COLOURLESS = {0, 1, 2, 3, 4}


def loader(store: Any, views: Any, photometric: Any, **changes: Any) -> ViewLoader:  # noqa: ANN401
    plain = {"batch_size": 8, "num_threads": 2, "seed": 5, "photometric": photometric}
    return ViewLoader(store, views, **plain | changes)


def epoch(store: Any, views: Any, photometric: Any, **changes: Any) -> list[Batch]:  # noqa: ANN401
    with loader(store, views, photometric, **changes) as made:
        return list(made)


def test_every_slot_says_beforehand_whether_it_has_its_colours(kindred: Store) -> None:
    for photometric, late in (("caller", COLOURLESS), ("cpu", set())):
        with loader(kindred, VIEWS, photometric) as made:
            assert {slot.number for slot in made.slots if slot.colourless} == late
            batch = next(iter(made))
        assert {slot for slot, view in enumerate(batch.views) if view.colourless} == late
    with loader(kindred, VIEWS[:5], "device") as made:
        assert not any(slot.colourless for slot in made.slots)
        assert not any(view.colourless for view in next(iter(made)).views)


def test_own_colours_give_the_pixels_of_the_cpu_bit_for_bit(kindred: Store) -> None:
    here, left = epoch(kindred, VIEWS, "cpu"), epoch(kindred, VIEWS, "caller")
    assert len(here) == len(left) == 3
    for one, other in zip(here, left, strict=True):
        assert one.state == other.state
        for slot, (mine, yours) in enumerate(zip(one.views, other.views, strict=True)):
            assert torch.equal(yours.coloured(), mine.pixels), slot
            assert torch.equal(yours.pixels, mine.pixels) is (slot not in COLOURLESS)
            assert mine.params.keys() == yours.params.keys()
        for mine, yours in zip(one.views, other.to("cpu").views, strict=True):
            assert torch.equal(mine.pixels, yours.pixels)
            assert not yours.colourless


def test_pixels_without_colours_are_crop_and_flip_alone(kindred: Store) -> None:
    """Those of the same policy with no colours: crops do not depend on them."""
    bare = Policy(name="bare", scale=(0.08, 1), jitter_probability=0, gray=0)
    (left, *_) = epoch(kindred, [Online("simclr", size=SIDE)], "caller")
    (crops, *_) = epoch(kindred, [Online(bare, size=SIDE)], "cpu")
    assert torch.equal(left.views[0].pixels, crops.views[0].pixels)


def test_a_view_may_have_the_colours_of_another_one(kindred: Store) -> None:
    """As one draw of colours for all candidates: rendered by hand from the recorded params."""
    views = [Online("dino", n=2, size=SIDE), Cached("simclr")]
    for batch in epoch(kindred, views, "caller"):
        first = batch.views[0].params
        for view in batch.views:
            expected = as_array(view.pixels).copy()
            for place, pixels in enumerate(expected):
                colours = {name: first[name][place].numpy() for name in COLOUR_COLUMNS}
                Policy(name="by hand").recolour(pixels, colours)
            assert np.array_equal(as_array(view.coloured(first)), expected)
        assert not torch.equal(batch.views[1].coloured(first), batch.views[1].coloured())


def test_views_that_have_colours_refuse_others(kindred: Store) -> None:
    (batch, *_) = epoch(kindred, VIEWS, "caller")
    params = batch.views[0].params
    with pytest.raises(ConfigError, match="views of cached:stored are as they were made"):
        batch.views[5].coloured(params)
    with pytest.raises(ConfigError, match="jitter_order, gray, blur, solarize; jitter, jitter_"):
        batch.views[0].coloured(batch.views[7].params)


def test_recipes_without_their_columns_of_colours_are_delivered_with_colours(
    kindred: Store,
) -> None:
    views = [Cached("simclr", params=("crop_box",)), Cached("heavy", follow=0)]
    for one, other in zip(
        epoch(kindred, views, "cpu"), epoch(kindred, views, "caller"), strict=True
    ):
        assert not any(view.colourless for view in other.views)
        assert torch.equal(one.views[0].pixels, other.views[0].pixels)


@pytest.mark.parametrize("photometric", ["device", "caller"])
def test_what_heavy_recipes_are_rendered_on_keeps_its_colours(
    kindred: Store,
    photometric: Any,  # noqa: ANN401
) -> None:
    views = [Cached("simclr", n=2), Cached("heavy", follow=0)]
    for one, other in zip(
        epoch(kindred, views, "cpu"), epoch(kindred, views, photometric), strict=True
    ):
        assert [view.colourless for view in other.views] == [False, photometric == "caller", False]
        for mine, yours in zip(one.views, other.views, strict=True):
            assert torch.equal(mine.pixels, yours.coloured())


@pytest.mark.parametrize("photometric", ["device", "caller"])
def test_views_that_were_never_made_stay_black(tmp_path: Path, photometric: Any) -> None:  # noqa: ANN401
    folder = write_photographs(tmp_path / "images", 6, cut=2)
    build_small(
        tmp_path / "s", str(folder), codec="params", on_error="skip", view_set="part", shard_rows=3
    )
    store = open_store(tmp_path / "s")
    views = store.view_sets["part"]
    for column in views.params.columns.values():
        if column.name in COLOUR_COLUMNS:
            values = np.array(views.params[column.name])
            values[4, 1] = column.fill
            views.params._whole[column.name] = values
    status = np.array(views.params["status"])
    status[4, 1] = 3
    views.params._whole["status"] = status
    settings = {"batch_size": 5, "shuffle": "none", "missing": "fallback"}
    (here,) = epoch(store, [Cached("part", n=2)], "cpu", **settings)
    (left,) = epoch(store, [Cached("part", n=2)], photometric, **settings)
    assert 3 in here.views[0].status.tolist() + here.views[1].status.tolist()
    for mine, yours in zip(here.views, left.views, strict=True):
        assert torch.equal(mine.pixels, yours.coloured())
        assert not yours.coloured()[yours.status == 3].any()


def test_a_slot_of_several_stores_is_colourless_if_it_is_so_in_all(kindred: Store) -> None:
    """A set of one name is a recipe here and has its pixels there: nothing is coloured twice."""
    pixels = open_store(kindred.root)
    pixels.view_sets["simclr"] = pixels.view_sets["stored"]
    views = [Cached("simclr"), Online("moco", size=SIDE)]
    for photometric in ("device", "caller"):
        for one, other in zip(
            epoch([kindred, pixels], views, "cpu"),
            epoch([kindred, pixels], views, photometric),
            strict=True,
        ):
            assert [view.colourless for view in other.views] == [False, photometric == "caller"]
            for mine, yours in zip(one.views, other.views, strict=True):
                assert torch.equal(mine.pixels, yours.coloured())
