"""Crops of crops: where in the source image a crop of a cached view lies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.store import Store
from viewstore.view_set import ViewSet


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


def mirrored_views(store: Store, view_set: ViewSet) -> NDArray[np.bool_] | None:
    """Return which views show their box from right to left, [N, V]; None: no view does.

    That is the exclusive or of the flips along the chain of parents.

    Raises:
        ConfigError: The store has no longer the view set that these views were made from.
    """
    columns = view_set.params
    own = columns["flip"] == 1 if "flip" in columns else None
    if "parent" not in columns:
        return own
    parent = columns["parent"].astype(np.int64)
    if view_set.plan.parent is not None:
        above = mirrored_views(store, store.view_set(view_set.plan.parent["view_set"]))
        return own if above is None else _through(own, above, parent)
    if own is None:
        return None
    mirrored: NDArray[np.bool_] = own
    chain = parent
    for _ in range(view_set.num_views):  # parents in this very set; no chain is longer
        if not (chain >= 0).any():
            break
        mirrored = mirrored ^ _pick(own, chain)
        chain = np.where(chain >= 0, _pick(parent, chain), -1)
    return mirrored


def _through(
    own: NDArray[np.bool_] | None, above: NDArray[np.bool_], parent: NDArray[np.int64]
) -> NDArray[np.bool_]:
    inherited = _pick(above, parent)
    return inherited if own is None else own ^ inherited


def _pick(values: NDArray[Any], parent: NDArray[np.int64]) -> NDArray[Any]:
    """Return the value of each view's parent; that of view 0, or False, where it has none."""
    picked = np.take_along_axis(values, np.maximum(parent, 0), axis=1)
    return picked & (parent >= 0) if picked.dtype == np.bool_ else picked
