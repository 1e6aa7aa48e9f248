"""One loss for everything: a plan of weighted pairs, scored by a method, summed and averaged.

L = 1/B * sum over samples b and pairs p of weight[p, b] * term_p[p, b]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.train.method import Emb, Method, PairTerms, Pool
from viewstore.train.views import ViewBatch

Term = Literal["total", "pos"]
TERMS: dict[Term, Callable[[PairTerms], Tensor]] = {
    "total": lambda terms: terms.pos + terms.rest,
    "pos": lambda terms: terms.pos,
}


@dataclass
class Plan:
    """What to train on in one step.

    Attributes:
        views: Views of the student, int64 [V'], or [V', B] where they are chosen per sample.
        targets: Views of the target side; the same as `views` for methods without one.
        pairs: int64 [P, 2]: positions in (views, targets).
        weight: float32 [P] or [P, B].
        term: What each pair contributes, [P].
        pool: Rows in the in-batch denominators.
        batch: The views that `views` and `targets` number: the loader's, or what the strategy
            made of them.
    """

    views: Tensor
    targets: Tensor
    pairs: Tensor
    weight: Tensor
    term: tuple[Term, ...]
    batch: ViewBatch
    pool: Pool = "pair"


class Objective(NamedTuple):
    """The loss of a plan, and the embeddings that `commit` wants."""

    loss: Tensor
    student: Emb
    target: Emb


def objective(method: Method, plan: Plan) -> Objective:
    """Encode the views of a plan, score its pairs and return its loss, a scalar."""
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
    """Return the loss of scored pairs. Raises ConfigError: the scores have no such part."""
    if isinstance(scores, PairTerms):
        chosen = [TERMS[term](scores)[pair] for pair, term in enumerate(plan.term)]
        terms = torch.stack(chosen)
    elif set(plan.term) == {"total"}:
        terms = scores
    else:
        raise ConfigError(f"scores in parts are needed for the terms {sorted(set(plan.term))}")
    weight = plan.weight.to(terms.device)
    if weight.ndim == 1:
        weight = weight[:, None]
    return (weight * terms).sum(0).mean()
