"""How batches are handed over: pixels as tensors, views with their params, status and origin."""

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
from viewstore.loaders.plan.slots import CachedSlots, OnlineSlot
from viewstore.loaders.plan.state import State
from viewstore.loaders.read.reader import AnyReader, CachedReader, by_set, numbers_within
from viewstore.loaders.render.layered import Mirrored, delivered_params

if TYPE_CHECKING:
    from viewstore.loaders.batches.draft import Draft


Sizes = Callable[[NDArray[np.int64]], tuple[NDArray[Any], NDArray[Any]]]


class CachedDelivery:
    """Delivers the views of one slot of a view set."""

    def __init__(
        self,
        group: CachedSlots,
        number: int,
        reader: AnyReader,
        mirrored: Mirrored | None,
        sizes: Sizes,
    ) -> None:
        """Deliver slot `number` of a group.

        Args:
            group: The slots of the view set.
            number: Which of them.
            reader: Reads the view set.
            mirrored: Says of rows which views show their box from right to left, if any does.
            sizes: Returns height and width of the source images of rows.
        """
        self.slot = group.slots[number]
        self.then = group.then[number]
        self._role = group.roles[number]
        self._reader = reader
        self._mirrored = mirrored
        self._sizes = sizes
        self._size = group.view_set.height, group.view_set.width
        self._source = f"cached:{group.view_set.name}"
        self._drawn: tuple[str, ...] = ()
        if self.then is not None:
            self._source += f"+{self.then.policy.name}"
            columns = (column.name for column in self.then.policy.columns)
            self._drawn = (*columns, "crop_box", "crop_local")
        self._names = tuple(dict.fromkeys((*group.params, *self._drawn)))
        # What would touch a disk is gathered at once, by a thread of the loader.
        large = {name for name in group.params if not reader.in_memory(name)}
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

        `pixels` are those of each batch, `drawn` what was rendered on all of them.
        """
        sizes = [len(each) for each in pixels]
        numbers = numbers_within(self._reader, views)
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
                pixels=shown,
                params=params,
                status=status,
                role=self._role,
                parent=parent,
                view=view,
                source=self._source,
                colourless=colourless,
            )
            for shown, params, status, parent, view in columns
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
            mine = partial(self._gather, rows[begin:end], views[begin:end], begin, drawn)
            params = ViewParams(self._names, mine)
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
        """Return a column of `rows`, which stand from `begin` on in `drawn`."""
        if name in self._drawn:
            mine = part_of(drawn, begin, begin + len(rows))
            return torch.from_numpy(self._rendered(rows, views, mine, name))
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
        box = by_set(self._reader, views, partial(self._stored_box, rows))
        flipped = np.zeros(len(rows), np.bool_)
        if self._mirrored is not None:
            flipped = self._mirrored(rows)[np.arange(len(rows)), views]
        return delivered_params(self.then, drawn, box, flipped, self._size)[name]

    def _stored_box(
        self,
        rows: NDArray[np.int64],
        reader: CachedReader,
        places: NDArray[np.int64],
        views: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        box = np.zeros((len(places), 4))
        if "crop_box" in reader.view_set.params:
            box[:] = reader.params("crop_box", rows[places], views[:, None])[:, 0]
        else:  # such views show the whole source image
            box[:, 2], box[:, 3] = self._sizes(rows[places])
        return box

    def _column(
        self,
        name: str,
        usual: int,
        dtype: type[np.integer[Any]],
        rows: NDArray[np.int64],
        views: NDArray[np.int64],
    ) -> Tensor:
        """Return a column of integers, `usual` for the views of a set that has it not."""
        if self._reader.constant(name, usual):
            return filled(len(rows), usual, dtype)

        def stored(
            reader: CachedReader, places: NDArray[np.int64], views: NDArray[np.int64]
        ) -> NDArray[np.integer[Any]]:
            if reader.constant(name, usual):
                return np.full(len(places), usual, dtype)
            found = reader.params(name, rows[places], views[:, None])
            return found[:, 0].astype(dtype)

        return torch.from_numpy(by_set(self._reader, views, stored))


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

    `pixels` are those of each batch, `drawn` what was rendered on all of them.
    """
    return [
        View(
            pixels=shown,
            params=ViewParams(tuple(drawn), partial(_drawn_column, drawn, begin, end)),
            status=filled(len(shown), 1, np.uint8),
            role=slot.policy.role,
            parent=filled(len(shown), -1, np.int64),
            view=filled(len(shown), slot.slot, np.int64),
            source=f"online:{slot.policy.name}",
            colourless=colourless,
        )
        for shown, (begin, end) in zip(pixels, bounds_of([len(p) for p in pixels]), strict=True)
    ]


def _drawn_column(drawn: Drawn, begin: int, end: int, name: str) -> Tensor:
    return torch.from_numpy(drawn[name][begin:end].copy())


def bounds_of(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield where each of some parts begins and ends, one after another."""
    return itertools.pairwise(itertools.accumulate(sizes, initial=0))


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """Makes batches of what was filled.

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

        Beside the copying of small views a call into torch costs more than it seems: what all
        batches have is made once for all of them, and split.
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
        decided = draft.decided
        pixels = [
            torch.from_numpy(buffer.transpose(0, 3, 1, 2)).split_with_sizes(draft.sizes)
            for buffer in draft.buffers
        ]
        views: dict[int, list[View]] = {}
        for group, shown, then in zip(self.cached, decided.shown, decided.then, strict=True):
            for slot, mine, drawn in zip(group, shown.T, then, strict=True):
                late = self.colourless(drawn)
                shows = pixels[slot.slot]
                views[slot.slot] = slot.views(shows, decided.rows, mine.copy(), drawn, late)
        for online, drawn in zip(self.online, decided.drawn, strict=True):
            late = self.colourless(drawn)
            views[online.slot] = online_views(online, pixels[online.slot], drawn, late)
        return [views[slot] for slot in range(len(pixels))]
