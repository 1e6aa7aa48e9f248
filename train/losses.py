"""Losses of embeddings, one value per sample: no state, no reduction, no distributed call."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Negatives = Literal["both", "other"]


class Contrast(NamedTuple):
    """A contrastive loss per anchor, [N], in nats: `pull` + `push`.

    Attributes:
        cosine: Of the anchor and its positive.
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
        own: Anchor i is row `own` + i of the pool, where it is left out; None if it is not there.
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
    """Return the InfoNCE loss of the views `anchor` against the views `positive`, unit rows [N, D].

    `negatives`: "both" views of the other samples (NT-Xent), or those of the "other" view only.
    """
    if negatives == "other":
        return contrast(anchor, positive, positive, own=None, temperature=temperature)
    pool = torch.cat([anchor, positive])
    return contrast(anchor, positive, pool, own=0, temperature=temperature)


def nt_xent(first: Tensor, second: Tensor, *, temperature: float = 0.5) -> Tensor:
    """Return the NT-Xent loss of each sample, [N], in nats.

    `first`, `second`: [N, D], float32 or float64, normalised here; rows i are a positive pair,
    the 2N - 2 others are negatives. The mean is the caller's: a strategy may choose per sample.
    Source: equation 1 of arXiv:2002.05709.
    """
    return _symmetric(first, second, "both", temperature)


def info_nce(first: Tensor, second: Tensor, *, temperature: float = 0.5) -> Tensor:
    """Return the InfoNCE loss of each sample, [N], in nats: as `nt_xent`, but the negatives of an
    anchor are the N - 1 other rows of the other view. Source: equation 4 of arXiv:1807.03748.
    """
    return _symmetric(first, second, "other", temperature)


def _symmetric(first: Tensor, second: Tensor, negatives: Negatives, temperature: float) -> Tensor:
    u, v = F.normalize(first, dim=1), F.normalize(second, dim=1)
    there = pair_contrast(u, v, negatives=negatives, temperature=temperature)
    back = pair_contrast(v, u, negatives=negatives, temperature=temperature)
    return (there.pull + there.push + back.pull + back.push) / 2
