"""The rows of a store that a loader goes through: all, those that are given, those that match."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from viewstore.errors import ConfigError
from viewstore.matching import matching_rows
from viewstore.store import Store


def kept_rows(
    store: Store, rows: ArrayLike | None, where: str | None, shown: Sequence[str]
) -> NDArray[np.int64] | None:
    """Return the rows in `rows` that match `where`, ascending; None if neither is given.

    `shown` are the view sets whose columns `where` means first.

    Raises:
        ConfigError: `rows` is no ascending selection of the store's rows, `where` is no filter,
            or nothing is kept.
    """
    listed = None if rows is None else _listed(rows, store.num_samples)
    if where is None:
        return listed
    found = matching_rows(store, where, shown)
    if listed is None:
        return found
    both = np.intersect1d(listed, found, assume_unique=True)
    if not len(both):
        raise ConfigError(f"rows and where must have a row in common, got where {where!r}")
    return both


def _listed(rows: ArrayLike, num_samples: int) -> NDArray[np.int64]:
    kept = np.asarray(rows)
    if kept.ndim != 1 or not len(kept) or kept.dtype.kind not in "iu":
        raise ConfigError("rows must be a non-empty, one-dimensional array of row numbers")
    kept = kept.astype(np.int64)
    if (np.diff(kept) <= 0).any() or kept[0] < 0 or kept[-1] >= num_samples:
        raise ConfigError(f"rows must be ascending, distinct and in [0, {num_samples})")
    return kept
