"""Online views: params drawn for many samples at once, every image decoded once for all slots."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import FormatError
from viewstore.images.policies import Drawn, Policy
from viewstore.images.resize import CUT_FILTERS, Crop, cut, reduced_boxes, reductions
from viewstore.loaders.pipeline.buffers import Buffer, Scratch
from viewstore.loaders.pipeline.clock import Clock
from viewstore.loaders.plan.slots import OnlineSlot
from viewstore.loaders.read.stored import Damage
from viewstore.randomness import Integers, Stream
from viewstore.sources.reader import SourceReader


class OnlineViews:
    """Draws and renders the online slots of a batch."""

    def __init__(
        self,
        slots: Sequence[OnlineSlot],
        source: SourceReader,
        heights: NDArray[Any],
        widths: NDArray[Any],
        *,
        scaled: bool = False,
        clock: Clock,
    ) -> None:
        """Prepare to render.

        Args:
            slots: What is rendered.
            source: Reads what is rendered from.
            heights: Of the images, [N].
            widths: Likewise.
            scaled: Decode images smaller where every crop is much larger than its view.
            clock: Takes the seconds.
        """
        self.slots = slots
        self._source = source
        self._heights = heights
        self._widths = widths
        self._scaled = scaled
        self._clock = clock
        self._scratch = Scratch()

    def draw(self, stream: Stream, rows: NDArray[np.int64]) -> list[Drawn]:
        """Return the params of each slot, [B, ...]; slots of one policy are drawn together."""
        return draw_slots(self.slots, stream, rows, *self.sizes(rows))

    def sizes(self, rows: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return height and width of the source images of `rows`, [B] each."""
        return self._heights[rows], self._widths[rows]

    def render(
        self,
        rows: NDArray[np.int64],
        drawn: Sequence[Drawn],
        out: Sequence[Buffer],
        damaged: Damage | None = None,
    ) -> None:
        """Render every slot of `rows` into its buffer, uint8 [B, h, w, 3].

        `damaged` takes the errors of images that cannot be read; their views become black.

        Raises:
            FormatError: A source image cannot be read, and `damaged` is None.
        """
        began = time.perf_counter()
        spent = {"fetch_seconds": 0.0, "decode_seconds": 0.0}
        asked = [1] * len(rows)
        whole = smaller = _Work(self.slots, drawn, out)
        if self._scaled:
            boxes = [params["crop_box"] for params in drawn]
            reduction = reductions(boxes, [slot.size for slot in self.slots])
            asked = reduction.tolist()
            reduced = [
                {**params, "crop_box": self._reduced(slot, rows, params, reduction)}
                for slot, params in zip(self.slots, drawn, strict=True)
            ]
            smaller = _Work(self.slots, reduced, out)
        heights, widths = (sides.tolist() for sides in self.sizes(rows))
        for place, row in enumerate(rows.tolist()):
            # The same memory each time: it stays in the processor's cache.
            memory = self._scratch.take(1, (heights[place], widths[place], 3))
            try:
                image, made = self._image(row, asked[place], memory, spent)
            except FormatError as error:
                if damaged is None:
                    raise
                damaged[place] = error
                for buffer in out:
                    buffer[place] = 0
                continue
            (whole if made == 1 else smaller).do(place, image)
        rendered = time.perf_counter() - began - sum(spent.values())
        self._clock.add(render_seconds=rendered, **spent)

    def _image(
        self, row: int, reduction: int, memory: Buffer, spent: dict[str, float]
    ) -> tuple[Buffer, int]:
        began = time.perf_counter()
        data = self._source.read(row)
        read = time.perf_counter()
        found = self._source.decode(row, data, reduction, memory)
        spent["fetch_seconds"] += read - began
        spent["decode_seconds"] += time.perf_counter() - read
        return found

    def _reduced(
        self,
        slot: OnlineSlot,
        rows: NDArray[np.int64],
        params: Drawn,
        reduction: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        whole = slot.policy.whole_pixels and slot.filter != "pil"
        return reduced_boxes(params["crop_box"], reduction, *self.sizes(rows), whole=whole)


class _Work:
    """What is rendered of each image of a slice; crops of one image are cut in one call."""

    def __init__(
        self, slots: Sequence[OnlineSlot], drawn: Sequence[Drawn], out: Sequence[Buffer]
    ) -> None:
        crops: list[Iterable[Crop]] = []
        self._colours: list[tuple[Policy, Buffer, list[dict[str, Any]]]] = []
        self._alone: list[tuple[OnlineSlot, Buffer, list[dict[str, Any]]]] = []
        for slot, params, buffer in zip(slots, drawn, out, strict=True):
            # A policy of the caller's own, one that extends ours too, renders in its own way.
            if type(slot.policy) is not Policy or slot.filter not in CUT_FILTERS:
                self._alone.append((slot, buffer, by_sample(params)))
                continue
            boxes, flips = params["crop_box"].tolist(), params["flip"].astype(bool).tolist()
            crops.append(zip(buffer, boxes, flips, repeat(slot.filter == "area")))
            if "jitter" in params:
                self._colours.append((slot.policy, buffer, by_sample(params)))
        self._crops = list(zip(*crops, strict=True))

    def do(self, place: int, image: Buffer) -> None:
        """Render the views of one image, uint8 [H, W, 3]."""
        if self._crops:
            cut(image, self._crops[place])
        for policy, buffer, params in self._colours:
            policy.recolour(buffer[place], params[place])
        for slot, buffer, params in self._alone:
            slot.policy.render(image, params[place], slot.size, slot.filter, buffer[place])


def draw_slots(
    slots: Sequence[OnlineSlot],
    stream: Stream,
    rows: NDArray[np.int64],
    height: Integers,
    width: Integers,
) -> list[Drawn]:
    """Return the params of each slot, [B, ...], for images of `height` x `width`."""
    alike: dict[Any, list[int]] = {}
    for place, slot in enumerate(slots):
        alike.setdefault(slot.policy, []).append(place)
    drawn: list[Drawn] = [{} for _ in slots]
    for policy, places in alike.items():
        views = np.array([[slots[place].slot] for place in places])
        params = policy.draw(stream, rows, views, height, width)
        for number, place in enumerate(places):
            drawn[place] = {name: column[number] for name, column in params.items()}
    return drawn


def by_sample(params: Drawn) -> list[dict[str, Any]]:
    """Return the params of each sample, of Python's own types."""
    columns = [column.tolist() for column in params.values()]
    return [dict(zip(params, values, strict=True)) for values in zip(*columns, strict=True)]
