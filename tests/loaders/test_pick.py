"""Views that a columns set chose: one group of candidates an epoch, in all slots of a pick."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import viewstore
from tests.loaders.families import family_store, put, say_parents
from tests.loaders.told import NONE, say_choices, tell
from viewstore.errors import ConfigError, FormatError
from viewstore.loaders import Cached, Online, ViewLoader
from viewstore.loaders.plan.asked import parse_views
from viewstore.loaders.plan.schedule import Missing
from viewstore.store.store import Store

VIEWS, ROWS = 12, 70
PAIR = [Cached("cands", n=2, pick="hard")]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 digits: 12 views of each, and two rounds of choices of 2 of each of 3 groups."""
    out = tmp_path_factory.mktemp("picks") / "store"
    family_store(out, {"cands": VIEWS, "twelve": VIEWS})
    for salt, name in enumerate(("hard", "hard-r2")):
        tell(out, name, "cands", groups=3, choose=2, salt=salt)
    return out


@pytest.fixture
def store(root: Path) -> Store:
    """Every row has a choice in every group."""
    store = viewstore.open(root)
    for seed, name in enumerate(("hard", "hard-r2")):
        say_choices(store, name, "selected", distinct(3, 2, seed=seed))
    return store


def distinct(groups: int, choose: int, *, seed: int) -> NDArray[np.int64]:
    """Return choices [N, G, m] of distinct views, those of each group from anywhere."""
    rng = np.random.Generator(np.random.Philox(seed))
    every = np.tile(np.arange(VIEWS), (ROWS, groups, 1))
    return rng.permuted(every, axis=2)[:, :, :choose]


def make(store: Any, views: Any, **changes: Any) -> ViewLoader:  # noqa: ANN401
    settings = {"batch_size": 16, "num_threads": 0, "tail": "keep", "seed": 4}
    return ViewLoader(store, views, **settings | changes)


def shown(loader: ViewLoader, epochs: int = 1) -> NDArray[np.int64]:
    """Return the view numbers of each slot by row, [epochs, N, n]."""
    found = np.full((epochs, ROWS, len(loader.slots)), -1)
    for epoch in range(epochs):
        for batch in loader:
            numbers = np.stack([view.view.numpy() for view in batch.views], axis=1)
            found[epoch, batch.index.numpy()] = numbers
    return found


@settings(max_examples=40, deadline=None)
@given(
    groups=st.integers(1, 6),
    choose=st.integers(1, 6),
    draw=st.data(),
    seed=st.integers(0, 2**53 - 1),
    start=st.integers(0, 50),
)
def test_each_group_is_shown_once_in_as_many_epochs(
    root: Path, groups: int, choose: int, draw: st.DataObject, seed: int, start: int
) -> None:
    """All slots from one group, always, in two mentions; whatever the table of choices."""
    store = viewstore.open(root)
    table = distinct(groups, choose, seed=seed % 1000)
    say_choices(store, "hard", "easiest", table)
    first = draw.draw(st.integers(1, choose))
    second = draw.draw(st.integers(0, choose - first))
    pick = "hard-r1.easiest"
    views: list[Any] = [Cached("cands", n=first, pick=pick), Online("flip")]
    views += [Cached("cands", n=second, pick=pick, params=("flip",))] if second else []
    with make(store, views, seed=seed, shuffle="none") as loader:
        loader.set_epoch(start * groups)
        found = shown(loader, groups)
    found = np.delete(found, first, axis=2)  # the online slot
    for row in range(ROWS):
        once = found[:, row].tolist()
        assert sorted(once) == sorted(table[row, :, : first + second].tolist())


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_ranks_and_threads_change_nothing(store: Store, world: int) -> None:
    views = [*PAIR, Cached("cands", n=2, pick={"hard": 1, "hard-r1": 2})]
    whole = shown(make(store, views), 2)
    found = np.full_like(whole, -1)
    for rank in range(world):
        settings = {"rank": rank, "world_size": world, "num_threads": world * 2, "uneven": True}
        with make(store, views, **settings) as loader:
            found = np.maximum(found, shown(loader, 2))
    assert (found == whole).all()


def test_a_run_goes_on_in_the_group_where_it_stood(store: Store) -> None:
    def numbers(loader: ViewLoader) -> list[list[int]]:
        return [view.view.tolist() for batch in loader for view in batch.views]

    with make(store, PAIR) as loader:
        next(iter(loader))
        loader.set_epoch(1)
        whole = numbers(loader)
        state = loader.batch(1, 1).state
    with make(store, PAIR, num_threads=2) as resumed:
        resumed.load_state_dict(state)
        assert numbers(resumed) == whole[4:]


def test_a_state_covers_what_picks(store: Store) -> None:
    def views_of(*views: Any) -> str:  # noqa: ANN401
        with make(store, list(views)) as loader:
            return str(loader.state_dict()["views"])

    every = [
        views_of(Cached("cands", n=2)),
        views_of(Cached("cands", n=2, pick="hard")),
        views_of(Cached("cands", n=2, pick="hard-r1")),
        views_of(Cached("cands", n=2, pick="hard.easiest")),
        views_of(Cached("cands", n=2, pick={"hard": 1, "hard-r1": 1})),
        views_of(Cached("cands", n=2, pick={"hard": 1, "hard-r1": 2})),
    ]
    assert len(set(every)) == len(every)
    assert every[1] == views_of(Cached("cands", n=2, pick="hard-r2.selected"))


def test_rounds_are_mixed_at_their_rates(store: Store) -> None:
    """4 sigma of the binomial; a sample has one round in all slots, and another one next time."""
    views = [Cached("cands", n=2, pick={"hard-r1": 1, "hard-r2": 3})]
    tables = [store.view_sets[name].params["selected"] for name in ("hard", "hard-r2")]
    epochs = 60
    with make(store, views) as loader:
        found = shown(loader, epochs)
    by_round = np.zeros((epochs, ROWS, 2), np.bool_)
    for number, table in enumerate(tables):
        pairs = np.asarray(table)[None].astype(np.int64)
        by_round[:, :, number] = (found[:, :, None, :] == pairs).all(-1).any(-1)
    assert by_round.any(-1).all()
    told_apart = by_round.sum(-1) == 1
    share = by_round[..., 1][told_apart].mean()
    sigma = np.sqrt(0.25 * 0.75 / told_apart.sum())
    assert abs(share - 0.75) < 4 * sigma
    assert (by_round[1:] != by_round[:-1]).any()


def test_naive_groups_by_epoch_alone_would_show_all_samples_the_same_group(store: Store) -> None:
    """Each sample has an order of its own: in an epoch all groups are shown."""
    with make(store, PAIR) as loader:
        found = shown(loader)[0]
    table = np.asarray(store.view_sets["hard-r2"].params["selected"]).astype(np.int64)
    groups = (found[:, None] == table).all(-1).argmax(-1)
    assert (np.bincount(groups, minlength=3) > ROWS / 6).all()


@pytest.mark.parametrize("missing", ["raise", "fallback", "resample"])
def test_without_a_choice_the_schedule_is_shown(store: Store, missing: Missing) -> None:
    table = distinct(3, 2, seed=1)
    table[33, :] = NONE
    table[34, :, 1] = NONE
    say_choices(store, "hard-r2", "selected", table)
    with make(store, [Cached("cands", n=2)], shuffle="none") as loader:
        scheduled = shown(loader)[0]
    with make(store, PAIR, shuffle="none", missing=missing) as loader:
        if missing == "raise":
            batches = iter(loader)
            assert [next(batches).index[0].item() for _ in range(2)] == [0, 16]
            with pytest.raises(FormatError, match=r"^hard-r2.selected chose no views of row 33 in"):
                next(batches)
            return
        found = shown(loader)[0]
    for row in (33, 34):
        assert found[row].tolist() == scheduled[row].tolist()
    assert found[32].tolist() in table[32].tolist()


@pytest.mark.parametrize("missing", ["raise", "fallback", "resample"])
def test_a_choice_that_was_not_made_gives_way_with_its_group(
    store: Store, missing: Missing
) -> None:
    """Both slots show what is scheduled: never one chosen view beside one that was not."""
    table = np.asarray(store.view_sets["hard-r2"].params["selected"])
    status = np.ones((ROWS, VIEWS), np.uint8)
    status[20, table[20, :, 1]] = 3
    put(store, "cands", "status", status, np.uint8)
    with make(store, PAIR, shuffle="none", missing=missing) as loader:
        if missing == "raise":
            with pytest.raises(FormatError, match="chose a view of row 20 in group"):
                shown(loader)
            return
        found = shown(loader)[0]
    with make(store, [Cached("cands", n=2)], shuffle="none", missing=missing) as loader:
        assert found[20].tolist() == shown(loader)[0, 20].tolist()
    assert found[20].tolist() not in table[20].tolist()
    assert found[19].tolist() in table[19].tolist()


HOSTILE: list[tuple[Any, str]] = [
    ([[12, 3]], "choice 12 of row 17 of hard-r2, there are 12 views"),
    ([[3, 254]], "choice 254 of row 17 of hard-r2, there are 12 views"),
    ([[200, NONE]], "choice 200 of row 17 of hard-r2, there are 12 views"),
    ([[5, 5]], "choices [5, 5] of row 17 of hard-r2 are not distinct"),
]


@pytest.mark.parametrize("missing", ["raise", "fallback", "resample"])
@pytest.mark.parametrize(("choice", "message"), HOSTILE)
def test_a_choice_that_is_no_view_is_refused(
    store: Store,
    choice: Any,  # noqa: ANN401
    message: str,
    missing: Missing,
) -> None:
    table = distinct(1, 2, seed=1)
    table[17] = choice
    say_choices(store, "hard-r2", "selected", table)
    with make(store, PAIR, shuffle="none", missing=missing) as loader:
        batches = iter(loader)
        next(batches)
        with pytest.raises(FormatError) as caught:
            next(batches)
    assert (str(caught.value), caught.value.code) == (message, "VS203")
    assert str(caught.value.fix).startswith("viewstore verify ")


def test_what_follows_a_picked_slot_shows_its_children(store: Store) -> None:
    say_parents(store, "twelve", "cands", np.arange(VIEWS))
    views = [*PAIR, Cached("twelve", follow=0), Cached("twelve", follow=1)]
    with make(store, views) as loader:
        for batch in loader:
            left, right, *below = batch.views
            assert below[0].view.equal(left.view)
            assert below[1].view.equal(right.view)
    with pytest.raises(ConfigError, match="would stand beside any of them"):
        make(store, [*PAIR, Cached("twelve", n=2)])


def test_the_short_form_names_a_pick(store: Store) -> None:
    assert parse_views("cands@hard.easiest, cands@hard+flip", store.names) == [
        Cached("cands", pick="hard.easiest"),
        Cached("cands", pick="hard", then="flip"),
    ]
    assert parse_views("cached:cands@hard", []) == [Cached("cands", pick="hard")]
    with make(store, "cands@hard,cands@hard") as words, make(store, PAIR) as loader:
        assert (shown(words, 3) == shown(loader, 3)).all()


REFUSED: list[tuple[Any, str, str]] = [
    (
        [Cached("cands", n=2, pick="hard"), Cached("cands", pick="hard.selected")],
        "pick hard-r2.selected chooses 2 views, got 3 slots",
        "VS101",
    ),
    (
        [Cached("cands", pick="hard.loss")],
        "hard-r2 has no choice 'loss'; there are easiest, selected",
        "VS102",
    ),
    (
        [Cached("cands", pick="hard.score")],
        "hard-r2 has no choice 'score'; there are easiest, selected",
        "VS102",
    ),
    (
        [Cached("cands", pick="hart")],
        "there is no view set 'hart' in this store; did you mean 'hard'?",
        "VS102",
    ),
    ([Cached("twelve", pick="hard")], "hard-r2 describes cands, not twelve", "VS103"),
    (
        [Cached("cands", pick="twelve")],
        "twelve has views of its own, only columns sets are picked by",
        "VS101",
    ),
]


@pytest.mark.parametrize(("views", "message", "code"), REFUSED)
def test_what_cannot_pick_is_refused(store: Store, views: Any, message: str, code: str) -> None:  # noqa: ANN401
    with pytest.raises(ConfigError) as caught:
        make(store, views)
    assert (str(caught.value), caught.value.code) == (message, code)


def test_choices_of_several_forms_are_not_mixed(store: Store) -> None:
    say_choices(store, "hard", "selected", distinct(2, 2, seed=1))
    with pytest.raises(ConfigError) as caught:
        make(store, [Cached("cands", pick={"hard-r1": 1, "hard-r2": 1})])
    assert str(caught.value) == (
        "choices that are mixed must have one form, got hard.selected [2, 2], "
        "hard-r2.selected [3, 2]"
    )


@pytest.mark.parametrize("pick", [{}, {"hard": 0}, {"hard": float("nan")}, {"Hard": 1}, 3, None])
def test_picks_that_make_no_sense_are_refused(pick: Any) -> None:  # noqa: ANN401
    with pytest.raises(ConfigError, match="Cached pick"):
        Cached("cands", pick=pick)
