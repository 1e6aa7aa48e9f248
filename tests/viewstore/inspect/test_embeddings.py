"""Maps of features: components against float64, the same for ever, selections, neighbours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.viewstore.inspect.planted import ROWS, pictures, plant
from viewstore.errors import ConfigError
from viewstore.inspect.embedding_chart import (
    STEP_RADII,
    Cell,
    Ends,
    Marks,
    class_look,
    embedding_map,
    step_look,
)
from viewstore.inspect.embedding_groups import groups_of, too_many
from viewstore.inspect.embeddings import (
    Area,
    Embedding,
    colour_columns,
    colour_values,
    edges_of,
    embedding_named,
    embeddings_of,
    grid_counts,
    keyed_rows,
    map_of,
    neighbours,
    principal,
    rows_in,
)
from viewstore.store.store import Store

VIEWS, SIZE = 3, 6


def features(seed: int = 1) -> NDArray[np.float16]:
    rng = np.random.Generator(np.random.Philox(seed))
    scale = np.array([3, 2, 1, 0.5, 0.2, 0.1])
    return (rng.normal(size=(ROWS, VIEWS, SIZE)) * scale).astype(np.float16)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Features of views, of which one was not made; a score of each; and of images."""
    folder = tmp_path_factory.mktemp("embeddings")
    flip = np.zeros((ROWS, VIEWS), np.uint8)
    score = np.arange(ROWS * VIEWS, dtype=np.float32).reshape(ROWS, VIEWS)
    score[2, 1] = np.nan
    plant(
        folder / "s", "p", {"flip": flip, "x_score": score}, views=VIEWS,
        source=pictures(folder / "pictures"),
    )  # fmt: skip
    values: dict[str, NDArray[Any]] = {"feature": features()}
    status = np.ones((ROWS, VIEWS), np.uint8)
    status[4, 1] = 4
    values["feature"][4, 1] = np.nan
    teacher = {**values, "status": status}
    plant(folder / "s", "teacher", teacher, of="p", views=VIEWS, unpacked=("feature",))
    images = {"feature": features(2)[:, :1], "status": np.ones((ROWS, 1), np.uint8)}
    return plant(folder / "s", "images", images, of="source", views=1, unpacked=("feature",))


@pytest.fixture
def teacher(store: Store) -> Embedding:
    return embedding_named(store, "teacher.feature")


def test_components_are_those_of_a_decomposition_in_float64() -> None:
    values = features().reshape(-1, SIZE)
    found = principal(values)
    xy, shares = found.place(values), found.shares
    wide = values.astype(np.float64)
    centred = wide - wide.mean(0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(xy), np.abs(centred @ directions[:2].T), atol=1e-9)
    np.testing.assert_allclose(shares, (singular**2 / (singular**2).sum())[:2])
    assert xy[:, 0].std() > xy[:, 1].std()


def test_signs_are_fixed_whatever_the_order_or_the_sign_of_a_solver() -> None:
    values = features().reshape(-1, SIZE)
    order = np.random.Generator(np.random.Philox(3)).permutation(len(values))
    found = principal(values)
    there, shuffled = found.place(values), principal(values[order]).place(values[order])
    np.testing.assert_allclose(there[order], shuffled, atol=1e-9)
    mirrored = principal(-values).place(-values)
    np.testing.assert_allclose(mirrored, -there, atol=1e-9)  # the axes are the same ones
    np.testing.assert_array_equal(principal(values).place(values), there)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_equal_features_lie_together(count: int) -> None:
    equal = np.ones((count, SIZE), np.float16)
    found = principal(equal)
    assert np.abs(found.place(equal)).max(initial=0) == 0
    assert found.shares == (0, 0)


def test_a_map_has_the_views_that_were_made_in_a_keyed_order(teacher: Embedding) -> None:
    found = map_of(teacher)
    assert len(found.xy) == ROWS * VIEWS - 1
    assert (4, 1) not in set(zip(found.rows.tolist(), found.views.tolist(), strict=True))
    assert found.chosen == ROWS
    assert list(dict.fromkeys(found.rows.tolist())) == keyed_rows(ROWS, ROWS).tolist()
    fewer = map_of(teacher, most=9)
    assert fewer.chosen == 3
    assert set(fewer.rows.tolist()) == set(keyed_rows(ROWS, 3).tolist())
    assert keyed_rows(10**5, 5).tolist() == keyed_rows(10**5, 50)[:5].tolist()


def test_an_area_holds_what_a_plain_loop_finds(teacher: Embedding) -> None:
    found = map_of(teacher)
    area = Area(-1.0, 2.0, -0.5, 1.5)
    expected = {
        row
        for row, (x, y) in zip(found.rows.tolist(), found.xy.tolist(), strict=True)
        if -1 <= x < 2 and -0.5 <= y < 1.5
    }
    assert rows_in(found, area).tolist() == sorted(expected)
    assert 0 < len(expected) < ROWS
    of_one = found.of_view(2)
    assert set(of_one.views.tolist()) == {2}
    assert len(rows_in(of_one, area)) <= len(expected)
    assert Area.parse(str(area)) == area
    for text in ("", "1,2,3", "1,2,3,nan", "a,b,c,d", "1,2,3,4,5", "1e999,0,0,0"):
        with pytest.raises(ConfigError, match="four numbers"):
            Area.parse(text)


def test_cells_count_what_their_areas_hold(teacher: Embedding) -> None:
    found = map_of(teacher)
    edges = [edges_of(found.xy[:, axis], 5) for axis in (0, 1)]
    counts = grid_counts(found.xy, *edges)
    assert counts.sum() == len(found.xy)
    for row, column in np.ndindex(5, 5):
        ends = (edges[0][column], edges[0][column + 1], edges[1][row], edges[1][row + 1])
        area = Area.parse(",".join(repr(float(end)) for end in ends))  # as an address says it
        assert area.holds(found.xy).sum() == counts[row, column]


@pytest.mark.parametrize("values", [[], [3.0], [1e-7, 2e-7], [-1e6, 1e6], [5.0, 5.0]])
def test_edges_hold_all_values_and_ascend(values: list[float]) -> None:
    edges = edges_of(np.array(values), 12)
    assert len(edges) == 13
    assert (np.diff(edges) > 0).all()
    assert all(edges[0] <= each < edges[-1] for each in values)
    assert all(len(repr(edge)) < 24 for edge in edges.tolist())


def test_neighbours_are_those_of_brute_force(teacher: Embedding) -> None:
    values = features().astype(np.float64)
    unit = values / np.linalg.norm(values, axis=-1, keepdims=True)
    for row, view in ((0, 0), (7, 2)):
        found, searched = neighbours(teacher, row, view, 5)
        cosine = unit @ unit[row, view]
        cosine[4, 1] = -2  # not made
        best = [(-cosine[other].max(), other) for other in range(ROWS) if other != row]
        assert [each.row for each in found] == [other for _, other in sorted(best)[:5]]
        assert [each.cosine for each in found] == pytest.approx(
            [-each for each, _ in sorted(best)[:5]]
        )
        assert [each.view for each in found] == [int(cosine[each.row].argmax()) for each in found]
        assert searched == ROWS
    with pytest.raises(ConfigError, match="view 1 of row 4 has no"):
        neighbours(teacher, 4, 1, 5)


def test_neighbours_of_any_view_are_those_of_its_nearest_one(teacher: Embedding) -> None:
    values = features().astype(np.float64)
    units = values / np.linalg.norm(values, axis=-1, keepdims=True)
    units[4, 1] = 0  # not made
    found, _ = neighbours(teacher, 4, None, 5)
    cosine = np.einsum("nvd,wd->nvw", units, units[4][[0, 2]])
    best = [(-cosine[other].max(), other) for other in range(ROWS) if other != 4]
    assert [each.row for each in found] == [other for _, other in sorted(best)[:5]]
    for each in found:
        view, to = np.unravel_index(cosine[each.row].argmax(), (VIEWS, 2))
        assert (each.view, each.to) == (view, (0, 2)[to])
    by_one, _ = neighbours(teacher, 4, 0, 5)
    assert by_one[0].cosine <= found[0].cosine
    assert [each.row for each in by_one] != [each.row for each in found]  # naive: view 0 alone


def test_colours_are_label_and_numbers_of_what_is_described(
    store: Store, teacher: Embedding
) -> None:
    assert colour_columns(store, teacher) == [
        "label", "p.flip", "p.status", "p.x_score", "teacher.status"
    ]  # fmt: skip
    found = map_of(teacher)
    score = colour_values(store, teacher, "p.x_score", found)
    for value, row, view in zip(score, found.rows, found.views, strict=True):
        missing = (row, view) == (2, 1)
        assert np.isnan(value) if missing else value == row * VIEWS + view
    labels = colour_values(store, teacher, "label", found)
    assert labels.tolist() == store.labels[found.rows].tolist()
    with pytest.raises(ConfigError, match="x_score"):
        colour_values(store, teacher, "p.x_scare", found)


def test_embeddings_are_columns_of_many_numbers(store: Store, tmp_path: Path) -> None:
    assert sorted(each.name for each in embeddings_of(store)) == [
        "images.feature",
        "teacher.feature",
    ]
    with pytest.raises(ConfigError, match=r"teacher\.feature"):
        embedding_named(store, "teacher.featur")
    other = plant(
        tmp_path / "s", "p", {"crop_box": np.zeros((ROWS, 2, 4), np.float32) + 5},
        source=pictures(tmp_path / "pictures"),
    )  # fmt: skip
    assert embeddings_of(other) == []


def test_classes_differ_in_colour_or_shape() -> None:
    assert len({class_look(number) for number in range(56)}) == 56


def test_steps_go_from_dark_and_small_to_light_and_large() -> None:
    """Of pictures by their luma, the dark ones must not be the bright marks."""
    looks = [step_look(step, 6) for step in range(6)]
    light = [
        np.array([0.2126, 0.7152, 0.0722])
        @ np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)])
        for colour, _ in looks
    ]
    assert light == sorted(light)
    assert [shape for _, shape in looks] == sorted({shape for _, shape in looks})
    assert list(STEP_RADII) == sorted(STEP_RADII)
    assert [step_look(step, 2) for step in range(2)] == [looks[0], looks[5]]
    assert step_look(0, 1) == looks[0]


@pytest.mark.parametrize(
    ("labels", "one_colour"),
    [
        (np.arange(200), True),  # one photo of each
        (np.arange(200) // 2, True),  # twenty of a hundred, and grey
        (np.arange(24) // 1.5, True),
        (np.arange(200) % 10, False),
        (np.arange(200) % 60, False),
        (np.full(200, 3), False),
        (np.full(200, np.nan), False),
    ],
)
def test_labels_that_colours_cannot_tell_have_one(
    labels: NDArray[np.float64], one_colour: bool
) -> None:
    said = too_many(labels.astype(np.float64), len(labels))
    assert bool(said) == one_colour
    assert not one_colour or f"of {len(labels)} samples are too many" in said


def test_one_colour_has_all_points_and_says_why(store: Store, teacher: Embedding) -> None:
    found = map_of(teacher)
    groups, said = groups_of(store, teacher, found, "label")
    assert (len(groups), said) == (4, "")
    assert [each.label for each in groups] == ["label0", "label1", "label2", "others"]
    _, one_of_each = np.unique(store.labels, return_index=True)
    mine = np.isin(found.rows, one_of_each)
    few = replace(found, rows=found.rows[mine], views=found.views[mine], xy=found.xy[mine])
    (group,), said = groups_of(store, teacher, few, "label")
    assert group.mine.all()
    assert said.startswith("3 labels of 3 samples are too many to tell by colour")
    steps, said = groups_of(store, teacher, few, "p.x_score")
    assert (len(steps), said) == (7, "")


def test_the_chart_escapes_and_has_links_with_names() -> None:
    drawn = embedding_map(
        Ends(0, 1, 0, 1), np.array([[3]]),
        [Marks("a", "#000000", 0, np.array([[0.5, 0.5]]))],
        [Cell(0, 1, 0, 1, 3, '?x="><script>')],
        title="<script>",
    )  # fmt: skip
    assert "<script>" not in drawn
    assert 'aria-label="3 views, x from 0, y from 0"' in drawn
    assert 'role="img"' not in drawn
    assert "style=" not in drawn
