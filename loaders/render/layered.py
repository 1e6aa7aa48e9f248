"""Policies rendered on cached views (`then=`), and where their crops lie in the source image."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.images.policies import Drawn, Policy
from viewstore.loaders.pipeline.buffers import Buffer, Scratch
from viewstore.loaders.pipeline.clock import Clock
from viewstore.loaders.plan.mixed import ViewSetGroup
from viewstore.loaders.plan.rows import Rows
from viewstore.loaders.plan.slots import OnlineSlot
from viewstore.loaders.read.reader import CachedReader
from viewstore.loaders.read.stored import Damage
from viewstore.loaders.render.online import by_sample
from viewstore.store.params import Params
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

# Says of rows [B] which of their views show their box from right to left, [B, V].
Mirrored = Callable[[Rows], NDArray[np.bool_]]
SCRATCH_BYTES = 1 << 20  # what one thread renders from, small enough to stay in its cache


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
    top, left, height, width = np.asarray(local, np.float64).T
    left = np.where(mirrored, size[1] - left - width, left)
    parent_top, parent_left, parent_height, parent_width = np.asarray(parent, np.float64).T
    y_scale, x_scale = parent_height / size[0], parent_width / size[1]
    box = (
        parent_top + top * y_scale,
        parent_left + left * x_scale,
        height * y_scale,
        width * x_scale,
    )
    return np.stack(box, axis=1).astype(np.float32)


def mirrored_views(store: Store, view_set: ViewSet) -> Mirrored | None:
    """Return which views of a set show their box from right to left; None: no view does.

    A view does if the number of flips along its chain of parents is odd.

    Raises:
        ConfigError: The store no longer has the view set that these views were made from.
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
    """Follow parents within one view set."""
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


def mirrored_in_group(store: Store, group: ViewSetGroup) -> Mirrored | None:
    """Return `mirrored_views` of a group of view sets, by the numbers that it gives the views."""
    parts = [mirrored_views(store, each) for each in group.view_sets]
    if all(part is None for part in parts):
        return None
    if len(parts) == 1:
        return parts[0]
    counts = [each.num_views for each in group.view_sets]

    def mirrored(rows: Rows) -> NDArray[np.bool_]:
        found = [
            np.zeros((len(rows), count), np.bool_) if part is None else part(rows)
            for part, count in zip(parts, counts, strict=True)
        ]
        return np.concatenate(found, axis=1)

    return mirrored


def only_flips(then: OnlineSlot | None, stored: tuple[int, int]) -> bool:
    """Whether nothing, or only a flip, is rendered on views of size `stored` (height, width)."""
    if then is None:
        return True
    policy = then.policy
    plain = isinstance(policy, Policy) and not policy.crop and not policy.colours
    return plain and then.size == stored


def render_cached(
    slot: OnlineSlot,
    reader: CachedReader,
    rows: NDArray[np.int64],
    views: NDArray[np.int64],
    drawn: Drawn,
    out: Buffer,
    scratch: Scratch,
    clock: Clock,
    damaged: Damage | None = None,
) -> None:
    """Render the policy of `slot` on cached views.

    Args:
        slot: The slot.
        reader: Reads the cached views; it counts its own seconds.
        rows: Rows, [B].
        views: View number of each row, [B].
        drawn: Params of the policy, [B, ...].
        out: Takes the views, uint8 [B, h, w, C].
        scratch: Memory for the cached views.
        clock: Takes the seconds of rendering.
        damaged: Takes the errors of damaged rows by index. None: the first one is raised.

    Raises:
        FormatError: A cached view is damaged, and `damaged` is None.
    """
    started = time.perf_counter()
    read_seconds = 0.0
    plain = by_sample(drawn)
    at_once = max(1, SCRATCH_BYTES // int(np.prod(reader.shape)))
    for begin in range(0, len(rows), at_once):
        part = slice(begin, begin + at_once)
        stored = scratch.take(len(rows[part]), reader.shape)
        found: Damage | None = None if damaged is None else {}
        read_began = time.perf_counter()
        reader.read(rows[part], views[part, None], [stored], None, found)
        read_seconds += time.perf_counter() - read_began
        for i, image in enumerate(stored, begin):
            slot.policy.render(image, plain[i], slot.size, slot.filter, out[i])
        if damaged is not None:
            damaged |= {begin + i: error for i, error in (found or {}).items()}
    clock.add(render_seconds=time.perf_counter() - started - read_seconds)


def delivered_params(
    slot: OnlineSlot,
    drawn: Drawn,
    parent: NDArray[Any],
    mirrored: NDArray[np.bool_],
    size: tuple[int, int],
) -> Drawn:
    """Return the params that are delivered for a slot that renders cached views.

    "crop_box" is in source pixels, composed with the box of the cached view; "crop_local" is the
    box as it was drawn. Every other param is that of the last rendering alone.

    Args:
        slot: The slot.
        drawn: Params as drawn, [B, ...].
        parent: Box of each cached view in source pixels, [B, 4].
        mirrored: Whether each cached view shows its box from right to left, [B].
        size: Height and width of the cached views.
    """
    local = drawn["crop_box"]
    return {
        **drawn,
        "crop_box": compose_boxes(parent, mirrored, size, local),
        "crop_local": local.astype(np.int32) if slot.policy.whole_pixels else local,
    }
