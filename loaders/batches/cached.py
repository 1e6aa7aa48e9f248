"""Delivers the views of slots that show view sets: pixels with params, status and origin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewstore.images.policies import Drawn
from viewstore.loaders.batches.batch import View, ViewParams
from viewstore.loaders.batches.draft import bounds_of
from viewstore.loaders.plan.ahead import part_of
from viewstore.loaders.plan.slots import CachedSlots, rendered_columns
from viewstore.loaders.read.one_set import SetReader
from viewstore.loaders.read.reader import CachedReader
from viewstore.loaders.render.layered import Mirrored, Placement, delivered_params

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
        self._parent_slot = public.parent_slot
        self._reader = reader
        self._mirrored = mirrored
        self._sizes = sizes
        self._size = slots.group.height, slots.group.width
        self._source = f"cached:{slots.group.name}"
        if self.then is not None:
            self._source += f"+{self.then.policy.name}"
        self._drawn = rendered_columns(self.then)
        self._names = public.columns
        self._joined = {each.name: each for each in slots.joined}
        # What would touch a disk is gathered at once, by a thread of the loader.
        large = {name for name in slots.params if not reader.in_memory(name)} - set(self._drawn)
        large |= {name for name, each in self._joined.items() if not each.in_memory}
        self._eager = tuple(sorted(large))

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
                parent_slot=self._parent_slot,
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
        if name in self._joined:
            return torch.from_numpy(self._joined[name].values(rows, views))
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
        return delivered_params(self.then, drawn, self._stored_placement(rows, views))[name]

    def placement(
        self, rows: NDArray[np.int64], views: NDArray[np.int64], drawn: Drawn
    ) -> Placement:
        """Return where views `views` [B] of `rows` [B] lie, on which `drawn` was rendered."""
        stored = self._stored_placement(rows, views)
        return stored if self.then is None else stored.rendered(drawn, self.then.size)

    def _stored_placement(self, rows: NDArray[np.int64], views: NDArray[np.int64]) -> Placement:
        box = self._reader.by_view(views, partial(self._stored_box, rows))
        mirrored = np.zeros(len(rows), np.bool_)
        if self._mirrored is not None:
            mirrored = self._mirrored(rows)[np.arange(len(rows)), views]
        return Placement(box=box, mirrored=mirrored, size=self._size)

    def _stored_box(
        self,
        rows: NDArray[np.int64],
        part: SetReader,
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
            part: SetReader, indices: NDArray[np.int64], views: NDArray[np.int64]
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
