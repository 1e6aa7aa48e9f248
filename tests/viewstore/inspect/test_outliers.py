"""Outliers are those of brute force, planted ones come first, and the same rows for ever."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.viewstore.inspect.planted import ROWS, pictures, plant
from viewstore.inspect import outliers
from viewstore.inspect.embeddings import Embedding, embedding_named, keyed_rows, map_of
from viewstore.inspect.outliers import NEAREST, outliers_of

VIEWS, SIZE, ODD = 2, 6, 7


def features() -> NDArray[np.float32]:
    """Return features about one direction, but for view 1 of row ODD, which has another."""
    rng = np.random.Generator(np.random.Philox(5))
    found = np.eye(SIZE)[0] + rng.normal(scale=0.2, size=(ROWS, VIEWS, SIZE))
    found[ODD, 1] = np.eye(SIZE)[3]
    return found.astype(np.float32)


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Embedding:
    folder = tmp_path_factory.mktemp("outliers")
    flip = np.zeros((ROWS, VIEWS), np.uint8)
    plant(folder / "s", "p", {"flip": flip}, source=pictures(folder / "pictures"))
    values = {"feature": features(), "status": np.ones((ROWS, VIEWS), np.uint8)}
    store = plant(folder / "s", "teacher", values, of="p", unpacked=("feature",))
    return embedding_named(store, "teacher.feature")


def by_hand(views: list[int]) -> dict[int, float]:
    """Return the greatest mean distance of a view of each row to its nearest ones, by a loop."""
    wide = features().astype(np.float64)
    units = wide / np.linalg.norm(wide, axis=-1, keepdims=True)
    found = {}
    for row in range(ROWS):
        others = np.delete(units[:, views], row, axis=0).reshape(-1, SIZE)
        found[row] = max(np.sort(1 - others @ units[row, view])[:NEAREST].mean() for view in views)
    return found


@pytest.mark.parametrize("view", [None, 0, 1])
def test_outliers_are_those_of_a_plain_loop(embedding: Embedding, view: int | None) -> None:
    found = outliers_of(embedding, map_of(embedding).of_view(view))
    expected = by_hand([0, 1] if view is None else [view])
    order = sorted(expected, key=lambda row: -expected[row])
    assert found.rows.tolist() == order
    np.testing.assert_allclose(found.distances, [expected[row] for row in order], atol=1e-6)
    assert found.farthest.tolist() == sorted(order[:12])
    assert (order[0] == ODD) == (view != 0)
    assert found.asked == found.points == ROWS * (VIEWS if view is None else 1)


def test_other_views_of_a_sample_do_not_hide_it(tmp_path: Path) -> None:
    """An odd sample whose views are all alike is near to itself; naive distances would be 0."""
    rng = np.random.Generator(np.random.Philox(6))
    values = (np.eye(SIZE)[0] + rng.normal(scale=0.2, size=(ROWS, 12, SIZE))).astype(np.float32)
    values[ODD] = np.eye(SIZE)[3]
    plant(
        tmp_path / "s", "p", {"flip": np.zeros((ROWS, 12), np.uint8)}, views=12,
        source=pictures(tmp_path / "pictures"),
    )  # fmt: skip
    told = {"feature": values, "status": np.ones((ROWS, 12), np.uint8)}
    store = plant(tmp_path / "s", "t", told, of="p", views=12, unpacked=("feature",))
    found_in = embedding_named(store, "t.feature")
    assert outliers_of(found_in, map_of(found_in)).rows[0] == ODD


def test_of_many_points_the_first_by_key_are_asked(
    embedding: Embedding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outliers, "MOST_ASKED", 6)
    monkeypatch.setattr(outliers, "BLOCK", 4)
    found = outliers_of(embedding, map_of(embedding))
    assert (found.asked, found.points) == (6, ROWS * VIEWS)
    assert set(found.rows.tolist()) == set(keyed_rows(ROWS, 3).tolist())
    expected = by_hand([0, 1])
    np.testing.assert_allclose(
        found.distances, [expected[row] for row in found.rows.tolist()], atol=1e-6
    )


def test_a_map_of_one_sample_or_none_has_no_outliers(embedding: Embedding) -> None:
    found = map_of(embedding)
    for few in (found.first(0), found.first(VIEWS)):
        assert len(outliers_of(embedding, few).rows) == 0
        assert len(outliers_of(embedding, few).farthest) == 0
