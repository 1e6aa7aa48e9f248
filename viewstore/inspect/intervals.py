"""How sure a share is that was counted: its Wilson interval."""

from __future__ import annotations

import math

Z_95 = 1.959963984540054  # of the normal distribution, 2.5 % lie above it


def wilson(successes: int, count: int, z: float = Z_95) -> tuple[float, float]:
    """Return the Wilson interval of a share, 95 % by default; of none counted it is all of 0 to 1.

    Source: Wilson, JASA 22 (1927), the roots p of (p - s/n)^2 = z^2 p (1 - p) / n.
    """
    if not count:
        return 0.0, 1.0
    share, slack = successes / count, z * z / count
    centre = share + slack / 2
    half = z * math.sqrt(share * (1 - share) / count + slack / (4 * count))
    low, high = (centre - half) / (1 + slack), (centre + half) / (1 + slack)
    return min(share, max(low, 0.0)), max(share, min(high, 1.0))  # rounding left out
