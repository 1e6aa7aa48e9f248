"""The one loss of all methods and strategies: weighted pairs, summed, averaged over samples.

L = 1/B * sum over samples b and pairs p of weight[p, b] * term_p[p, b]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.train.methods.base import Emb, Method, PairTerms, Pool
from viewstore.train.views import ViewBatch

Term = Literal["total", "pos"]
TERMS: dict[Term, Callable[[PairTerms], Tensor]] = {
    "total": lambda terms: terms.pos + terms.rest,
    "pos": lambda terms: terms.pos,
}


@dataclass
class Plan:
    """The pairs of views that one step trains on: what a strategy returns.

    Attributes:
        views: Views of the student, int64 [V'], or [V', B] where they are chosen per sample.
        targets: Views of the target side; the same as `views` for methods without one.
        pairs: int64 [P, 2]: positions in (views, targets).
        weight: float32 [P] or [P, B].
        term: What each pair contributes, [P].
        batch: The views that `views` and `targets` number.
        pool: Rows in the in-batch denominators.
    """

    views: Tensor
    targets: Tensor
    pairs: Tensor
    weight: Tensor
    term: tuple[Term, ...]
    batch: ViewBatch
    pool: Pool = "pair"


class Objective(NamedTuple):
    """The loss of a plan, a scalar, and the embeddings for `Method.commit`."""

    loss: Tensor
    student: Emb
    target: Emb


def objective(method: Method, plan: Plan) -> Objective:
    """Return the loss of a plan: its views are embedded and its pairs scored by `method`.

    Raises:
        ConfigError: The plan does not fit the method's traits.
    """
    student = method.encode(plan.batch, plan.views)
    if method.traits.target == "none":
        if not torch.equal(plan.views, plan.targets):
            raise ConfigError(f"{method.traits.name} has no target net: targets must be the views")
        target = student
    else:
        target = method.encode(plan.batch, plan.targets, net="target", grad=False)
    scores = method.score(student, target, plan.pairs, pool=plan.pool)
    return Objective(reduce_terms(scores, plan), student, target)


def reduce_terms(scores: PairTerms | Tensor, plan: Plan) -> Tensor:
    """Return the loss, a scalar, of the scores of a plan's pairs, PairTerms or [P, B].

    Raises:
        ConfigError: The plan wants a part of scores that come as totals.
    """
    if isinstance(scores, PairTerms):
        terms = torch.stack([TERMS[term](scores)[pair] for pair, term in enumerate(plan.term)])
    elif set(plan.term) == {"total"}:
        terms = scores
    else:
        raise ConfigError(f"scores in parts are needed for the terms {sorted(set(plan.term))}")
    weight = plan.weight.to(terms.device)
    if weight.ndim == 1:
        weight = weight[:, None]
    return (weight * terms).sum(0).mean()
