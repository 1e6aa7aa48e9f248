"""Losses of embeddings, one value per anchor: no state, no reduction, no distributed call."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Negatives = Literal["both", "other"]


class Contrast(NamedTuple):
    """A contrastive loss per anchor, [N], in nats: `pull` + `push`.

    Attributes:
        cosine: Cosine of the anchor and its positive.
        pull: -cosine / temperature.
        push: Logarithm of the sum of exp(cosine / temperature) over the pool.
    """

    cosine: Tensor
    pull: Tensor
    push: Tensor


def contrast(
    anchor: Tensor, positive: Tensor, pool: Tensor, *, own: int | None, temperature: float
) -> Contrast:
    """Return the two parts of the InfoNCE loss of each anchor.

    Args:
        anchor: Unit rows [N, D].
        positive: Unit rows [N, D]; row i belongs to anchor i and must be in the pool.
        pool: Unit rows [M, D] that the denominator runs over.
        own: Anchor i is row `own` + i of the pool and left out there; None if it is no row of it.
        temperature: Above 0.
    """
    similarity = anchor @ pool.T / temperature
    if own is not None:
        rows = torch.arange(len(anchor), device=anchor.device)
        similarity = similarity.index_put((rows, rows + own), similarity.new_tensor(-torch.inf))
    cosine = (anchor * positive).sum(1)
    return Contrast(cosine, -cosine / temperature, similarity.logsumexp(1))


def pair_contrast(
    anchor: Tensor, positive: Tensor, *, negatives: Negatives, temperature: float
) -> Contrast:
    """Return the loss of the views `anchor` against the views `positive`, unit rows [N, D].

    `negatives`: "both" views of the other samples (NT-Xent, equation 1 of arXiv:2002.05709), or
    those of the "other" view only (InfoNCE, equation 4 of arXiv:1807.03748).
    """
    if negatives == "other":
        return contrast(anchor, positive, positive, own=None, temperature=temperature)
    pool = torch.cat([anchor, positive])
    return contrast(anchor, positive, pool, own=0, temperature=temperature)
