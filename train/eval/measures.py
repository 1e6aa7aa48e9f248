"""Numbers that say how healthy an encoder is, and how sure a share is. Pure functions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

RESOLVED = 1e-6  # of the length of features: smaller differences are rounding in float32


def zstd(projections: Tensor) -> float:
    """Return the mean over dimensions of std(u) * sqrt(D), u the unit rows of [N, D].

    It is 1 where directions are spread evenly, 0 where all are one. Source: SimSiam
    (arXiv:2011.10566), section 4.1; the deviation is that of the N rows, divided by N.
    """
    unit = F.normalize(projections.double(), dim=1)
    return float(unit.std(0, correction=0).mean() * math.sqrt(unit.shape[1]))


def effective_rank(features: Tensor) -> float:
    """Return exp(entropy of the normalised eigenvalues of the covariance) of rows [N, F].

    It lies between 1 and min(N - 1, F); 0 says that all rows are one, up to rounding. Source: Roy
    and Vetterli, "The effective rank", EUSIPCO 2007, with eigenvalues of the covariance.
    """
    rows = features.double()
    centred = rows - rows.mean(0)
    gram = centred.T @ centred if len(rows) > rows.shape[1] else centred @ centred.T
    values = torch.linalg.eigvalsh(gram)
    values = values[values > RESOLVED**2 * rows.square().sum()]
    if not len(values):
        return 0.0
    share = values / values.sum()
    return float(torch.exp(-(share * share.log()).sum()))


def share_error(share: float, count: int) -> float:
    """Return the standard error of a share of `count` samples: sqrt(p (1 - p) / n)."""
    return math.sqrt(share * (1 - share) / count)
