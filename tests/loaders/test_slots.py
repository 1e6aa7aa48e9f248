"""`loader.slots`: what users and the trainer read of each view instead of guessing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import viewstore
from tests.loaders.stores import digits_store
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.loaders import Cached, Mix, Online, Slot, ViewLoader
from viewstore.loaders.plan.slots import merged_slots
from viewstore.store.store import Store

VIEWS = [
    Cached("hard", n=2, params=("flip",)),
    Online("dino-local", size=8),
    Mix({"hard": 3, "digits": 1}),
    Cached("hard", then="crop", size=6),
    Cached("digits", then="dino-local", size=6),
]


def make(store: Any, views: Any, **changes: Any) -> ViewLoader:  # noqa: ANN401
    return ViewLoader(store, views, batch_size=4, num_threads=0, **changes)


@pytest.mark.parametrize("stores", [1, 2])
def test_slots_are_what_batches_hold(digits: Store, stores: int) -> None:
    with make(digits if stores == 1 else [digits] * stores, VIEWS) as loader:
        slots, views = loader.slots, next(iter(loader)).views
    assert [slot.number for slot in slots] == list(range(6))
    for slot, view in zip(slots, views, strict=True):
        assert (4, slot.channels, slot.height, slot.width) == view.pixels.shape
        assert sorted(slot.columns) == sorted(view.params)
        assert slot.role == view.role
        source = f"{'online' if slot.kind == 'online' else 'cached'}:{slot.name}"
        assert source + (f"+{slot.then}" if slot.then else "") == view.source
    assert loader.roles == tuple(slot.role for slot in slots)


def test_a_slot_says_what_it_shows_and_with_which_policy(digits: Store) -> None:
    with make(digits, VIEWS) as loader:
        slots = loader.slots
    assert [slot.kind for slot in slots] == ["cached"] * 2 + ["online", "mix"] + ["cached"] * 2
    assert [slot.then for slot in slots] == [None] * 4 + ["crop", "dino-local"]
    assert [slot.roles for slot in slots[2:]] == [("local",), ("expert",), ("expert",), ("local",)]
    assert slots[1] == Slot(
        number=1,
        kind="cached",
        name="hard",
        policy="simclr",
        then=None,
        roles=("expert",),
        height=12,
        width=12,
        channels=3,
        columns=("flip",),
    )


def test_what_differs_between_stores_is_joined(digits: Store) -> None:
    """The same word may be a view set in one store and an online policy in another."""
    with make(digits, [Cached("hard"), Online("digits", size=12)]) as loader:
        one, other = loader.slots
    other = replace(other, number=0, roles=("generated",))
    (slot,) = merged_slots([(one,), (other,)])
    assert (slot.kind, slot.name, slot.policy) == ("mix", "digits|hard", "digits|simclr")
    assert (slot.roles, slot.role) == (("expert", "generated"), "mixed")
    assert slot.columns == tuple(sorted({*one.columns, *other.columns}))


def test_local_views_never_set_the_size_of_others(tmp_path: Path) -> None:
    """An online view beside a cached local set is as large as it is beside a global one."""
    out = digits_store(tmp_path / "store", limit=16).root
    settings = {"policy": "dino-local", "height": 12, "width": 12, "views": 2}
    build(BuildRequest(generator="dino", out=out, view_set="near", settings=settings, workers=1))
    store = viewstore.open(out)
    assert set(store.view_sets["near"].roles) == {"local"}
    side = int(store.table.height[0])
    for views, sizes in (
        ([Cached("near"), Online("dino")], [12, side]),
        (
            [Cached("near"), Online("dino"), Online("dino-local")],
            [12, side, round(side * 96 / 224)],
        ),
        ([Cached("near"), Cached("hard"), Online("dino")], [12, 12, 12]),
        ([Mix({"near": 1}), Online("dino")], [12, side]),
    ):
        with make(store, views) as loader:
            assert [slot.height for slot in loader.slots] == sizes
