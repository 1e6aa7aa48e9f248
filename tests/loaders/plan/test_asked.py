"""What a loader can be asked to show, and how its names are understood."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import viewstore
from tests.loaders.stores import digits_store
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.errors import ConfigError
from viewstore.loaders import Cached, Online, ViewLoader
from viewstore.loaders.plan.asked import parse_views
from viewstore.loaders.plan.resolve import resolve
from viewstore.store.store import Store


def test_a_short_form_is_a_view_set_where_there_is_one_else_a_policy() -> None:
    parsed = parse_views("simclr, simclr,w-search", ["w-search"])
    assert parsed == [Online("simclr"), Online("simclr"), Cached("w-search")]


def test_a_name_that_is_both_must_be_chosen() -> None:
    with pytest.raises(ConfigError, match="write cached:digits or online:digits"):
        parse_views("digits", ["digits"])
    chosen = parse_views("cached:digits,online:digits", ["digits"])
    assert chosen == [Cached("digits"), Online("digits")]


def test_an_unknown_name_names_the_nearest_and_what_there_is() -> None:
    with pytest.raises(ConfigError, match="policy 'w-serch'; did you mean 'w-search'") as caught:
        parse_views("simclr,w-serch", ["w-search"])
    assert caught.value.code == "VS102"
    assert "w-search" in str(caught.value.why)
    with pytest.raises(ConfigError, match="did you mean 'simclr'"):
        parse_views("online:simclar", [])


def test_the_short_form_and_the_long_one_give_the_same_batches(digits: Store) -> None:
    short = ViewLoader(digits, "simclr,cached:digits", batch_size=8)
    long = ViewLoader(digits, [Online("simclr"), Cached("digits")], batch_size=8)
    assert short.state_dict() == long.state_dict()
    assert short.roles == ("expert", "expert")
    short.close()
    long.close()


def test_slots_keep_the_order_they_were_asked_in(digits: Store) -> None:
    asked = [Cached("hard"), Online("simclr"), Cached("hard"), Cached("digits", n=2)]
    cached, online = resolve(asked, digits)
    assert [(slots.group.name, slots.slots) for slots in cached] == [
        ("hard", (0, 2)),
        ("digits", (3, 4)),
    ]
    assert [slot.slot for slot in online] == [1]
    with ViewLoader(digits, asked, batch_size=70) as loader:
        batch = next(iter(loader))
    sources = ["cached:hard", "online:simclr", "cached:hard", "cached:digits", "cached:digits"]
    assert [view.source for view in batch.views] == sources
    assert not (batch.views[0].view == batch.views[2].view).any()


def test_more_slots_than_cached_views_are_refused(digits: Store) -> None:
    with pytest.raises(ConfigError, match="view set hard has 4 views a sample, got 5 slots"):
        resolve([Cached("hard", n=3), Cached("hard", n=2)], digits)


def test_an_unknown_view_set_or_column_names_the_nearest(digits: Store) -> None:
    with pytest.raises(ConfigError, match="no view set 'digit' in this store; did you mean 'digit"):
        resolve([Cached("digit")], digits)
    with pytest.raises(ConfigError, match="no column 'crop'; did you mean 'crop_box'"):
        resolve([Cached("hard", params=("crop",))], digits)


def test_only_the_columns_that_are_asked_for_are_delivered(digits: Store) -> None:
    with ViewLoader(digits, [Cached("hard", params=("flip",))], batch_size=8) as loader:
        assert list(next(iter(loader)).views[0].params) == ["flip"]


def test_online_views_are_as_large_as_the_cached_ones_beside_them(
    digits: Store, photos: Store
) -> None:
    def sizes(views: Any, store: Store) -> list[tuple[int, int]]:  # noqa: ANN401
        return [slot.size for slot in resolve(views, store)[1]]

    assert sizes([Online("simclr"), Cached("hard")], digits) == [(12, 12)]
    assert sizes([Online("simclr"), Online("simclr", size=20)], photos) == [(224, 224), (20, 20)]
    assert sizes([Online("dino"), Online("dino-local")], photos) == [(224, 224), (96, 96)]
    assert sizes([Online("dino-local"), Cached("jpg")], photos) == [(21, 17)]
    source = int(digits.table.height[0])
    assert sizes([Online("simclr")], digits) == [(source, source)]


def test_the_newest_complete_round_of_a_view_set_is_read(tmp_path: Path, digits: Store) -> None:
    out = tmp_path / "rounds"
    shutil.copytree(digits.root, out)
    small = {"height": 12, "width": 12}
    build(BuildRequest(generator="simclr", out=out, view_set="hard-r2", settings=small, workers=1))
    store = viewstore.open(out)
    cached, _ = resolve([Cached("hard"), Cached("digits")], store)
    assert [slots.group.name for slots in cached] == ["hard-r2", "digits"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cached("x", n=0), "Cached n must be at least 1, got 0"),
        (
            lambda: Cached("x", pick="Best one"),
            "Cached pick must be schedule, random, or a choice of a columns set, got 'Best one'",
        ),
        (lambda: Online("simclr", n=0), "Online n must be at least 1, got 0"),
        (lambda: Online("simclr", size=0), "Online size must be at least 1, got 0"),
        (lambda: Online("simclr", filter="cubic"), "filter must be one of"),  # type: ignore[arg-type]
        (lambda: Online("simclar"), "did you mean 'simclr'"),
    ],
)
def test_views_that_make_no_sense_are_refused(make: Any, message: str) -> None:  # noqa: ANN401
    with pytest.raises(ConfigError, match=message):
        make()


def test_random_picks_repeat_no_schedule(tmp_path: Path) -> None:
    store = digits_store(tmp_path / "store")
    with ViewLoader(store, [Cached("hard", pick="random")], batch_size=70) as loader:
        shown = [next(iter(loader)) for _ in range(4)]
    used = np.zeros((70, 4), int)
    for batch in shown:
        used[batch.index, batch.views[0].view] += 1
    assert used.max() > 1
