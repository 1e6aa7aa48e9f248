"""Choices among the candidate views of samples by tables of their losses; nothing is read here.

N samples, or groups of them, with C candidates each, of which P pairs are chosen among, and S small
crops. Places are those within a group. What cannot be scored has losses that are not finite.
Source: Pretraining with Hard Views, equation 2 and algorithm 1; multi-crop: its appendix.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.images.boxes import overlap

Places = NDArray[np.int64]
Scores = NDArray[np.float64]
# A part of the loss of two views and small crops: the places of student and target among them
# (None: it is the student's alone), and the weight. Small crops have the places from 2 on.
Term = tuple[int, int | None, Any]
FIRST_CROP = 2
NOTHING = -1
CHOICES = ("selected", "easiest", "random", "min_iou")
Choices = dict[str, Places]  # what is chosen of each group by name of the choice, [N, m]


def chosen_pairs(
    losses: NDArray[Any],
    terms: Sequence[Term],
    pairs: Places,
    uniform: Scores,
    iou: NDArray[Any] | None = None,
    crops: tuple[NDArray[Any], int] | None = None,
) -> tuple[Choices, Scores]:
    """Return the pairs that are chosen, [N, 2] each, and by how much the best leads, [N].

    Ties go to the first pair. Pairs without a finite score are never chosen; where there are no
    others, NOTHING is.

    Args:
        losses: Of students against targets, [N, C, C].
        terms: The standard loss of a pair, and of the small crops beside it.
        pairs: What is chosen among, [P, 2].
        uniform: Numbers in [0, 1) of the random choice, [N].
        iou: Overlap of crops, [N, C, C]; None: there is no choice by it.
        crops: Losses of small crops against large ones, [N, S, C], and how many of them are taken
            beside each pair: those that add most, or least to the score of the easiest.
    """
    scores = pair_scores(losses, terms, pairs)
    hard, easy = scores, scores
    if crops is not None:
        gains = crop_gains(crops[0], terms, np.broadcast_to(pairs, (len(losses), *pairs.shape)))
        hard = scores + greatest_crops(gains, crops[1])[1]
        easy = scores - greatest_crops(-gains, crops[1])[1]
    places = {
        "selected": first_greatest(hard),
        "easiest": first_greatest(-easy),
        "random": drawn(hard, uniform),
    }
    if iou is not None:
        overlaps = iou[:, pairs[:, 0], pairs[:, 1]]
        places["min_iou"] = first_greatest(-np.where(np.isfinite(hard), overlaps, np.nan))
    choices = {
        name: np.where(place[:, None] < 0, NOTHING, pairs[place]) for name, place in places.items()
    }
    return choices, lead(hard, 1)


def chosen_crops(
    losses: NDArray[Any], terms: Sequence[Term], large: Choices, taken: int
) -> tuple[Choices, Scores]:
    """Return the small crops that are chosen for large ones, [N, taken] each, by ascending place.

    "selected" are those that add most to the score, "easiest" those that add least, and others
    are the first ones. Behind them by how much the best for the first of the large ones lead, [N].

    Args:
        losses: Of small crops against large ones, [N, S, T].
        terms: The standard loss of a pair and of the small crops beside it.
        large: The pair that was chosen by each choice, [N, 2]; NOTHING where none was.
        taken: How many small crops are chosen.
    """
    choices, margins = {}, []
    for name, pair in large.items():
        gains = crop_gains(losses, terms, pair[:, None])[:, 0]
        gains[(pair < 0).any(-1)] = np.nan
        first = np.where(np.isfinite(gains), -np.arange(gains.shape[1], dtype=np.float64), np.nan)
        keys = {"selected": gains, "easiest": -gains}.get(name, first)
        places, total = greatest_crops(keys, taken)
        choices[name] = np.where(np.isfinite(total)[:, None], places, NOTHING)
        margins.append(lead(gains, taken))
    return choices, margins[0]


def candidate_pairs(candidates: int, *, directed: bool, crops: bool) -> Places:
    """Return the pairs that are chosen among, [P, 2], in lexicographic order.

    `directed`: both orders of a pair. `crops`: an even and an odd place, of which the policies of
    large crops differ.
    """
    places = range(candidates)
    if crops:
        pairs = list(itertools.product(places[::2], places[1::2]))
    elif directed:
        pairs = list(itertools.permutations(places, 2))
    else:
        pairs = list(itertools.combinations(places, 2))
    return np.array(pairs, np.int64)


def pair_scores(losses: NDArray[Any], terms: Sequence[Term], pairs: Places) -> Scores:
    """Return the score of each pair, [N, P], by losses of students against targets, [N, C, C]."""
    scores = np.zeros((len(losses), len(pairs)))
    for student, target, weight in terms:
        if student < FIRST_CROP:
            seen = pairs[:, student if target is None else target]
            scores += float(weight) * losses[:, pairs[:, student], seen].astype(np.float64)
    return scores


def crop_gains(losses: NDArray[Any], terms: Sequence[Term], pairs: Places) -> Scores:
    """Return what each small crop adds to the score of pairs [N, P, 2] of large ones, [N, P, S].

    `losses`: of small crops against large ones, [N, S, C].
    """
    gains = np.zeros((*pairs.shape[:2], losses.shape[1]))
    sample = np.arange(len(pairs))[:, None]
    for student, target, weight in terms:
        if student == FIRST_CROP:
            assert target is not None, "small crops learn from large ones"
            gains += float(weight) * losses.transpose(0, 2, 1)[sample, pairs[..., target]]
    return gains


def greatest_crops(gains: Scores, taken: int) -> tuple[Places, Scores]:
    """Return the `taken` greatest of gains [..., S], by ascending place, and their sum.

    Ties go to the first. The sum of fewer that are finite than are taken is not a number.
    """
    keys = np.where(np.isfinite(gains), gains, -np.inf)
    places = np.sort(np.argsort(-keys, axis=-1, kind="stable")[..., :taken], axis=-1)
    kept = np.take_along_axis(keys, places, axis=-1)
    enough = np.isfinite(kept).all(-1)
    return places, np.where(enough, np.where(np.isfinite(kept), kept, 0).sum(-1), np.nan)


def first_greatest(scores: Scores) -> Places:
    """Return the first place of the greatest finite score, [N]; NOTHING where there is none."""
    keys = np.where(np.isfinite(scores), scores, -np.inf)
    return np.where(np.isfinite(scores).any(-1), keys.argmax(-1), NOTHING)


def drawn(scores: Scores, uniform: Scores) -> Places:
    """Return one of the places of finite scores, [N], by a number in [0, 1); NOTHING as above."""
    finite = np.isfinite(scores)
    wanted = np.floor(uniform * finite.sum(-1))[:, None]
    found = finite & (finite.cumsum(-1) - 1 == wanted)
    return np.where(finite.any(-1), found.argmax(-1), NOTHING)


def lead(scores: Scores, taken: int) -> Scores:
    """Return by how much the best `taken` of scores [N, P] lead the second best so many, [N].

    That is by how much the last of them leads the next finite one: infinity where there is no
    next, not a number where there is no last.
    """
    keys = -np.sort(np.where(np.isfinite(scores), -scores, np.inf), axis=-1)
    if keys.shape[-1] == taken:
        keys = np.pad(keys, ((0, 0), (0, 1)), constant_values=-np.inf)
    last, following = keys[:, taken - 1], keys[:, taken]
    there = np.isfinite(last)
    return np.where(there, np.where(there, last, 0) - following, np.nan)


def pair_overlaps(boxes: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float32]:
    """Return intersection over union of crop boxes [N, C, 4] and others [N, T, 4], [N, C, T]."""
    with np.errstate(invalid="ignore"):
        return overlap(boxes[:, :, None], others[:, None]).astype(np.float32)
