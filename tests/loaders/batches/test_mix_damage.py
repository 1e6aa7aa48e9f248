"""Mixed slots where views of one set were not made, or are damaged: the other set goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.loaders.stores import NUM_DIGITS, SHARD_ROWS, as_array, batches_before_error, damage
from viewstore.errors import FormatError
from viewstore.loaders import Batch, Mix, ViewLoader
from viewstore.store.store import Store

NAMES = ["hard", "some"]


def make(store: Store, mix: Mix, **changes: Any) -> ViewLoader:  # noqa: ANN401
    return ViewLoader(
        store, [mix], **{"batch_size": 10, "num_threads": 0, "tail": "keep"} | changes
    )


def shown(batches: Sequence[Batch]) -> dict[tuple[int, int], tuple[int, int]]:
    """Return the set and view of each row in each slot."""
    return {
        (row, slot): (int(view.params["x_set"][place]), int(view.view[place]))
        for batch in batches
        for slot, view in enumerate(batch.views)
        for place, row in enumerate(batch.index.tolist())
    }


def spoil(store: Store, name: str, spoilt: Sequence[tuple[int, int]]) -> None:
    """Have the records say that the making of these views, (row, view), failed."""
    views = store.view_sets[name]
    status = views.params["status"].copy()
    for place in spoilt:
        status[place] = 3
    views.params._whole["status"] = status
    views.stats["status"] = replace(views.stats["status"], max=3.0)


def test_only_a_set_that_is_shown_must_have_been_made(partial: Store) -> None:
    """Of `some` only shards 0 and 2 were built: rows of the others raise where it is drawn."""
    built = [*range(SHARD_ROWS), *range(2 * SHARD_ROWS, 3 * SHARD_ROWS)]
    mix = Mix({"hard": 1, "some": 1})
    assert len(list(make(partial, mix, rows=built))) == 4
    for missing in ("raise", "resample"):
        _, error = batches_before_error(make(partial, mix, missing=missing))
        assert "of some was" in str(error)
        assert int(str(error).split("row ")[1].split()[0]) not in built
    never = make(partial, Mix({"hard": 1, "some": 1e-9}))
    assert {number for number, _ in shown(list(never)).values()} == {0}


def test_fallback_is_black_where_the_set_was_never_built_and_there_alone(partial: Store) -> None:
    seen = {True: 0, False: 0}
    for batch in make(partial, Mix({"hard": 1, "some": 1}), missing="fallback"):
        (view,) = batch.views
        for place, row in enumerate(batch.index.tolist()):
            name = NAMES[int(view.params["x_set"][place])]
            absent = name == "some" and row // SHARD_ROWS not in (0, 2)
            assert int(view.status[place]) == (0 if absent else 1)
            assert bool(view.pixels[place].any()) != absent
            if not absent:
                stored = partial.view_sets[name][row][int(view.view[place])]
                assert np.array_equal(as_array(view.pixels)[place], stored)
            seen[absent] += 1
    assert min(seen.values()) > 10


@pytest.mark.parametrize("n", [1, 2])
def test_resample_replaces_failed_views_by_others_of_their_set_alone(copy: Store, n: int) -> None:
    """Slots that show no failed view show what they would have shown."""
    mix = Mix({"hard": 1, "digits": 1}, n=n)
    spoilt = [(row, row % 4) for row in range(NUM_DIGITS)]
    whole = shown(list(make(copy, mix)))
    spoil(copy, "hard", spoilt)
    found = shown(list(make(copy, mix, missing="resample")))
    names = sorted(mix.weights)
    bad = {
        key
        for key, (number, view) in whole.items()
        if (names[number], (key[0], view)) in {("hard", place) for place in spoilt}
    }
    assert len(bad) > 3
    for key, (number, view) in found.items():
        assert number == whole[key][0]
        assert (view == whole[key][1]) == (key not in bad)
        assert names[number] != "hard" or (key[0], view) not in spoilt
    _, error = batches_before_error(make(copy, mix))
    assert "of hard was not made: its status is 3" in str(error)


def test_resampled_slots_of_a_sample_stay_apart(copy: Store) -> None:
    spoil(copy, "hard", [(row, view) for row in range(NUM_DIGITS) for view in (1, 3)])
    loader = make(copy, Mix({"hard": 1, "digits": 1}, n=2), missing="resample")
    found = shown(list(loader))
    same = [row for row in range(NUM_DIGITS) if found[row, 0][0] == found[row, 1][0] == 1]
    assert len(same) > 5
    assert all({found[row, 0][1], found[row, 1][1]} == {0, 2} for row in same)


@pytest.mark.parametrize("threads", [0, 2])
def test_damage_in_one_set_meets_only_the_samples_that_show_it(copy: Store, threads: int) -> None:
    mix = Mix({"hard": 1, "digits": 1}, n=2)
    rows = [3, 20, 35, 50, 65]
    whole = list(make(copy, mix))
    expected = shown(whole)
    for row in rows:
        damage(copy, "hard", row)
    met = {row for row in rows if 1 in (expected[row, 0][0], expected[row, 1][0])}
    assert met
    assert met != set(rows)
    with make(copy, mix, on_corrupt="quarantine", num_threads=threads) as loader:
        for batch, before in zip(loader, whole, strict=True):
            for place, row in enumerate(batch.index.tolist()):
                assert bool(batch.valid[place]) == (row not in met)
                for view, other in zip(batch.views, before.views, strict=True):
                    black = not view.pixels[place].any()
                    assert black if row in met else view.pixels[place].equal(other.pixels[place])
        assert loader.stats()["corrupt_samples"] == len(met)
    first = min(step for step, batch in enumerate(whole) if met & set(batch.index.tolist()))
    with make(copy, mix, num_threads=threads) as loader:
        delivered, error = batches_before_error(loader)
    assert delivered == first
    assert isinstance(error, FormatError)
    assert "of hard, shard" in str(error)
