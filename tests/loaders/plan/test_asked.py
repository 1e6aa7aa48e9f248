"""What a loader can be asked to show, and how its names are understood."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import viewstore
from tests.loaders.stores import digits_store
from tests.viewstore.small_stores import round_before
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


def test_a_link_is_the_number_of_the_slot_that_a_view_is_made_from() -> None:
    """Of a view set it says what is followed, of a policy what it is rendered on."""
    text = "cached:simclr,cached:simclr,heavy/0,heavy+flip/1,ra16/1,simclr+ua/4"
    assert parse_views(text, ["simclr", "heavy"]) == [
        Cached("simclr"),
        Cached("simclr"),
        Cached("heavy", follow=0),
        Cached("heavy", follow=1, then="flip"),
        Online("ra16", on=1),
        Cached("simclr", follow=4, then="ua"),
    ]
    assert parse_views("simclr,simclr+ua/0", []) == [Online("simclr"), Online("simclr+ua", on=0)]
    both = "simclr,simclr,cached:ra16/0,online:ra16/1"
    assert parse_views(both, ["ra16"])[2:] == [Cached("ra16", follow=0), Online("ra16", on=1)]
    with pytest.raises(ConfigError, match="write cached:ra16/0 or online:ra16/0"):
        parse_views("simclr,ra16/0", ["ra16"])
    many = ",".join(["simclr"] * 12 + ["ra16/11"])
    assert parse_views(many, [])[-1] == Online("ra16", on=11)


@pytest.mark.parametrize(
    ("text", "word", "why"),
    [
        ("simclr,ra16/1", "ra16/1", "is slot 1, before it there is slot 0"),  # its own
        ("simclr,simclr,ra16/3,simclr", "ra16/3", "is slot 2, before it there are slots 0 to 1"),
        ("simclr,simclr,heavy/9", "heavy/9", "is slot 2, before it there are slots 0 to 1"),
        ("ra16/0", "ra16/0", "is slot 0, before it there is none"),
        ("simclr,ra16/", "ra16/", "is slot 1, before it there is slot 0"),
        ("simclr,ra16/-1", "ra16/-1", "is slot 1, before it there is slot 0"),
        ("simclr,ra16/0/0", "ra16/0/0", "is slot 1, before it there is slot 0"),
        ("simclr,heavy/0+flip", "heavy/0+flip", "is slot 1, before it there is slot 0"),
        ("simclr,ra16/\u0660", "ra16/\u0660", "is slot 1, before it there is slot 0"),
    ],
)
def test_a_link_to_no_earlier_slot_is_refused_in_the_words_that_were_given(
    text: str, word: str, why: str
) -> None:
    name = word.partition("/")[0]
    message = f"{word!r} must end in the number of an earlier slot, such as {name}/0"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}") as caught:
        parse_views(text, ["heavy"])
    assert why in str(caught.value.why)


def test_a_view_that_follows_takes_no_pick_in_words_either() -> None:
    with pytest.raises(ConfigError, match="Cached with follow=0 takes no pick, got 'hard'"):
        parse_views("simclr,heavy@hard/0", ["heavy"])


def test_links_count_the_slots_of_all_views_before_them(digits: Store) -> None:
    """Words in a list stand behind others, which may have several slots each."""
    views: list[Any] = [Cached("hard", n=3), "online:simclr,flip/2", "crop/3"]
    with ViewLoader(digits, views, batch_size=8) as loader:
        assert [slot.parent_slot for slot in loader.slots] == [-1, -1, -1, -1, 2, 3]
    with pytest.raises(ConfigError, match="'flip/5' must end in the number of an earlier slot"):
        ViewLoader(digits, [Cached("hard", n=3), "online:simclr,flip/5"], batch_size=8)


def test_directional_pairs_in_words_are_those_of_the_long_form(kindred: Store) -> None:
    """DSSL's views from the cache, and made while they are loaded."""
    pairs = {
        "simclr,simclr,heavy/0,heavy/1": [
            Cached("simclr", n=2),
            Cached("heavy", follow=0),
            Cached("heavy", follow=1),
        ],
        "online:moco,online:moco,ra16/0,ra16/1": [
            Online("moco", n=2),
            Online("ra16", on=0),
            Online("ra16", on=1),
        ],
    }
    for words, views in pairs.items():
        with (
            ViewLoader(kindred, words.replace("simclr", "cached:simclr"), batch_size=8) as short,
            ViewLoader(kindred, views, batch_size=8) as long,
        ):
            assert short.state_dict() == long.state_dict()
            for one, other in zip(short, long, strict=True):
                for mine, yours in zip(one.views, other.views, strict=True):
                    assert mine.pixels.equal(yours.pixels)
                for slot in (2, 3):
                    assert one.views[slot].parent_slot == slot - 2
                    assert one.views[slot].parent.equal(one.views[slot - 2].view)


def test_no_shell_takes_a_link_for_something_else(tmp_path: Path) -> None:
    words = "simclr,simclr,heavy+flip/0,ra16/1,cached:w@hard.easiest"
    shown = subprocess.run(
        ["/bin/sh", "-c", f"printf %s {words}"], capture_output=True, text=True, cwd=tmp_path
    )
    assert shown.stdout == words


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
    first = BuildRequest(generator="simclr", out=out, view_set="hard", settings=small, workers=1)
    build(first)
    build(replace(first, view_set="hard-r2", after=round_before(out, "hard-r2")))
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
