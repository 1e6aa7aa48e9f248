"""Choices by tables of losses, against loops over all combinations in float64."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from viewstore.generators.scored.choices import (
    NOTHING,
    Term,
    candidate_pairs,
    chosen_crops,
    chosen_pairs,
    pair_overlaps,
)

SYMMETRIC: tuple[Term, ...] = ((0, 1, 0.5), (1, 0, 0.5))
DIRECTED: tuple[Term, ...] = ((0, 1, 1.0),)
ALONE: tuple[Term, ...] = ((0, None, 0.5), (1, None, 0.5))
WITHIN: tuple[Term, ...] = ((0, 1, 0.4), (1, 0, 0.4), (0, 0, 0.3), (1, 1, 0.3))
FORMS = {"symmetric": SYMMETRIC, "directed": DIRECTED, "alone": ALONE, "within": WITHIN}


def crop_terms(taken: int, weight: float = 0.1) -> tuple[Term, ...]:
    """The standard loss of two large crops and small ones, each against both."""
    small = [(2 + s, t, weight) for s in range(taken) for t in (0, 1)]
    return ((0, 1, weight), (1, 0, weight), *small)


def table(rng: np.random.Generator, *shape: int, levels: int = 0) -> NDArray[np.float32]:
    """Losses; of few levels so that there are ties, with some that are not finite."""
    drawn = rng.integers(0, levels, shape) if levels else rng.normal(size=shape)
    losses = drawn.astype(np.float32)
    losses[rng.random(shape) < 0.08] = np.nan
    return losses


def score(losses: NDArray[Any], terms: Any, views: tuple[int, ...]) -> float:  # noqa: ANN401
    """The loss of a combination: term by term, in float64. No number where one is not finite."""
    total = 0.0
    for student, target, weight in terms:
        total += weight * float(
            losses[views[student], views[student if target is None else target]]
        )
    return total


def first_best(scores: dict[tuple[int, ...], float], sign: int) -> tuple[int, ...] | None:
    """The first combination with the greatest of finite scores times `sign`."""
    best = None
    for views in sorted(scores):
        if math.isfinite(scores[views]) and (
            best is None or sign * scores[views] > sign * scores[best]
        ):
            best = views
    return best


seeds = st.integers(0, 2**32 - 1)


@given(
    seed=seeds,
    size=st.integers(2, 6),
    levels=st.sampled_from([0, 3]),
    form=st.sampled_from([*FORMS]),
)
def test_pairs_are_those_of_a_loop(seed: int, size: int, levels: int, form: str) -> None:
    rng, count = np.random.default_rng(seed), 5
    losses, iou = table(rng, count, size, size, levels=levels), table(rng, count, size, size)
    pairs = candidate_pairs(size, directed=form == "directed", crops=False)
    uniform = rng.random(count)
    choices, margin = chosen_pairs(losses, FORMS[form], pairs, uniform, iou)
    every = itertools.permutations if form == "directed" else itertools.combinations
    for n in range(count):
        of_pair = {pair: score(losses[n], FORMS[form], pair) for pair in every(range(size), 2)}
        finite = [pair for pair in sorted(of_pair) if math.isfinite(of_pair[pair])]
        overlap = {pair: float(iou[n][pair]) for pair in finite}
        expected = {
            "selected": first_best(of_pair, 1),
            "easiest": first_best(of_pair, -1),
            "random": finite[int(uniform[n] * len(finite))] if finite else None,
            "min_iou": first_best(overlap, -1),
        }
        found = {name: tuple(places[n].tolist()) for name, places in choices.items()}
        assert found == {name: pair or (NOTHING, NOTHING) for name, pair in expected.items()}
        ordered = sorted((of_pair[pair] for pair in finite), reverse=True)
        if len(ordered) > 1:
            assert margin[n] == pytest.approx(ordered[0] - ordered[1], abs=1e-9)
        else:
            assert margin[n] == math.inf if ordered else math.isnan(margin[n])


@given(seed=seeds, small=st.integers(1, 5), taken=st.integers(1, 5), levels=st.sampled_from([0, 3]))
def test_large_and_small_crops_are_the_best_of_all_combinations(
    seed: int, small: int, taken: int, levels: int
) -> None:
    """Two sets, one after the other, against the list of all combinations."""
    taken = min(small, taken)
    rng, count, large = np.random.default_rng(seed), 4, 4
    losses = table(rng, count, large, large, levels=levels)
    of_crops = table(rng, count, small, large, levels=levels)
    terms, pairs = crop_terms(taken), candidate_pairs(large, directed=False, crops=True)
    assert pairs.tolist() == [[0, 1], [0, 3], [2, 1], [2, 3]]
    choices, margin = chosen_pairs(losses, terms, pairs, rng.random(count), None, (of_crops, taken))
    beside, lead = chosen_crops(of_crops, terms, choices, taken)
    for n in range(count):
        both = np.concatenate([losses[n], of_crops[n]])
        scores = {
            (*pair, *(large + each for each in crops)): score(
                both, terms, tuple(map(int, (*pair, *(large + each for each in crops))))
            )
            for pair in map(tuple, pairs.tolist())
            for crops in itertools.combinations(range(small), taken)
        }
        for name, sign in (("selected", 1), ("easiest", -1)):
            best = first_best(scores, sign)
            pair, crops = choices[name][n].tolist(), beside[name][n].tolist()
            if best is None:
                assert pair == [NOTHING] * 2
                assert crops == [NOTHING] * taken
                continue
            chosen = (*pair, *(large + each for each in crops))
            assert scores[chosen] == pytest.approx(scores[best], abs=1e-6)
            assert crops == sorted(set(crops))
            if levels == 0:
                assert chosen == best
        best_of_pairs = [
            max((scores[each] for each in scores if each[:2] == pair), key=_finite_first)
            for pair in map(tuple, pairs.tolist())
        ]
        ranked = sorted((each for each in best_of_pairs if math.isfinite(each)), reverse=True)
        if len(ranked) > 1:
            assert margin[n] == pytest.approx(ranked[0] - ranked[1], abs=1e-6)
        if np.isfinite(lead[n]):
            mine = [
                scores[(*choices["selected"][n].tolist(), *(large + each for each in crops))]
                for crops in itertools.combinations(range(small), taken)
            ]
            ordered = sorted((each for each in mine if math.isfinite(each)), reverse=True)
            assert lead[n] == pytest.approx(ordered[0] - ordered[1], abs=1e-6)


def _finite_first(score: float) -> float:
    return score if math.isfinite(score) else -math.inf


def test_controls_take_the_first_crops_that_there_are() -> None:
    gains = np.zeros((1, 5, 4), np.float32)
    gains[0, 1] = np.nan
    large = {"random": np.array([[0, 1]]), "min_iou": np.array([[NOTHING, NOTHING]])}
    choices, _ = chosen_crops(gains, crop_terms(3), large, 3)
    assert choices["random"].tolist() == [[0, 2, 3]]
    assert choices["min_iou"].tolist() == [[NOTHING] * 3]


@given(
    seed=seeds, size=st.integers(2, 6), form=st.sampled_from(["symmetric", "directed", "within"])
)
def test_permuted_candidates_give_the_permuted_choice(seed: int, size: int, form: str) -> None:
    rng = np.random.default_rng(seed)
    losses, order = rng.normal(size=(3, size, size)).astype(np.float32), rng.permutation(size)
    pairs = candidate_pairs(size, directed=form == "directed", crops=False)
    before, lead = chosen_pairs(losses, FORMS[form], pairs, np.zeros(3))
    moved = losses[:, order][:, :, order]
    after, other = chosen_pairs(moved, FORMS[form], pairs, np.zeros(3))
    for name in ("selected", "easiest"):
        seen = order[after[name]]
        if form != "directed":
            seen = np.sort(seen)
        assert seen.tolist() == before[name].tolist()
    assert np.allclose(lead, other)


def test_ties_go_to_the_first_pair_and_two_candidates_are_one() -> None:
    pairs = candidate_pairs(4, directed=False, crops=False)
    choices, margin = chosen_pairs(np.ones((1, 4, 4)), SYMMETRIC, pairs, np.array([0.999]))
    assert choices["selected"].tolist() == choices["easiest"].tolist() == [[0, 1]]
    assert choices["random"].tolist() == [[2, 3]]
    assert margin.tolist() == [0]
    two = candidate_pairs(2, directed=False, crops=False)
    choices, margin = chosen_pairs(np.ones((1, 2, 2)), SYMMETRIC, two, np.array([0.3]))
    assert {tuple(each[0].tolist()) for each in choices.values()} == {(0, 1)}
    assert margin.tolist() == [math.inf]


def test_the_random_choice_is_uniform() -> None:
    pairs = candidate_pairs(4, directed=False, crops=False)
    uniform = np.random.default_rng(3).random(60_000)
    choices, _ = chosen_pairs(np.zeros((60_000, 4, 4)), SYMMETRIC, pairs, uniform)
    numbers = (choices["random"] * [4, 1]).sum(1)
    _, counts = np.unique(numbers, return_counts=True)
    assert len(counts) == 6
    assert np.abs(counts - 10_000).max() < 4 * math.sqrt(10_000 * 5 / 6)


def test_overlaps_are_those_of_counted_pixels() -> None:
    rng = np.random.default_rng(1)
    corner, side = rng.integers(0, 8, (2, 3, 2)), rng.integers(1, 9, (2, 3, 2))
    boxes = np.concatenate([corner, side], -1)

    def painted(box: NDArray[Any]) -> NDArray[np.bool_]:
        canvas = np.zeros((16, 16), np.bool_)
        top, left, height, width = box.tolist()
        canvas[top : top + height, left : left + width] = True
        return canvas

    found = pair_overlaps(boxes, boxes[:, :2])
    for n, k, t in itertools.product(range(2), range(3), range(2)):
        one, other = painted(boxes[n, k]), painted(boxes[n, t])
        assert found[n, k, t] == pytest.approx((one & other).sum() / (one | other).sum())
