"""Slots that follow another one: each shows a view made from the view shown there, always."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import viewstore
from tests.loaders.families import family_store, parents_of, put, say_parents
from viewstore.errors import ConfigError, FormatError
from viewstore.loaders import Cached, Mix, Online, ViewIterableDataset, ViewLoader
from viewstore.loaders.batches.batch import Batch
from viewstore.loaders.settings import Missing
from viewstore.store.store import Store

COUNTS = range(1, 13)
NAMED = re.compile(r"view (\d+) of row (\d+), which slot (\d+) shows, has")
TABLE = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]
FAMILY = [Cached("v3", n=2), Cached("v12", n=2, follow=0), Online("flip"), Cached("v12", follow=1)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 digits: view sets v1 to v12 of as many views."""
    out = tmp_path_factory.mktemp("families") / "store"
    family_store(out, {f"v{count}": count for count in COUNTS})
    return out


@pytest.fixture
def store(root: Path) -> Store:
    """The 12 views of v12 are four children of each of the 3 of v3."""
    store = viewstore.open(root)
    say_parents(store, "v12", "v3", TABLE)
    return store


def make(store: Any, views: Any, **changes: Any) -> ViewLoader:  # noqa: ANN401
    return ViewLoader(
        store, views, **{"batch_size": 16, "num_threads": 0, "tail": "keep"} | changes
    )


def shown(batches: Iterator[Batch] | ViewLoader) -> list[Any]:
    """Return what makes up batches: rows, view numbers and pixels."""
    return [
        (batch.index.tolist(), [(v.view.tolist(), v.pixels.numpy().tobytes()) for v in batch.views])
        for batch in batches
    ]


@settings(max_examples=60, deadline=None)
@given(
    above=st.sampled_from(COUNTS),
    below=st.sampled_from(COUNTS),
    draw=st.data(),
    not_made=st.sampled_from([0.0, 0.3]),
    missing=st.sampled_from(["raise", "fallback", "resample"]),
    seed=st.integers(0, 2**53 - 1),
)
def test_only_children_of_the_view_that_is_shown_are_shown(
    root: Path,
    above: int,
    below: int,
    draw: st.DataObject,
    not_made: float,
    missing: Missing,
    seed: int,
) -> None:
    """Any table of parents, any views that were not made: all views right, or the row is named."""
    store = viewstore.open(root)
    rng = np.random.Generator(np.random.Philox(seed))
    own = above == below  # parents are views of the set itself then
    table = rng.integers(-1, above, (70, below))
    say_parents(store, f"v{below}", None if own else f"v{above}", table)
    made = (rng.random((70, below)) >= not_made) | own
    put(store, f"v{below}", "status", np.where(made, 1, 3), np.uint8)
    wide, n = draw.draw(st.integers(1, above)), draw.draw(st.integers(1, below))
    follow = draw.draw(st.integers(0, wide - 1))
    views = [Cached(f"v{above}", n=wide), Cached(f"v{below}", n=n, follow=follow)]
    with make(store, views, seed=seed, batch_size=1, missing=missing) as loader:
        for step in range(0, len(loader), 7):
            try:
                batch = loader.batch(0, step)
            except FormatError as error:
                message = str(error)
            else:
                message = ""
                row, view = int(batch.index[0]), int(batch.views[follow].view[0])
                found = [int(each.view[0]) for each in batch.views[wide:]]
                assert len(set(found)) == n
                assert set(found) <= set(np.flatnonzero(table[row] == view).tolist())
                usable = sum(made[row, found])
                assert usable == min(n, sum((table[row] == view) & made[row]))
                assert usable == n or missing == "fallback"
                for each in batch.views[wide:]:
                    assert (each.parent.tolist(), each.parent_slot) == ([view], follow)
            if message:
                view, row, slot = map(int, NAMED.findall(message)[0])
                children = (table[row] == view) & (made[row] | (missing == "fallback"))
                assert (slot, sum(children) < n) == (follow, True)


def test_children_are_shown_equally_often_whatever_is_shown_of_their_parents(store: Store) -> None:
    """4 sigma of the binomial for each child, given its parent; whatever picks the parent."""
    for views in ([Cached("v3", pick="random")], [Cached("v3", n=3)], [Cached("v3")]):
        counts = np.zeros((3, 12))
        with make(store, [*views, Cached("v12", follow=0)], batch_size=70) as loader:
            for _ in range(60):
                above, *_, below = next(iter(loader)).views
                np.add.at(counts, (above.view.numpy(), below.view.numpy()), 1)
        for parent in range(3):
            mine = counts[parent, parent::3]
            total = counts[parent].sum()
            assert mine.sum() == total > 1000
            spread = np.sqrt(total * 0.25 * 0.75)
            assert np.abs(mine - total / 4).max() < 4 * spread


def test_numbers_alone_would_show_children_of_other_views(store: Store) -> None:
    """Naive: a second schedule beside the first one."""
    numbers = parents_of(store, "v12")
    right = total = 0
    plain = viewstore.open(store.root)  # where nothing says so, nothing refuses it
    with make(plain, [Cached("v3", n=2), Cached("v12")]) as loader:
        for batch in loader:
            above, _, below = batch.views
            shown = numbers[batch.index.numpy(), below.view.numpy()]
            right += int((shown == above.view.numpy()).sum())
            total += len(batch)
    assert right < 0.7 * total


def test_chains_follow_through_all_sets(root: Path) -> None:
    store = viewstore.open(root)
    say_parents(store, "v6", "v2", [0, 1, 0, 1, 0, 1])
    say_parents(store, "v12", "v6", np.arange(12) % 6)
    views = [Cached("v2"), Cached("v6", n=2, follow=0), Cached("v12", follow=2, then="flip")]
    with make(store, views) as loader:
        assert [slot.parent_slot for slot in loader.slots] == [-1, 0, 0, 2]
        for batch in loader:
            first, left, right, last = batch.views
            for each in (left, right):
                assert each.parent.equal(first.view)
                assert each.parent.equal(each.view % 2)
            assert last.parent.equal(right.view)
            assert not left.view.equal(right.view)
            assert [view.parent_slot for view in batch.views] == [-1, 0, 0, 2]


def test_two_mentions_that_follow_one_slot_share_its_children(store: Store) -> None:
    with make(store, [Cached("v3"), Cached("v12", follow=0), Cached("v12", follow=0)]) as loader:
        for batch in loader:
            above, one, other = batch.views
            assert above.view.equal(one.parent)
            assert above.view.equal(other.parent)
            assert not (one.view == other.view).any()


def test_views_of_a_set_may_follow_views_of_the_same_set(root: Path) -> None:
    """Without a parent set, parents are views of the set itself."""
    store = viewstore.open(root)
    say_parents(store, "v4", None, [-1, 0, 0, 0])
    views = [Cached("v4"), Cached("v4", n=2, follow=0)]
    shows_first = make(store, [Cached("v4")], batch_size=1)
    for step in range(20):
        first = shows_first.batch(0, step).views[0].view.tolist()
        with make(store, views, batch_size=1) as loader:
            if first != [0]:
                with pytest.raises(FormatError, match="has 0 usable views of v4 for 2 slots"):
                    loader.batch(0, step)
                continue
            above, *below = loader.batch(0, step).views
            assert [view.parent.tolist() for view in below] == [above.view.tolist()] * 2


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("threads", [0, 1, 3, 8])
def test_ranks_and_threads_change_nothing(store: Store, world: int, threads: int) -> None:
    settings: dict[str, Any] = {"batch_size": 12, "tail": "drop", "seed": 9}
    whole = shown(make(store, FAMILY, **settings))
    settings |= {"num_threads": threads, "world_size": world}
    loaders = [make(store, FAMILY, rank=rank, **settings) for rank in range(world)]
    for rank, loader in enumerate(loaders):
        with loader:
            share = slice(rank * 12 // world, (rank + 1) * 12 // world)
            for mine, (rows, views) in zip(shown(loader), whole, strict=True):
                assert mine[0] == rows[share]
                assert [each[0] for each in mine[1]] == [each[0][share] for each in views]


def test_a_run_goes_on_where_it_stood(store: Store) -> None:
    with make(store, FAMILY, seed=3) as loader:
        whole = [shown(loader), shown(loader)]
        state = loader.batch(1, 1).state
    with make(store, FAMILY, num_threads=2) as resumed:
        resumed.load_state_dict(state)
        assert shown(resumed) == whole[1][2:]


def test_what_follows_what_is_part_of_the_state(store: Store) -> None:
    def state(*views: Any) -> dict[str, Any]:  # noqa: ANN401
        with make(store, list(views)) as loader:
            return loader.state_dict()

    one = state(Cached("v3", n=2), Cached("v12", follow=0))
    other = state(Cached("v3", n=2), Cached("v12", follow=1))
    assert {name for name in one if one[name] != other[name]} == {"views"}


@pytest.mark.parametrize("shuffle", ["none", "block:2"])
def test_rows_and_orders_change_nothing_of_a_sample(store: Store, shuffle: str) -> None:
    def by_row(**changes: Any) -> dict[int, Any]:  # noqa: ANN401
        with make(store, FAMILY, **changes) as loader:
            return {
                row: [view.view[place].item() for view in batch.views]
                for batch in loader
                for place, row in enumerate(batch.index.tolist())
            }

    whole = by_row()
    some = by_row(shuffle=shuffle, where="any(v12.parent = 1) and index < 40", batch_size=5)
    assert sorted(some) == list(range(40))
    assert all(whole[row] == views for row, views in some.items())


def test_several_stores_follow_each_in_its_own(store: Store) -> None:
    with make([store, store], FAMILY, rates=[1.0, 0.5]) as loader:
        rows = 0
        for batch in loader:
            above, _, *below, _, last = batch.views
            for each in below:
                assert each.parent.equal(above.view)
                assert each.parent.equal(each.view % 3)
            assert last.parent_slot == 1
            rows += len(batch)
    assert rows == 105


def test_worker_processes_follow_alike(store: Store) -> None:
    with make(store, FAMILY) as loader:
        whole = shown(loader)
    dataset = ViewIterableDataset(store, FAMILY, batch_size=16, tail="keep")
    loaded = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="fork")
    assert shown(iter(loaded)) == whole


def test_a_real_view_set_follows_its_parent(searched: Store) -> None:
    views = [Cached("recon"), Cached("w-search", n=2, follow=0)]
    with make(searched, views, batch_size=4) as loader:
        above, *below = next(iter(loader)).views
    assert all(view.parent.tolist() == above.view.tolist() == [0] * 4 for view in below)
    assert not (below[0].view == below[1].view).any()


def test_children_that_were_not_made_are_shown_where_that_is_asked_for(store: Store) -> None:
    """One child of each view was made: first it, then another, which its status tells."""
    put(store, "v12", "status", np.tile([1, 1, 1] + [3] * 9, (70, 1)), np.uint8)
    views = [Cached("v3"), Cached("v12", n=2, follow=0)]
    with make(store, views, missing="fallback") as loader:
        for batch in loader:
            above, one, other = batch.views
            assert one.view.equal(above.view)
            assert (one.status.unique().tolist(), other.status.unique().tolist()) == ([1], [3])
            assert other.parent.equal(above.view)
    for missing in ("raise", "resample"):
        with make(store, views, missing=missing, shuffle="none") as loader:
            view = next(iter(make(store, [Cached("v3")], shuffle="none"))).views[0].view[0]
            with pytest.raises(FormatError) as caught:
                next(iter(loader))
        assert str(caught.value) == (
            f"view {view} of row 0, which slot 0 shows, has 1 usable view of v12 for 2 slots"
        )
        assert "missing='fallback'" in str(caught.value.fix)


def test_an_error_comes_at_the_batch_of_its_row(store: Store) -> None:
    table = np.tile(TABLE, (70, 1))
    table[33] = -1
    say_parents(store, "v12", "v3", table)
    with make(store, [Cached("v3"), Cached("v12", follow=0)], shuffle="none") as loader:
        batches = iter(loader)
        assert [next(batches).index[0].item() for _ in range(2)] == [0, 16]
        with pytest.raises(
            FormatError, match="of row 33, which slot 0 shows, has 0 usable views of v12"
        ):
            next(batches)


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: [Cached("v4"), Cached("v12", follow=0)],
        "follow must name an earlier slot that shows v3, the parent of v12; slot 0 shows v4",
    ),
    (
        lambda: [Online("simclr"), Cached("v12", follow=0)],
        "follow must name an earlier slot that shows v3, the parent of v12; "
        "slot 0 shows the online policy simclr",
    ),
    (
        lambda: [Mix({"v3": 1, "v4": 1}), Cached("v12", follow=0)],
        "follow must name an earlier slot that shows v3, the parent of v12; "
        "slot 0 shows a mix of v3|v4",
    ),
    (
        lambda: [Mix({"v3": 1}), Cached("v12", follow=0)],
        "follow must name an earlier slot that shows v3, the parent of v12; "
        "slot 0 shows a mix of v3",
    ),
    (
        lambda: [Cached("v12", follow=1), Cached("v3")],
        "follow must name an earlier slot that shows v3, the parent of v12; "
        "slot 1 does not come before slot 0",
    ),
    (
        lambda: [Cached("v3"), Cached("v12", follow=1)],
        "follow must name an earlier slot that shows v3, the parent of v12; "
        "slot 1 does not come before slot 1",
    ),
    (
        lambda: [Cached("v3"), Cached("v4", follow=0)],
        "follow needs to know which view each view was made from, v4 does not say",
    ),
    (
        lambda: [Cached("v3"), Cached("v5", follow=0)],
        "follow must name an earlier slot that shows v5; slot 0 shows v3",
    ),
    (
        lambda: [Cached("v3"), Cached("v12", n=13, follow=0)],
        "view set v12 has 12 views a sample, got 13 slots for it; ask for at most 12, "
        "or build a view set with more views",
    ),
    (
        lambda: [Cached("v3"), Cached("v12", pick="random", follow=0)],
        "Cached with follow=0 takes no pick, got 'random'",
    ),
    (lambda: Cached("v12", follow=-1), "Cached follow must be at least 0, got -1"),
    (lambda: Cached("v12", follow=0.5), "Cached follow must be a whole number, got 0.5"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("views", "message"), REFUSED)
def test_what_cannot_be_followed_is_refused(
    store: Store, views: Callable[[], Any], message: str
) -> None:
    say_parents(store, "v5", None, [-1, 0, 0, 0, 0])
    with pytest.raises(ConfigError) as caught:
        make(store, views())
    assert (str(caught.value), caught.value.code) == (message, "VS101")


def test_a_parent_that_was_built_again_is_not_the_parent(store: Store) -> None:
    plan = store.view_sets["v12"].plan
    assert plan.parent is not None
    plan.parent["plan_id"] = "0" * 64  # type: ignore[index]
    with pytest.raises(ConfigError, match=r"^v3 is not the one that v12 was made from$") as caught:
        make(store, [Cached("v3"), Cached("v12", follow=0)])
    assert caught.value.code == "VS103"
