"""Numbers of pairs: against plain loops in float64."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.viewstore.inspect.planted import ROWS, pictures, plant
from viewstore.inspect.pair_losses import (
    NO_VIEW,
    ordered_rows,
    pair_numbers,
    pair_table,
    shades,
)
from viewstore.store.view_set import ViewSet

GROUPS, CANDIDATES = 2, 4
VIEWS = GROUPS * CANDIDATES
UNDONE = 7  # a row whose second group was not scored


def tables(seed: int, *, directed: bool = False) -> dict[str, NDArray[Any]]:
    """Return losses, overlaps and choices as a build stores them, by a plain loop."""
    rng = np.random.Generator(np.random.Philox(seed))
    loss = rng.normal(size=(ROWS, VIEWS, CANDIDATES)).astype(np.float32)
    iou = (rng.integers(0, 5, size=loss.shape) / 4).astype(np.float32)  # with ties
    for group in range(GROUPS):
        mine = slice(group * CANDIDATES, (group + 1) * CANDIDATES)
        iou[:, mine] = np.triu(iou[:, mine], 1) + np.triu(iou[:, mine], 1).transpose(0, 2, 1)
    for view in range(VIEWS):
        loss[:, view, view % CANDIDATES] = np.nan
        iou[:, view, view % CANDIDATES] = np.nan
    loss[UNDONE, CANDIDATES:] = np.inf
    choices = np.full((4, ROWS, GROUPS, 2), NO_VIEW, np.uint8)
    for row, group in itertools.product(range(ROWS), range(GROUPS)):
        if row == UNDONE and group == 1:
            continue
        scored = pairs_of(loss, iou, row, group, directed=directed)
        names = (
            max(scored, key=lambda pair: scored[pair][0]),
            min(scored, key=lambda pair: scored[pair][0]),
            list(scored)[int(rng.integers(len(scored)))],
            min(scored, key=lambda pair: scored[pair][1]),
        )
        for choice, pair in zip(choices, names, strict=True):
            choice[row, group] = [each + group * CANDIDATES for each in pair]
    named = zip(("selected", "easiest", "random", "min_iou"), choices, strict=True)
    return {"pair_loss": loss, "pair_iou": iou, **dict(named)}


def pairs_of(
    loss: NDArray[Any], iou: NDArray[Any], row: int, group: int, *, directed: bool
) -> dict[tuple[int, int], tuple[float, float]]:
    """Return loss and overlap of each pair of a group that was scored."""
    first = group * CANDIDATES
    found = {}
    pairs = itertools.permutations if directed else itertools.combinations
    for student, target in pairs(range(CANDIDATES), 2):
        score = float(loss[row, first + student, target])
        if not directed:
            score = (score + float(loss[row, first + target, student])) / 2
        if math.isfinite(score):
            found[student, target] = score, float(iou[row, first + student, target])
    return found


def planted_hard(folder: Path, values: dict[str, NDArray[Any]]) -> ViewSet:
    flip = np.zeros((ROWS, VIEWS), np.uint8)
    plant(folder / "s", "p", {"flip": flip}, source=pictures(folder / "pictures"), views=VIEWS)
    per = dict.fromkeys(("selected", "easiest", "random", "min_iou"), "choice")
    status = np.ones((ROWS, VIEWS), np.uint8)
    store = plant(folder / "s", "hard", {**values, "status": status}, of="p", per=per, views=VIEWS)
    return store.view_sets["hard"]


@pytest.mark.parametrize("directed", [False, True])
def test_numbers_are_those_of_a_plain_loop(tmp_path: Path, directed: bool) -> None:
    values = tables(3, directed=directed)
    table = pair_table(planted_hard(tmp_path, values))
    assert table is not None
    assert (table.groups, table.candidates, table.directed) == (GROUPS, CANDIDATES, directed)
    assert len(table.pairs) == (12 if directed else 6)
    found = pair_numbers(table)
    losses: dict[str, list[float]] = {name: [] for name in ("all", *table.choices)}
    least = dict.fromkeys(table.choices, 0)
    chance = groups = agree = 0.0
    spread = [math.nan] * ROWS
    xs, ys = [], []
    by_view = {name: [0] * VIEWS for name in table.choices}
    for row, group in itertools.product(range(ROWS), range(GROUPS)):
        scored = pairs_of(values["pair_loss"], values["pair_iou"], row, group, directed=directed)
        if not scored:
            continue
        scores = [score for score, _ in scored.values()]
        losses["all"] += scores
        xs += [iou for _, iou in scored.values()]
        ys += scores
        spread[row] = np.nanmax([spread[row], max(scores) - min(scores)])
        lowest = min(iou for _, iou in scored.values())
        chance += sum(iou == lowest for _, iou in scored.values()) / len(scored)
        groups += 1
        for name in table.choices:
            views = values[name][row, group].tolist()
            pair = (views[0] - group * CANDIDATES, views[1] - group * CANDIDATES)
            losses[name].append(scored[pair][0])
            least[name] += scored[pair][1] == lowest
            for view in views:
                by_view[name][view] += 1
            agree += name == "selected" and scored[pair][0] == max(scores)
    assert found.number == {name: len(each) for name, each in losses.items()}
    for name, each in losses.items():
        assert found.mean(name) == pytest.approx(np.mean(each), rel=1e-12)
        counts = np.histogram(np.array(each), found.edges)[0]
        assert found.counts[name].tolist() == counts.tolist()
        assert found.counts[name].sum() == len(each)
    for name in table.choices:
        told = found.overlaps[name]
        assert (told.groups, told.least) == (groups, least[name])
        assert told.chance == pytest.approx(chance)
        assert found.by_view[name].tolist() == by_view[name]
    assert found.overlaps["min_iou"].least == groups
    assert (found.scored, found.agree) == (groups, agree)
    np.testing.assert_allclose(found.spread, np.array(spread), rtol=1e-6)
    assert found.correlation == pytest.approx(np.corrcoef(xs, ys)[0, 1])
    assert found.density.sum() == len(xs)


def test_a_chance_of_one_in_all_pairs_is_too_small_where_overlaps_tie(tmp_path: Path) -> None:
    table = pair_table(planted_hard(tmp_path, tables(3)))
    assert table is not None
    told = pair_numbers(table).overlaps["random"]
    assert told.chance / told.groups > 1.2 / len(table.pairs)


def test_rows_are_ordered_by_their_spread_and_those_without_losses_left_out(
    tmp_path: Path,
) -> None:
    values = tables(4)
    values["pair_loss"][5] = np.inf
    for name in ("selected", "easiest", "random", "min_iou"):
        values[name][5] = NO_VIEW
    table = pair_table(planted_hard(tmp_path, values))
    assert table is not None
    numbers = pair_numbers(table)
    most = ordered_rows(numbers, "spread").tolist()
    assert sorted(most) == [row for row in range(ROWS) if row != 5]
    spread = numbers.spread[most].tolist()
    assert spread == sorted(spread, reverse=True)
    assert ordered_rows(numbers, "-spread").tolist() == most[::-1]
    assert ordered_rows(numbers, "row").tolist() == sorted(most)


def test_pairs_of_large_crops_are_an_even_and_an_odd_one(tmp_path: Path) -> None:
    view_set = planted_hard(tmp_path, tables(5))
    object.__setattr__(view_set.plan, "roles", ("global",) * VIEWS)
    table = pair_table(view_set)
    assert table is not None
    assert table.pairs.tolist() == [[0, 1], [0, 3], [2, 1], [2, 3]]
    assert not table.directed


def test_logs_of_a_training_are_tables_of_slots(tmp_path: Path) -> None:
    rng = np.random.Generator(np.random.Philox(2))
    pairs = [(0, 1), (0, 2), (1, 2)]
    losses = rng.normal(size=(ROWS, 3)).astype(np.float32)
    losses[4] = np.nan
    chosen = losses.argmax(1).astype(np.uint16)
    chosen[4] = 2**16 - 1
    sample = dict.fromkeys(("x_losses", "x_pair"), "sample")
    store = plant(
        tmp_path / "s", "p", {"flip": np.zeros((ROWS, 1), np.uint8)}, views=1,
        source=pictures(tmp_path / "pictures"),
    )  # fmt: skip
    store = plant(
        tmp_path / "s", "log", {"x_losses": losses, "x_pair": chosen}, of="source",
        per=sample, views=1, pairs=pairs,
    )  # fmt: skip
    table = pair_table(store.view_sets["log"])
    assert table is not None
    assert table.logged
    numbers = pair_numbers(table)
    assert (numbers.scored, numbers.agree) == (ROWS - 1, ROWS - 1)
    assert numbers.overlaps["selected"].groups == 0  # no crops, no overlaps
    assert numbers.correlation is None
    square = table.square(3, 0)
    assert square[2, 0] == square[0, 2] == losses[3, 1]
    assert np.isnan(square.diagonal()).all()


def test_shades_go_from_the_least_to_the_greatest_loss() -> None:
    values = np.array([[0.0, 0.49, 0.51], [2.99, 3.0, np.nan]])
    assert shades(values, np.array([0.0, 1.0, 3.0])) == [[0, 0, 1], [5, 5, None]]
    assert shades(values * 0, np.array([0.0, 0.0]))[0] == [0, 0, 0]
