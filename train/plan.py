"""What one step trains on: rows of views, and weighted ordered pairs of them.

A method makes its standard plan, a strategy rewrites it, and the method scores its pairs:
L = 1/B * sum over samples b and pairs p of weight_p[b] * term_p(score_p)[b].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

from viewstore.train.views import Views

Domain = Literal["clean", "adv"]
AlignScale = Literal["paper", "exact"]
LEAST_SQUARE = 1e-12  # of distances: their root is singular at 0


class Scores(NamedTuple):
    """The scores of one pair, float32 [B]; the method's own loss is `pull` + `push`.

    Attributes:
        cosine: Of the student's and the target's embedding.
        pull: The part that draws the two together; the whole where a loss has no parts.
        push: The part that keeps others apart; 0 where there is none.
        squared_distance: |u_s - u_t|^2 of the unit vectors, from their difference.
        scale: -d pull / d cosine, 0 where a loss has no parts.
        inverse_tau: 1 / temperature, 1 where there is none.
    """

    cosine: Tensor
    pull: Tensor
    push: Tensor
    squared_distance: Tensor
    scale: float
    inverse_tau: float


Term = Callable[[Scores], Tensor]


def total(scores: Scores) -> Tensor:
    """Return the method's own loss, [B]."""
    return scores.pull + scores.push


def pull(scores: Scores) -> Tensor:
    """Return the part of the loss that draws the pair together, [B]."""
    return scores.pull


def cosine(scores: Scores) -> Tensor:
    """Return the negative cosine of the pair, [B]."""
    return -scores.cosine


def graded(psi: Tensor, align_scale: AlignScale, *, push: bool = True) -> Term:
    """Return the term whose pull is c * (d - (1 - psi))^2, d the distance of the unit vectors.

    Source: Graded Similarity, equations 7, 8 and 10. Its gradient is 0 where d is below 1e-6.

    Args:
        psi: How similar the views of each sample are to become, in [0, 1], float32 [B].
        align_scale: c is 1 / temperature, or 1 without one ("paper"), or what makes the term
            that of the method's own loss at psi = 1 ("exact").
        push: Add the part that keeps others apart.
    """

    def term(scores: Scores) -> Tensor:
        distance = scores.squared_distance.clamp(min=LEAST_SQUARE).sqrt()
        factor = scores.inverse_tau if align_scale == "paper" else scores.scale / 2
        drawn = factor * (distance - (1 - psi)).square()
        return drawn + scores.push if push else drawn

    return term


@dataclass(frozen=True, eq=False)
class Row:
    """One embedding of every sample.

    Attributes:
        view: A view, or one for each sample, int64 [B], all of one size and role.
        bn: Domain of batch norms that embeds it.
        made_from: Place in `Plan.students` of the clean row whose views these were made from
            within the step (adversarial, CutMix); None: it is a row of its own.
        mixed_with: The sample whose pixels are mixed in, int64 [B]; None: none (CutMix).
    """

    view: int | Tensor
    bn: Domain = "clean"
    made_from: int | None = None
    mixed_with: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Pair:
    """An ordered pair: the student's row learns from the target's.

    Attributes:
        student: Place in `Plan.students`.
        target: Place in `Plan.targets`; None: the method's own, such as a prototype.
        weight: A number, or one for each sample, float32 [B].
        term: What of the scores enters the loss.
        pool: Places in `Plan.students` of the rows in in-batch denominators; None: the two rows
            of the pair.
        partner: The sample whose target it is, int64 [B]; None: that of each sample itself.
        partner_row: The same by row of the store, for the method's own targets alone.
        detach: No gradient into the target, whatever the method.
    """

    student: int
    target: int | None
    weight: float | Tensor = 1.0
    term: Term = total
    pool: tuple[int, ...] | None = None
    partner: Tensor | None = None
    partner_row: Tensor | None = None
    detach: bool = False


@dataclass(frozen=True)
class Plan:
    """The rows and pairs of one step.

    Stages of a strategy append rows; the first ones stay those of the method's standard plan,
    which alone enter queues, centres and memories.

    Attributes:
        views: What rows number.
        students: Rows that the student embeds.
        targets: Rows of the target side. Where that is the same forward as the student's
            (`Traits.target` none or stopgrad), a row that is in both is embedded once.
        pairs: What is trained on.
        base_students, base_targets: How many of the rows are those of the standard plan.
        log: Values for the log of the run, such as the losses a choice was made by.
    """

    views: Views
    students: tuple[Row, ...]
    targets: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    base_students: int
    base_targets: int
    log: Mapping[str, Tensor] = field(default_factory=dict)

    def is_base(self, pair: Pair) -> bool:
        """Whether a pair is of rows of the standard plan alone."""
        target = -1 if pair.target is None else pair.target
        return pair.student < self.base_students and target < self.base_targets

    def is_within(self, pair: Pair) -> bool:
        """Whether a pair is of a row with itself, which is another loss: that of its patches."""
        return pair.target is not None and (
            self.students[pair.student] is self.targets[pair.target]
        )
