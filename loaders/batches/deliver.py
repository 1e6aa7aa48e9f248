"""Turns filled drafts into batches: pixels as tensors, views with params, status and origin."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewstore.images.policies import Drawn
from viewstore.loaders.batches.batch import Batch, View, ViewParams
from viewstore.loaders.plan.ahead import part_of
from viewstore.loaders.plan.cut import Cut
from viewstore.loaders.plan.slots import CachedSlots, OnlineSlot, rendered_columns
from viewstore.loaders.plan.state import State
from viewstore.loaders.read.reader import CachedReader
from viewstore.loaders.read.set_reader import ViewSetReader
from viewstore.loaders.render.layered import Mirrored, delivered_params

if TYPE_CHECKING:
    from viewstore.loaders.batches.draft import Draft

Sizes = Callable[[NDArray[np.int64]], tuple[NDArray[Any], NDArray[Any]]]


class CachedDelivery:
    """Delivers the views of one slot of a view set."""

    def __init__(
        self,
        slots: CachedSlots,
        number: int,
        reader: CachedReader,
        mirrored: Mirrored | None,
        sizes: Sizes,
    ) -> None:
        """Deliver the slot with index `number` in `slots`.

        Args:
            slots: The slots of the view set.
            number: Which of them.
            reader: Reads the view set.
            mirrored: Says of rows which views show their box from right to left, if any does.
            sizes: Returns height and width of the source images of rows.
        """
        public = slots.public[number]
        self.slot = slots.slots[number]
        self.then = slots.then[number]
        self._role = public.role
        self._reader = reader
        self._mirrored = mirrored
        self._sizes = sizes
        self._size = slots.group.height, slots.group.width
        self._source = f"cached:{slots.group.name}"
        if self.then is not None:
            self._source += f"+{self.then.policy.name}"
        self._drawn = rendered_columns(self.then)
        self._names = public.columns
        # What would touch a disk is gathered at once, by a thread of the loader.
        large = {name for name in slots.params if not reader.in_memory(name)}
        self._eager = tuple(sorted(large - set(self._drawn)))

    def views(
        self,
        pixels: Sequence[Tensor],
        rows: NDArray[np.int64],
        views: NDArray[np.int64],
        drawn: Drawn,
        colourless: bool,
    ) -> list[View]:
        """Return the views `views` [B] of `rows` [B], of one batch after another.

        `pixels` are those of each batch, `drawn` the params that were rendered on all of them.
        """
        sizes = [len(each) for each in pixels]
        numbers = self._reader.own_numbers(views)
        columns = zip(
            pixels,
            self._params(sizes, rows, views, drawn),
            self._column("status", 1, np.uint8, rows, views).split_with_sizes(sizes),
            self._column("parent", -1, np.int64, rows, views).split_with_sizes(sizes),
            torch.from_numpy(numbers).split_with_sizes(sizes),
            strict=True,
        )
        return [
            View(
                pixels=tensor,
                params=params,
                status=status,
                role=self._role,
                parent=parent,
                view=view,
                source=self._source,
                colourless=colourless,
            )
            for tensor, params, status, parent, view in columns
        ]

    def _params(
        self,
        sizes: list[int],
        rows: NDArray[np.int64],
        views: NDArray[np.int64],
        drawn: Drawn,
    ) -> Iterator[ViewParams]:
        """Yield the params of each batch."""
        for begin, end in bounds_of(sizes):
            gather = partial(self._gather, rows[begin:end], views[begin:end], begin, drawn)
            params = ViewParams(self._names, gather)
            for name in self._eager:
                params[name]
            yield params

    def _gather(
        self,
        rows: NDArray[np.int64],
        views: NDArray[np.int64],
        begin: int,
        drawn: Drawn,
        name: str,
    ) -> Tensor:
        """Return a column of `rows`, whose params begin at `begin` in `drawn`."""
        if name in self._drawn:
            part = part_of(drawn, begin, begin + len(rows))
            return torch.from_numpy(self._rendered(rows, views, part, name))
        found = self._reader.params(name, rows, views[:, None])
        if self._reader.per_view(name):
            found = np.ascontiguousarray(found[:, 0])
        return torch.from_numpy(found)

    def _rendered(
        self, rows: NDArray[np.int64], views: NDArray[np.int64], drawn: Drawn, name: str
    ) -> NDArray[Any]:
        if name not in ("crop_box", "crop_local"):
            return drawn[name].copy()
        assert self.then is not None
        box = self._reader.by_view(views, partial(self._stored_box, rows))
        flipped = np.zeros(len(rows), np.bool_)
        if self._mirrored is not None:
            flipped = self._mirrored(rows)[np.arange(len(rows)), views]
        return delivered_params(self.then, drawn, box, flipped, self._size)[name]

    def _stored_box(
        self,
        rows: NDArray[np.int64],
        part: ViewSetReader,
        indices: NDArray[np.int64],
        views: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        box = np.zeros((len(indices), 4))
        if "crop_box" in part.view_set.params:
            box[:] = part.params("crop_box", rows[indices], views[:, None])[:, 0]
        else:  # such views show the whole source image
            box[:, 2], box[:, 3] = self._sizes(rows[indices])
        return box

    def _column(
        self,
        name: str,
        usual: int,
        dtype: type[np.integer[Any]],
        rows: NDArray[np.int64],
        views: NDArray[np.int64],
    ) -> Tensor:
        """Return a column of integers, `usual` for the views of a set that lacks it."""
        if self._reader.constant(name, usual):
            return filled(len(rows), usual, dtype)

        def stored(
            part: ViewSetReader, indices: NDArray[np.int64], views: NDArray[np.int64]
        ) -> NDArray[np.integer[Any]]:
            if part.constant(name, usual):
                return np.full(len(indices), usual, dtype)
            found = part.params(name, rows[indices], views[:, None])
            return found[:, 0].astype(dtype)

        return torch.from_numpy(self._reader.by_view(views, stored))


def filled(size: int, value: int, dtype: type[np.integer[Any]]) -> Tensor:
    """Return a tensor [size] of one value.

    Like all that is made for each batch it comes from numpy: next to the copying of small views,
    a call into torch costs several times as much.
    """
    return torch.from_numpy(np.full(size, value, dtype))


def online_views(
    slot: OnlineSlot, pixels: Sequence[Tensor], drawn: Drawn, colourless: bool
) -> list[View]:
    """Return the views of a slot that was rendered from source images, of one batch after another.

    `pixels` are those of each batch, `drawn` the params of all of them.
    """
    return [
        View(
            pixels=tensor,
            params=ViewParams(tuple(drawn), partial(_drawn_column, drawn, begin, end)),
            status=filled(len(tensor), 1, np.uint8),
            role=slot.policy.role,
            parent=filled(len(tensor), -1, np.int64),
            view=filled(len(tensor), slot.slot, np.int64),
            source=f"online:{slot.policy.name}",
            colourless=colourless,
        )
        for tensor, (begin, end) in zip(pixels, bounds_of([len(p) for p in pixels]), strict=True)
    ]


def _drawn_column(drawn: Drawn, begin: int, end: int, name: str) -> Tensor:
    return torch.from_numpy(drawn[name][begin:end].copy())


def bounds_of(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield begin and end of parts of these sizes that lie one after another."""
    return itertools.pairwise(itertools.accumulate(sizes, initial=0))


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """Makes batches of filled drafts.

    Attributes:
        cached: The slots of each view set.
        online: The slots that are rendered.
        labels: Label of each row.
        cut: The cut of the steps.
        state: The loader's state, at whatever step.
        colourless: Says of draws whether their colours are left to `Batch.to`.
    """

    cached: Sequence[Sequence[CachedDelivery]]
    online: Sequence[OnlineSlot]
    labels: NDArray[np.int32]
    cut: Cut
    state: State
    colourless: Callable[[Drawn], bool]

    def batches(self, draft: Draft) -> list[Batch]:
        """Return the batches of a filled draft.

        Next to the copying of small views each call into torch counts: what all batches have is
        made once for all of them, and split.
        """
        rows, sizes = draft.rows, draft.sizes
        columns = zip(
            torch.from_numpy(rows.copy()).split_with_sizes(sizes),
            torch.from_numpy(self.labels[rows].astype(np.int64)).split_with_sizes(sizes),
            torch.from_numpy(draft.valid).split_with_sizes(sizes),
            zip(*self._views(draft), strict=True),
            strict=True,
        )
        return [
            Batch(
                views=views,
                index=index,
                label=label,
                valid=valid,
                weight=self.cut.weight(step),
                epoch=draft.epoch,
                step=step,
                state=self.state.at(draft.epoch, step + 1, steps=self.cut.steps).to_json(),
            )
            for step, (index, label, valid, views) in zip(draft.steps, columns, strict=True)
        ]

    def _views(self, draft: Draft) -> list[list[View]]:
        """Return the views of each slot, for one batch after another."""
        plan = draft.plan
        pixels = [
            torch.from_numpy(buffer.transpose(0, 3, 1, 2)).split_with_sizes(draft.sizes)
            for buffer in draft.buffers
        ]
        views: dict[int, list[View]] = {}
        for slots, numbers, then in zip(self.cached, plan.views, plan.then, strict=True):
            for slot, mine, drawn in zip(slots, numbers.T, then, strict=True):
                late = self.colourless(drawn)
                tensors = pixels[slot.slot]
                views[slot.slot] = slot.views(tensors, plan.rows, mine.copy(), drawn, late)
        for online, drawn in zip(self.online, plan.online, strict=True):
            late = self.colourless(drawn)
            views[online.slot] = online_views(online, pixels[online.slot], drawn, late)
        return [views[slot] for slot in range(len(pixels))]
