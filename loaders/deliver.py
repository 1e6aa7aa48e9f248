"""How a batch is handed over: pixels as tensors, views with their params, status and origin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewstore.loaders.batch import Batch, View, ViewParams
from viewstore.loaders.compose import Mirrored
from viewstore.loaders.mix import AnyReader, by_set, numbers_within
from viewstore.loaders.order import Cut
from viewstore.loaders.reader import CachedReader
from viewstore.loaders.state import State
from viewstore.loaders.transform import delivered_params
from viewstore.loaders.views import CachedSlots, OnlineSlot
from viewstore.policies import Drawn

if TYPE_CHECKING:
    from viewstore.loaders.maker import Draft

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

    def view(
        self, pixels: Tensor, rows: NDArray[np.int64], views: NDArray[np.int64], drawn: Drawn
    ) -> View:
        """Return the views `views` [B] of `rows` [B]; `drawn` is what was rendered on them."""
        params = ViewParams(self._names, partial(self._gather, rows, views, drawn))
        for name in self._eager:
            params[name]
        return View(
            pixels=pixels,
            params=params,
            status=self._column("status", 1, np.uint8, rows, views),
            role=self._role,
            parent=self._column("parent", -1, np.int64, rows, views),
            view=torch.from_numpy(numbers_within(self._reader, views)),
            source=self._source,
        )

    def _gather(
        self, rows: NDArray[np.int64], views: NDArray[np.int64], drawn: Drawn, name: str
    ) -> Tensor:
        if name in self._drawn:
            return torch.from_numpy(self._rendered(rows, views, drawn, name))
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


def online_view(slot: OnlineSlot, pixels: Tensor, drawn: Drawn) -> View:
    """Return the views of a slot that was rendered from source images."""
    size = len(pixels)
    return View(
        pixels=pixels,
        params=ViewParams(tuple(drawn), lambda name: torch.from_numpy(drawn[name].copy())),
        status=filled(size, 1, np.uint8),
        role=slot.policy.role,
        parent=filled(size, -1, np.int64),
        view=filled(size, slot.slot, np.int64),
        source=f"online:{slot.policy.name}",
    )


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

    def batch(self, draft: Draft) -> Batch:
        """Return the batch of a filled draft."""
        decided = draft.decided
        pixels = [torch.from_numpy(buffer.transpose(0, 3, 1, 2)) for buffer in draft.buffers]
        views: dict[int, View] = {}
        for group, shown, then in zip(self.cached, decided.shown, decided.then, strict=True):
            for number, slot in enumerate(group):
                mine = shown[:, number].copy()
                view = slot.view(pixels[slot.slot], decided.rows, mine, then[number])
                views[slot.slot] = self._marked(view, then[number])
        for online, drawn in zip(self.online, decided.drawn, strict=True):
            view = online_view(online, pixels[online.slot], drawn)
            views[online.slot] = self._marked(view, drawn)
        return Batch(
            views=tuple(views[slot] for slot in range(len(pixels))),
            index=torch.from_numpy(decided.rows.copy()),
            label=torch.from_numpy(self.labels[decided.rows].astype(np.int64)),
            valid=torch.from_numpy(draft.valid),
            weight=self.cut.weight(draft.step),
            epoch=draft.epoch,
            step=draft.step,
            state=self.state.at(draft.epoch, draft.step + 1, steps=self.cut.steps).to_json(),
        )

    def _marked(self, view: View, drawn: Drawn) -> View:
        return replace(view, colourless=True) if self.colourless(drawn) else view
