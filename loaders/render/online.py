"""Online views: drawn for many samples at once, rendered from images that are decoded once."""

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


class SourceImages:
    """Renders views from source images, each decoded once for all slots."""

    def __init__(
        self,
        source: SourceReader,
        heights: NDArray[Any],
        widths: NDArray[Any],
        *,
        scaled: bool = False,
        clock: Clock,
    ) -> None:
        """Prepare to render.

        Args:
            source: Reads and decodes the source images.
            heights: Height of each source image, [N].
            widths: Width of each, [N].
            scaled: Decode images smaller where every crop is much larger than its view.
            clock: Takes the seconds.
        """
        self._source = source
        self._heights = heights
        self._widths = widths
        self._scaled = scaled
        self._clock = clock
        self._scratch = Scratch()

    def sizes(self, rows: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return height and width of the source images of `rows`, [B] each."""
        return self._heights[rows], self._widths[rows]

    def render(
        self,
        slots: Sequence[OnlineSlot],
        rows: NDArray[np.int64],
        drawn: Sequence[Drawn],
        out: Sequence[Buffer],
        damaged: Damage | None = None,
        *,
        made: Sequence[NDArray[np.bool_]] = (),
    ) -> None:
        """Render every one of `slots` of `rows` into its buffer, uint8 [B, h, w, 3].

        `drawn` are the params of each slot, [B, ...]. `damaged` takes the errors of images that
        cannot be read, by index in `rows`; their views become black. `made` says of the last slots,
        which have params that were recorded, which of their views were made, [B] each: the others
        become black, and no image is read for them alone.

        Raises:
            FormatError: A source image cannot be read, and `damaged` is None.
        """
        began = time.perf_counter()
        spent = {"fetch_seconds": 0.0, "decode_seconds": 0.0}
        wanted = [1] * len(rows)
        whole = smaller = _Renderings(slots, drawn, out)
        if self._scaled:
            boxes = [params["crop_box"] for params in drawn]
            reduction = reductions(boxes, [slot.size for slot in slots])
            wanted = reduction.tolist()
            reduced = [
                {**params, "crop_box": self._reduced(slot, rows, params, reduction)}
                for slot, params in zip(slots, drawn, strict=True)
            ]
            smaller = _Renderings(slots, reduced, out)
        heights, widths = (sides.tolist() for sides in self.sizes(rows))
        unread = ~np.any(made, axis=0) if len(made) == len(slots) else np.zeros(len(rows), np.bool_)
        for i, row in enumerate(rows.tolist()):
            if unread[i]:
                continue
            # The same memory each time: it stays in the processor's cache.
            memory = self._scratch.take(1, (heights[i], widths[i], 3))
            try:
                image, applied = self._image(row, wanted[i], memory, spent)
            except FormatError as error:
                if damaged is None:
                    raise
                damaged[i] = error
                for buffer in out:
                    buffer[i] = 0
                continue
            (whole if applied == 1 else smaller).render(i, image)
        for mine, buffer in zip(made, out[len(slots) - len(made) :], strict=True):
            if not mine.all():
                buffer[~mine] = 0
        rendered = time.perf_counter() - began - sum(spent.values())
        self._clock.add(render_seconds=rendered, **spent)

    def _image(
        self, row: int, reduction: int, memory: Buffer, spent: dict[str, float]
    ) -> tuple[Buffer, int]:
        """Return the image of a row and by which factor it was reduced: `reduction`, or 1."""
        began = time.perf_counter()
        data = self._source.read(row)
        fetched = time.perf_counter()
        found = self._source.decode(row, data, reduction, memory)
        spent["fetch_seconds"] += fetched - began
        spent["decode_seconds"] += time.perf_counter() - fetched
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


class _Renderings:
    """What is rendered of each image; all crops of one image are cut in one call."""

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

    def render(self, i: int, image: Buffer) -> None:
        """Render the views of sample `i` from its image, uint8 [H, W, 3]."""
        if self._crops:
            cut(image, self._crops[i])
        for policy, buffer, params in self._colours:
            policy.recolour(buffer[i], params[i])
        for slot, buffer, params in self._alone:
            slot.policy.render(image, params[i], slot.size, slot.filter, buffer[i])


def draw_slots(
    slots: Sequence[OnlineSlot],
    stream: Stream,
    rows: NDArray[np.int64],
    height: Integers,
    width: Integers,
) -> list[Drawn]:
    """Return the params of each slot, [B, ...], for images of `height` and `width`, [B] or one."""
    by_policy: dict[Any, list[int]] = {}
    for i, slot in enumerate(slots):
        by_policy.setdefault(slot.policy, []).append(i)
    drawn: list[Drawn] = [{} for _ in slots]
    for policy, indices in by_policy.items():
        views = np.array([[slots[i].slot] for i in indices])
        params = policy.draw(stream, rows, views, height, width)
        for number, i in enumerate(indices):
            drawn[i] = {name: column[number] for name, column in params.items()}
    return drawn


def by_sample(params: Drawn) -> list[dict[str, Any]]:
    """Return the params of each sample by name, as Python numbers and lists."""
    columns = [column.tolist() for column in params.values()]
    return [dict(zip(params, values, strict=True)) for values in zip(*columns, strict=True)]
