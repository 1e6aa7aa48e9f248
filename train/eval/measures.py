"""Numbers that say how healthy an encoder is, and how sure a share is. Pure functions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from viewstore.errors import ConfigError

Z_95 = 1.959963984540054  # the normal quantile of a two-sided interval of 95 %
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


def wilson(successes: int, count: int, z: float = Z_95) -> tuple[float, float]:
    """Return the Wilson interval of a share, 95 % by default.

    Source: Wilson, JASA 22 (1927), the roots p of (p - s/n)^2 = z^2 p (1 - p) / n.

    Raises:
        ConfigError: There are no samples, or more successes than samples.
    """
    if not 0 <= successes <= count or not count:
        raise ConfigError(f"an interval needs 0 <= successes <= count, got {successes} of {count}")
    share, slack = successes / count, z * z / count
    centre = share + slack / 2
    half = z * math.sqrt(share * (1 - share) / count + slack / (4 * count))
    low, high = (centre - half) / (1 + slack), (centre + half) / (1 + slack)
    return min(share, max(low, 0.0)), max(share, min(high, 1.0))  # rounding left out
