"""The interval of a share that was counted."""

from __future__ import annotations

import math
from statistics import NormalDist

from viewstore.errors import ConfigError


def wilson(count: int, whole: int, level: float = 0.05) -> tuple[float, float]:
    """Return the Wilson interval of a share, `count` of `whole`; of 95 % by default.

    It misses the probability behind the share in about a part `level` of all cases.
    Source: Wilson, JASA 22 (1927), the roots p of (p - s/n)^2 = z^2 p (1 - p) / n.

    Raises:
        ConfigError: Nothing was counted, or more than there is.
    """
    if not 0 <= count <= whole or not whole:
        raise ConfigError(f"an interval needs 0 <= count <= whole, got {count} of {whole}")
    z = NormalDist().inv_cdf(1 - level / 2)
    share, slack = count / whole, z * z / whole
    centre = share + slack / 2
    half = z * math.sqrt(share * (1 - share) / whole + slack / (4 * whole))
    low, high = (centre - half) / (1 + slack), (centre + half) / (1 + slack)
    return min(share, max(low, 0.0)), max(share, min(high, 1.0))  # rounding left out
