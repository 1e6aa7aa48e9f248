"""Policies rendered on views (`then=`, `on=`), and where their crops lie in the source image."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import FormatError
from viewstore.images.boxes import compose_boxes
from viewstore.images.policies import Drawn, Policy
from viewstore.loaders.pipeline.buffers import Buffer, Scratch
from viewstore.loaders.pipeline.clock import Clock
from viewstore.loaders.plan.mixed import ViewSetGroup
from viewstore.loaders.plan.rows import Rows
from viewstore.loaders.plan.slots import LinkedSlot, OnlineSlot
from viewstore.loaders.read.reader import CachedReader
from viewstore.loaders.read.stored import Damage
from viewstore.loaders.render.online import by_sample
from viewstore.store.lineage import check_fresh
from viewstore.store.params import Params
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

# Says of rows [B] which of their views show their box from right to left, [B, V].
Mirrored = Callable[[Rows], NDArray[np.bool_]]
SCRATCH_BYTES = 1 << 20  # what one thread renders from, small enough to stay in its cache


@dataclass(frozen=True, kw_only=True, eq=False)
class Placement:
    """Where views lie in their source images.

    Attributes:
        box: Top, left, height and width in source pixels, [B, 4].
        mirrored: Whether each view shows its box from right to left, [B].
        size: Height and width of the views.
    """

    box: NDArray[Any]
    mirrored: NDArray[np.bool_]
    size: tuple[int, int]

    @classmethod
    def in_source(
        cls, drawn: Drawn, heights: NDArray[Any], widths: NDArray[Any], size: tuple[int, int]
    ) -> Placement:
        """Return where the views lie that a policy with these params renders on source images.

        `heights` and `widths` are those of the images, [B].
        """
        box = drawn.get("crop_box")
        if box is None:
            corner = np.zeros(len(heights))
            box = np.stack([corner, corner, heights, widths], axis=1)
        return cls(box=box, mirrored=_mirrors(drawn, len(box)), size=size)

    def local(self, drawn: Drawn) -> NDArray[Any]:
        """Return the box in these views that params say, [B, 4]; all of it if they say none."""
        if "crop_box" in drawn:
            return drawn["crop_box"]
        return np.tile(np.array([0, 0, *self.size], np.float32), (len(self.box), 1))

    def rendered(self, drawn: Drawn, size: tuple[int, int]) -> Placement:
        """Return where the views lie that are rendered on these by a policy with these params."""
        mirrored = self.mirrored ^ _mirrors(drawn, len(self.box))
        box = compose_boxes(self.box, self.mirrored, self.size, self.local(drawn))
        return Placement(box=box, mirrored=mirrored, size=size)


def _mirrors(drawn: Drawn, count: int) -> NDArray[np.bool_]:
    """Return whether params mirror each of `count` views, [B]."""
    return np.asarray(drawn["flip"] == 1) if "flip" in drawn else np.zeros(count, np.bool_)


def mirrored_views(store: Store, view_set: ViewSet) -> Mirrored | None:
    """Return which views of a set show their box from right to left; None: no view does.

    A view does if the number of flips along its chain of parents is odd.

    Raises:
        ConfigError: The store no longer has the view set that these views were made from, or other
            bytes of it.
    """
    params = view_set.params
    own = partial(_flips, params) if "flip" in params else None
    if "parent" not in params:
        return own
    if view_set.plan.parent is not None:
        check_fresh(view_set, store.view_sets)
        above = mirrored_views(store, view_set.parent)
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
    """Return the value of each view's parent; that of view 0, or False, where it has none.

    Raises:
        FormatError: A parent is no view.
    """
    if (parent >= values.shape[1]).any():
        raise FormatError(
            f"column parent holds {int(parent.max())}, there are {values.shape[1]} views",
            code="VS203",
            why="it says from which view each was made",
            fix="viewstore verify STORE --content",
        )
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


def render_linked(
    slots: Sequence[LinkedSlot], drawn: Sequence[Drawn], out: Sequence[Buffer], clock: Clock
) -> None:
    """Render slots on the pixels of earlier ones.

    Args:
        slots: The slots, ascending, so that each finds what it is rendered on.
        drawn: Params of each of them, [B, ...].
        out: The views of every slot by number, uint8 [B, h, w, 3]; takes those of `slots`.
        clock: Takes the seconds.
    """
    began = time.perf_counter()
    for slot, params in zip(slots, drawn, strict=True):
        below, views = out[slot.on], out[slot.slot]
        for i, one in enumerate(by_sample(params) or [{}] * len(views)):
            slot.policy.render(below[i], one, slot.size, slot.filter, views[i])
    clock.add(render_seconds=time.perf_counter() - began)


def delivered_params(slot: OnlineSlot, drawn: Drawn, placement: Placement) -> Drawn:
    """Return the params that are delivered for a slot that renders views, [B, ...].

    "crop_box" is in source pixels, composed with the box of those views; "crop_local" is the box
    as it was drawn. Every other param is that of the last rendering alone.

    Args:
        slot: The slot.
        drawn: Params as drawn, [B, ...].
        placement: Where the views lie that it is rendered on.
    """
    local = placement.local(drawn)
    return {
        **drawn,
        "crop_box": placement.rendered(drawn, slot.size).box,
        "crop_local": local.astype(np.int32) if slot.policy.whole_pixels else local,
    }
