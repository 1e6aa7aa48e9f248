"""From one probe of all candidate views to the combination with the greatest loss, per sample.

The score of a combination is the method's standard loss on it, read off a table of losses of
ordered pairs, each of which is computed once. Source: Pretraining with Hard Views, section 3.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from viewstore.errors import DivergedError
from viewstore.train.distributed import any_rank
from viewstore.train.methods.base import Method
from viewstore.train.methods.traits import Statistics
from viewstore.train.plan import Pair, Plan, Row, total
from viewstore.train.strategies.combinations import Candidates, Numbers
from viewstore.train.views import Views

SCORES_AT_ONCE = 1 << 24  # of combinations times samples: bounds memory

Wanted = tuple[int, int | None]


class Entry(NamedTuple):
    """A pair of the standard plan of a combination, by places in it; `target` None: no view."""

    student: int
    target: int | None
    weight: float | Tensor


class Choice(NamedTuple):
    """What was chosen, of each sample.

    Attributes:
        views: int64 [B, m], the combination.
        pair: int64 [B], number of its pair of `Candidates.pairs`.
        losses: float32 [P, B], the best score of the combinations of each pair; infinite where
            none of its combinations was looked at. None: the choice was made without a model.
    """

    views: Tensor
    pair: Tensor
    losses: Tensor | None = None


def entries_of(method: Method, views: Views, combination: Sequence[int]) -> tuple[Entry, ...]:
    """Return the method's standard plan of a combination; that of all others has the same form."""
    rows = tuple(Row(view) for view in combination)
    place = {id(row): number for number, row in enumerate(rows)}
    plan = method.standard(views, rows)
    return tuple(
        Entry(
            place[id(plan.students[pair.student])],
            None if pair.target is None else place[id(plan.targets[pair.target])],
            pair.weight,
        )
        for pair in plan.pairs
    )


def is_directed(method: Method, views: Views, pair: Sequence[int]) -> bool:
    """Whether a pair trains another loss in the other order, as with a queue of keys.

    Where targets are the student's own forward, with gradients, a pair has no direction.
    """
    if method.traits.target in ("none", "prototype"):
        return False
    entries = {(entry.student, entry.target) for entry in entries_of(method, views, pair)}
    return entries != {(target, student) for student, target in entries}


def wanted_entries(entries: Iterable[Entry], candidates: Candidates) -> list[Wanted]:
    """Return the (student, target) views of all entries of all combinations, sorted."""
    wanted: set[Wanted] = set()
    for student, target, _ in entries:
        if target is None:
            wanted |= {(view, None) for view in _views_at(student, candidates)}
        elif student == target:
            wanted |= {(view, view) for view in _views_at(student, candidates)}
        elif max(student, target) < 2:
            wanted |= {(pair[student], pair[target]) for pair in candidates.pairs}
        else:
            both = itertools.product(_views_at(student, candidates), _views_at(target, candidates))
            wanted |= {(first, second) for first, second in both if first != second}
    return sorted(wanted, key=lambda each: (each[0], -1 if each[1] is None else each[1]))


def _views_at(place: int, candidates: Candidates) -> Sequence[int]:
    """Return the views that combinations have at a place."""
    if place < 2:
        return sorted({pair[place] for pair in candidates.pairs})
    return candidates.locals


def loss_table(
    method: Method,
    views: Views,
    candidates: Candidates,
    wanted: Sequence[Wanted],
    statistics: Statistics,
) -> Tensor:
    """Return the losses of ordered pairs of views, float32 [V, V, B] by student and target.

    Those without a target view are on the diagonal; entries that are not wanted are 0. All
    candidates are embedded once, by each net that there is.

    Raises:
        DivergedError: A loss is not a number.
    """
    rows = {view: Row(view) for view in candidates.views}
    students, targets = list(rows), sorted({t for _, t in wanted if t is not None})
    plan = Plan(
        views,
        tuple(rows.values()),
        tuple(rows[view] for view in targets),
        (),
        len(students),
        len(targets),
    )
    student, target = method.both(plan, "probe", statistics)
    table = _empty_table(views)
    with torch.no_grad(), torch.autocast(table.device.type, enabled=False):
        for s, t in wanted:
            pair = Pair(students.index(s), None if t is None else targets.index(t))
            table[s, s if t is None else t] = total(method.score(student, target, pair, plan))
    return _checked(table, views)


def feature_table(
    method: Method,
    views: Views,
    candidates: Candidates,
    wanted: Sequence[Wanted],
    statistics: Statistics,
    stage: int | None,
) -> Tensor:
    """Return negative cosines of features without a head, in the form of `loss_table`.

    `stage`: the stage of the backbone whose outputs are compared; None: its pooled features.
    """
    rows = [Row(view) for view in candidates.views]
    found = method.features(views, rows, stage=stage, statistics=statistics)
    unit = {row.view: F.normalize(each, dim=-1) for row, each in zip(rows, found, strict=True)}
    table = _empty_table(views)
    for s, t in wanted:
        assert t is not None  # where there is no target view there is no pair to compare
        table[s, t] = -(unit[s] * unit[t]).sum(-1)
    return _checked(table, views)


def _empty_table(views: Views) -> Tensor:
    count = views.num_views
    return torch.zeros((count, count, len(views)), device=views.sample.device)


def _checked(table: Tensor, views: Views) -> Tensor:
    """Return the table. Raises DivergedError: an entry is not a number, so nothing is greatest.

    All ranks raise it where one has such an entry.
    """
    if any_rank(bool(table.isnan().any())):
        raise DivergedError(
            f"the losses that views are chosen by must be numbers, got nan at step {views.at.step}",
            why="a candidate's embedding is not finite: the network has left the finite numbers",
            fix="train into another --out with a lower --lr, or with --warmup-epochs",
        )
    return table


def scores_of(table: Tensor, entries: Sequence[Entry], combinations: Tensor) -> Tensor:
    """Return the scores of combinations [P, m] on all samples, float32 [P, B]."""
    places = combinations.to(table.device).T
    return _summed([(w, table[places[s], places[s if t is None else t]]) for s, t, w in entries])


def own_scores(table: Tensor, entries: Sequence[Entry], combination: Tensor) -> Tensor:
    """Return the score of a combination of each sample, [B, m]: float32 [B]."""
    places = combination.T
    sample = torch.arange(len(combination), device=table.device)
    return _summed(
        [(w, table[places[s], places[s if t is None else t], sample]) for s, t, w in entries]
    )


def _summed(terms: Sequence[tuple[float | Tensor, Tensor]]) -> Tensor:
    """Return the weighted sum, in the order of the terms."""
    weight, value = terms[0]
    summed = weight * value
    for weight, value in terms[1:]:
        summed = summed + weight * value
    return summed


def first_greatest(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the greatest of scores [P, B] and its first place, [B] each; argmax may take others.

    Neither is defined where a score is not a number.
    """
    greatest = scores.amax(0)
    place = torch.arange(len(scores), device=scores.device)[:, None]
    return greatest, torch.where(scores == greatest, place, len(scores)).amin(0)


def best_listed(
    table: Tensor, entries: Sequence[Entry], candidates: Candidates, numbers: Numbers
) -> Choice:
    """Return the combination with the greatest score of those with these ascending numbers.

    Ties go to the first: a later one must be greater.
    """
    samples, device = table.shape[2], table.device
    best = torch.full((samples,), -torch.inf, device=device)
    chosen = torch.tensor(candidates.first, device=device).repeat(samples, 1)
    pair = torch.zeros(samples, dtype=torch.int64, device=device)
    losses = torch.full((len(candidates.pairs), samples), -torch.inf, device=device)
    step = max(1, SCORES_AT_ONCE // max(1, samples))
    for begin in range(0, len(numbers), step):
        part = numbers[begin : begin + step]
        combinations = candidates.at(part).to(device)
        pairs = torch.from_numpy(np.floor_divide(part, candidates.subsets)).to(device)
        scores = scores_of(table, entries, combinations)
        losses.scatter_reduce_(0, pairs[:, None].expand_as(scores), scores, "amax")
        greatest, place = first_greatest(scores)
        better = greatest > best
        best = torch.where(better, greatest, best)
        chosen = torch.where(better[:, None], combinations[place], chosen)
        pair = torch.where(better, pairs[place], pair)
    return Choice(chosen, pair, losses)


def best_of_all(table: Tensor, entries: Sequence[Entry], candidates: Candidates) -> Choice:
    """Return the combination with the greatest score of all, without forming them.

    With a pair of global crops, each local crop adds an amount of its own to the score: the
    greatest ones are taken. No entry may have two local crops.
    """
    device, samples = table.device, table.shape[2]
    crops = torch.tensor(candidates.locals, dtype=torch.int64, device=device)
    found = []
    for pair in candidates.pairs:
        heads = torch.tensor(pair, device=device).repeat(samples, 1)
        if not candidates.taken:
            found.append(heads)
            continue
        views = [torch.tensor(pair[0], device=device), torch.tensor(pair[1], device=device), crops]
        gains = _summed(
            [
                (w, table[views[s], views[s if t is None else t]])
                for s, t, w in entries
                if 2 in (s, t)
            ]
        )
        order = gains.argsort(dim=0, descending=True, stable=True)[: candidates.taken]
        found.append(torch.cat([heads, crops[order.sort(dim=0).values].T], dim=1))
    losses = torch.stack([own_scores(table, entries, each) for each in found])
    _, number = first_greatest(losses)
    every = torch.arange(samples, device=device)
    return Choice(torch.stack(found)[number, every], number, losses)
