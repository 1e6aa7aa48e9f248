"""Children of the views that are shown: by a preference of their own, distinct, equally often."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from viewstore.loaders.plan.choose import followed
from viewstore.loaders.plan.schedule import choose_views, preference

SIZES = st.integers(1, 12)


@given(SIZES, SIZES, SIZES, st.integers(0, 2**32 - 1))
def test_the_first_usable_children_by_preference_are_shown(
    above: int, below: int, n: int, seed: int
) -> None:
    """Against a plain loop."""
    n = min(n, below)
    rng = np.random.Generator(np.random.Philox(seed))
    order = rng.permuted(np.tile(np.arange(below), (9, 1)), axis=1)
    parents = rng.integers(-2, above, (9, below)).astype(np.int32)
    usable = rng.random((9, below)) < 0.8
    shown = rng.integers(0, above, 9)
    views, fewer = followed(order, parents, usable, shown, n)
    assert views.shape == (9, n)
    for row in range(9):
        children = [v for v in order[row] if parents[row, v] == shown[row] and usable[row, v]]
        assert fewer[row] == (len(children) < n)
        assert views[row].tolist()[: len(children)] == children[:n]
        assert len(set(views[row].tolist())) == n


def children_of_first(slot: int) -> NDArray[np.int64]:
    """Return how often each of 12 views follows each of 3 that are drawn anew in each epoch."""
    rows = np.arange(500)
    parents = np.tile(np.arange(12, dtype=np.int32) % 3, (500, 1))
    counts = np.zeros((3, 12), np.int64)
    for epoch in range(20):
        (shown,) = choose_views(5, epoch, rows, cached=3, wanted=1, pick="random").T
        order = preference(5, epoch, rows, cached=12, wanted=1, pick="random", slot=slot)
        views, fewer = followed(order, parents, np.ones_like(parents, bool), shown, 1)
        assert not fewer.any()
        np.add.at(counts, (shown, views[:, 0]), 1)
    return counts


def test_children_of_every_view_are_shown_equally_often() -> None:
    counts = children_of_first(slot=1)
    for parent in range(3):
        total = counts[parent].sum()
        off = counts[parent, parent::3] - total / 4
        assert np.abs(off).max() < 4 * np.sqrt(total * 0.25 * 0.75)


def test_the_preference_of_the_parents_would_favour_some_children() -> None:
    """Naive: one permutation for both. The view that comes first has a child that does so too."""
    counts = children_of_first(slot=0)
    assert counts[0, 0] > 2 * counts[0, 3:].max()
