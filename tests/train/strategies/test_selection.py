"""From tables of losses to choices: loops over everything say what is right."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.train.strategies.small import (
    CROPS,
    EXPERTS,
    Clustered,
    Distilling,
    Plain,
    barlow,
    moco,
    simsiam,
    views_of_roles,
)
from viewstore.errors import DivergedError
from viewstore.train.methods.base import Method
from viewstore.train.plan import Pair, Plan, Row, total
from viewstore.train.strategies import selection
from viewstore.train.strategies.combinations import Candidates, crop_combinations, expert_pairs
from viewstore.train.strategies.selection import (
    Entry,
    best_listed,
    best_of_all,
    entries_of,
    first_greatest,
    is_directed,
    loss_table,
    own_scores,
    scores_of,
    wanted_entries,
)

DINO = crop_combinations(range(4), range(4, 10), 3)


def everything(candidates: Candidates) -> Any:  # noqa: ANN401
    return np.arange(candidates.count)


def random_table(views: int = 10, samples: int = 9, seed: int = 0) -> Tensor:
    return torch.randn((views, views, samples), generator=torch.Generator().manual_seed(seed))


def crop_entries() -> tuple[Entry, ...]:
    views = views_of_roles(*CROPS)
    return entries_of(Distilling(), views, DINO.first)


def loop_choice(table: Tensor, entries: tuple[Entry, ...], candidates: Candidates) -> list[Any]:
    """Return the best combination of each sample: the first one that is greater than all before."""
    combinations = candidates.at(everything(candidates)).tolist()
    chosen = []
    for sample in range(table.shape[2]):
        best, found = -float("inf"), None
        for combination in combinations:
            score = table.new_tensor(0.0)
            for student, target, weight in entries:
                s, t = combination[student], combination[student if target is None else target]
                score = score + weight * table[s, t, sample]
            if score > best:
                best, found = float(score), combination
        chosen.append(found)
    return chosen


def test_entries_of_crops_are_all_pairs_with_a_global_target() -> None:
    entries = crop_entries()
    assert {(s, t) for s, t, _ in entries} == {(s, t) for t in (0, 1) for s in range(5) if s != t}
    assert {weight for *_, weight in entries} == {1 / 8}


def test_wanted_entries_are_those_of_any_combination() -> None:
    entries = crop_entries()
    combinations = DINO.at(everything(DINO)).tolist()
    expected = {(c[s], c[t]) for c in combinations for s, t, _ in entries if t is not None}
    assert wanted_entries(entries, DINO) == sorted(expected)
    # 4 pairs of globals in both orders, and each local one with each global one.
    assert len(expected) == 8 + 24


def test_wanted_entries_of_local_targets_and_of_views_with_themselves() -> None:
    candidates = crop_combinations(range(2), range(2, 6), 2)
    entries = [Entry(2, 3, 1.0), Entry(0, 0, 1.0), Entry(3, 3, 1.0), Entry(1, None, 1.0)]
    expected = {(a, b) for a in range(2, 6) for b in range(2, 6)} | {(0, 0), (1, None)}
    assert set(wanted_entries(entries, candidates)) == expected


@pytest.mark.parametrize(
    ("method", "directed"),
    [(simsiam(), False), (moco(), True), (Clustered(), False), (barlow(), False)],
)
def test_a_pair_has_a_direction_where_one_view_alone_learns(method: Method, directed: bool) -> None:
    assert is_directed(method, views_of_roles(*EXPERTS), (0, 1)) is directed


@given(st.lists(st.lists(st.integers(-2, 2), min_size=3, max_size=3), min_size=1, max_size=6))
def test_ties_go_to_the_first(values: list[list[int]]) -> None:
    scores = torch.tensor(values, dtype=torch.float32)
    greatest, place = first_greatest(scores)
    for sample in range(3):
        best, first = -float("inf"), -1
        for number, row in enumerate(values):
            if row[sample] > best:
                best, first = row[sample], number
        assert (greatest[sample], place[sample]) == (best, first)


@pytest.mark.parametrize("at_once", [2, 1 << 24])
def test_all_ties_choose_the_first_combination(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(selection, "SCORES_AT_ONCE", at_once)
    table = torch.zeros(10, 10, 2)
    for choice in (
        best_of_all(table, crop_entries(), DINO),
        best_listed(table, crop_entries(), DINO, everything(DINO)),
    ):
        assert choice.views.tolist() == [[0, 1, 4, 5, 6]] * 2
        assert choice.pair.tolist() == [0, 0]


def test_scores_below_zero_are_chosen_among() -> None:
    table = random_table() - 50
    assert best_listed(table, crop_entries(), DINO, everything(DINO)).views.tolist() == (
        loop_choice(table, crop_entries(), DINO)
    )


@pytest.mark.parametrize("seed", range(5))
def test_exact_search_is_that_of_all_combinations(seed: int) -> None:
    table, entries = random_table(samples=20, seed=seed), crop_entries()
    exact = best_of_all(table, entries, DINO)
    listed = best_listed(table, entries, DINO, everything(DINO))
    assert exact.views.tolist() == loop_choice(table, entries, DINO)
    assert exact.views.equal(listed.views)
    assert exact.pair.equal(listed.pair)
    assert exact.losses is not None
    assert listed.losses is not None
    assert exact.losses.equal(listed.losses)


def test_exact_search_of_one_local_crop_that_is_a_target_too() -> None:
    candidates = crop_combinations(range(4), range(4, 10), 1)
    entries = entries_of(simsiam(), views_of_roles(*CROPS), candidates.first)
    assert {(2, 0), (0, 2)} < {(s, t) for s, t, _ in entries}
    table = random_table(samples=20)
    assert best_of_all(table, entries, candidates).views.tolist() == (
        loop_choice(table, entries, candidates)
    )


@pytest.mark.parametrize("at_once", [1, 9, 60, 1000])
def test_parts_of_a_list_do_not_matter(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    table, entries = random_table(), crop_entries()
    whole = best_listed(table, entries, DINO, everything(DINO))
    monkeypatch.setattr(selection, "SCORES_AT_ONCE", at_once)
    parts = best_listed(table, entries, DINO, everything(DINO))
    assert all(map(torch.equal, whole, parts))  # type: ignore[arg-type]


def test_exact_search_does_not_form_combinations(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Candidates, numbers: object) -> Tensor:
        raise AssertionError("formed combinations")

    monkeypatch.setattr(Candidates, "at", refuse)
    candidates = crop_combinations(range(4), range(4, 24), 10)
    entries = entries_of(
        Distilling(), views_of_roles(*["global"] * 4, *["local"] * 20), [0, 1, *range(4, 14)]
    )
    choice = best_of_all(random_table(24, 3), entries, candidates)
    assert choice.views.shape == (3, 12)
    assert (choice.views[:, 2:].diff() > 0).all()


def test_a_score_is_the_sum_of_its_entries() -> None:
    table, entries = random_table(), crop_entries()
    combinations = DINO.at(np.array([3, 40, 79]))
    scores = scores_of(table, entries, combinations)
    for number, combination in enumerate(combinations.tolist()):
        summed = torch.zeros(table.shape[2])
        for student, target, weight in entries:
            assert target is not None
            summed = summed + weight * table[combination[student], combination[target]]
        assert scores[number].equal(summed)
        own = own_scores(table, entries, combinations[number].repeat(table.shape[2], 1))
        assert own.equal(summed)


def test_losses_are_the_best_of_each_pair_and_what_is_chosen_is_their_greatest() -> None:
    table, entries = random_table(), crop_entries()
    some = np.array([2, 5, 22, 25, 61])  # none of them has the third pair
    choice = best_listed(table, entries, DINO, some)
    assert choice.losses is not None
    scores = scores_of(table, entries, DINO.at(some))
    assert choice.losses[0].equal(scores[:2].amax(0))
    assert choice.losses[1].equal(scores[2:4].amax(0))
    assert choice.losses[2].isneginf().all()
    assert choice.losses[3].equal(scores[4])
    assert choice.pair.equal(choice.losses.argmax(0))


@pytest.mark.parametrize("method", [simsiam(), moco(), Clustered(), Plain(), barlow()])
def test_a_table_has_what_separate_scores_are(method: Method) -> None:
    views = views_of_roles(*EXPERTS)
    candidates = expert_pairs(range(4), directed=is_directed(method, views, (0, 1)))
    wanted = wanted_entries(entries_of(method, views, (0, 1)), candidates)
    table = loss_table(method, views, candidates, wanted, "per_view")
    for s, t in wanted:
        rows = (Row(s), Row(s if t is None else t))
        plan = Plan(views, rows[:1], () if t is None else rows[1:], (), 1, 1)
        with torch.no_grad():
            student, target = method.both(plan, "probe", "per_view")
            expected = total(method.score(student, target, Pair(0, None if t is None else 0), plan))
        torch.testing.assert_close(table[s, s if t is None else t], expected)
    others = set(itertools.product(range(4), repeat=2)) - {
        (s, s if t is None else t) for s, t in wanted
    }
    assert all((table[each] == 0).all() for each in others)


def test_candidates_are_embedded_together() -> None:
    method, views = simsiam(), views_of_roles(*EXPERTS)
    candidates = expert_pairs(range(4), directed=False)
    wanted = wanted_entries(entries_of(method, views, (0, 1)), candidates)
    pooled = loss_table(method, views, candidates, wanted, "pooled")
    alone = loss_table(method, views, candidates, wanted, "per_view")
    assert not pooled.allclose(alone)
    assert method.forwards == 8


def test_an_averaged_target_embeds_those_alone_that_are_targets() -> None:
    method, views = Distilling(), views_of_roles(*CROPS)
    wanted = wanted_entries(entries_of(method, views, DINO.first), DINO)
    loss_table(method, views, DINO, wanted, "pooled")
    assert method.forwards == 10 + 4


def test_a_loss_that_is_no_number_stops_the_run() -> None:
    method, views = Plain(), views_of_roles(*EXPERTS)
    candidates = expert_pairs(range(4), directed=False)
    wanted = wanted_entries(entries_of(method, views, (0, 1)), candidates)
    broken = [each.float() for each in views.pixels]
    broken[2][3, 0, 0, 0] = torch.nan
    with pytest.raises(DivergedError, match="must be numbers, got nan at step 0"):
        loss_table(method, replace(views, pixels=tuple(broken)), candidates, wanted, "pooled")
