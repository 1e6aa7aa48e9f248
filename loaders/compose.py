"""Crops of crops: where in the source image a crop of a cached view lies."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.params import Params
from viewstore.store import Store
from viewstore.view_set import ViewSet

Rows = NDArray[np.int64]
Mirrored = Callable[[Rows], NDArray[np.bool_]]  # [B] -> [B, V]


def compose_boxes(
    parent: NDArray[Any],
    mirrored: NDArray[np.bool_],
    size: tuple[int, int],
    local: NDArray[Any],
) -> NDArray[np.float32]:
    """Return boxes (top, left, height, width) in source pixels, float32 [B, 4].

    Args:
        parent: Box of the rendering that was cropped, in source pixels, [B, 4].
        mirrored: Whether that rendering shows its box from right to left, [B].
        size: Height and width of that rendering.
        local: Box in its pixels, [B, 4].
    """
    top, left, tall, wide = np.asarray(local, np.float64).T
    left = np.where(mirrored, size[1] - left - wide, left)
    first_row, first_column, height, width = np.asarray(parent, np.float64).T
    down, right = height / size[0], width / size[1]
    box = (first_row + top * down, first_column + left * right, tall * down, wide * right)
    return np.stack(box, axis=1).astype(np.float32)


def mirrored_views(store: Store, view_set: ViewSet) -> Mirrored | None:
    """Return what says of rows which views show their box from right to left; None: no view does.

    That is the exclusive or of the flips along the chain of parents.

    Raises:
        ConfigError: The store has no longer the view set that these views were made from.
    """
    params = view_set.params
    own = partial(_flips, params) if "flip" in params else None
    if "parent" not in params:
        return own
    if view_set.plan.parent is not None:
        above = mirrored_views(store, store.view_set(view_set.plan.parent["view_set"]))
        return own if above is None else partial(_through, params, own, above)
    return None if own is None else partial(_chained, params, view_set.num_views)


def _flips(params: Params, rows: Rows) -> NDArray[np.bool_]:
    return np.asarray(params.take("flip", rows) == 1)


def _parents(params: Params, rows: Rows) -> NDArray[np.int64]:
    return params.take("parent", rows).astype(np.int64)


def _through(
    params: Params, own: Mirrored | None, above: Mirrored, rows: Rows
) -> NDArray[np.bool_]:
    inherited = _pick(above(rows), _parents(params, rows))
    return inherited if own is None else own(rows) ^ inherited


def _chained(params: Params, num_views: int, rows: Rows) -> NDArray[np.bool_]:
    """Follow parents in this very set."""
    own, parent = _flips(params, rows), _parents(params, rows)
    mirrored, chain = own, parent
    for _ in range(num_views):  # no chain is longer
        if not (chain >= 0).any():
            break
        mirrored = mirrored ^ _pick(own, chain)
        chain = np.where(chain >= 0, _pick(parent, chain), -1)
    return mirrored


def _pick(values: NDArray[Any], parent: NDArray[np.int64]) -> NDArray[Any]:
    """Return the value of each view's parent; that of view 0, or False, where it has none."""
    picked = np.take_along_axis(values, np.maximum(parent, 0), axis=1)
    return picked & (parent >= 0) if picked.dtype == np.bool_ else picked
