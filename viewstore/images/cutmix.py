"""The geometry of CutMix: what share of a view is kept, and the box where another is pasted.

Source: CutMix (arXiv:1905.04899); the distribution of shares as in HEXA, section 3.2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
Values = NDArray[np.float64]
BETA = (5, 3)
UNIFORMS = sum(BETA) - 1  # numbers that a share is made of


def shares_of(uniform: Values) -> Values:
    """Return shares to keep, of Beta(5, 3), [..], from uniform numbers [.., UNIFORMS].

    Of a + b - 1 uniform numbers, the a-th smallest is distributed as Beta(a, b).
    """
    return np.sort(uniform, axis=-1)[..., BETA[0] - 1]


def boxes_of(shares: Values, centres: Values, height: int, width: int) -> Numbers:
    """Return boxes (x0, y0, x1, y1) in views of `height` and `width` pixels, half open, [B, 4].

    They cover about the share that is not kept, less where the view's edge cuts them; all 0 where
    they are empty.

    Args:
        shares: Shares to keep, [B].
        centres: Centres (y, x) in [0, 1), [B, 2].
        height: Of the views.
        width: Of the views.
    """
    size = np.array([width, height])
    half = (size * np.sqrt(1 - shares)[:, None]).astype(np.int64) // 2
    centre = np.floor(centres[:, ::-1] * size).astype(np.int64)  # x, y
    low, high = (np.clip(centre + sign * half, 0, size) for sign in (-1, 1))
    return np.asarray(np.concatenate([low, high], 1) * (high > low).all(1, keepdims=True))


def kept_shares(boxes: Numbers, height: int, width: int) -> Values:
    """Return the exact share of each view's area outside of its box, [B]."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return 1 - area / (height * width)
