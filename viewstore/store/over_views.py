"""Reductions over the views of each sample."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def over_views(
    operation: np.ufunc, values: NDArray[Any], dtype: DTypeLike | None = None
) -> NDArray[Any]:
    """Return values [N, V] reduced over their views, [N]: by `np.logical_or` or another one.

    Numpy takes several times as long to reduce rows of a few values each, and so they are laid out
    view by view. `dtype`: Of the result; None: as the operation has it.
    """
    found: NDArray[Any] = operation.reduce(np.ascontiguousarray(values.T), axis=0, dtype=dtype)
    return found
