"""Online views: params drawn for many samples at once, every image decoded once for all slots."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.augment import CUT_FILTERS, reduced_boxes, reductions
from viewstore.crops import Crop, cut
from viewstore.errors import FormatError
from viewstore.loaders.buffers import Buffer
from viewstore.loaders.clock import Clock
from viewstore.loaders.compose import compose_boxes
from viewstore.loaders.mix import AnyReader
from viewstore.loaders.stored import Damage
from viewstore.loaders.views import OnlineSlot
from viewstore.policies import Drawn, Policy
from viewstore.randomness import Integers, Stream
from viewstore.sources import SourceReader

SCRATCH_BYTES = 1 << 20  # what one thread renders from, small enough to stay in its cache


class Scratch(threading.local):
    """Memory of each thread for images and views that are rendered on."""

    def __init__(self) -> None:
        self._memory: Buffer = np.empty(0, np.uint8)

    def take(self, count: int, shape: tuple[int, ...]) -> Buffer:
        """Return uint8 [count, *shape], until the thread asks again."""
        size = count * int(np.prod(shape))
        if len(self._memory) < size:
            self._memory = np.empty(size, np.uint8)
        return self._memory[:size].reshape(count, *shape)


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
                self._alone.append((slot, buffer, _by_place(params)))
                continue
            boxes, flips = params["crop_box"].tolist(), params["flip"].astype(bool).tolist()
            crops.append(zip(buffer, boxes, flips, repeat(slot.filter == "area")))
            if "jitter" in params:
                self._colours.append((slot.policy, buffer, _by_place(params)))
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


def _by_place(params: Drawn) -> list[dict[str, Any]]:
    """Return the params of each sample, of Python's own types."""
    columns = [column.tolist() for column in params.values()]
    return [dict(zip(params, values, strict=True)) for values in zip(*columns, strict=True)]


def only_flips(then: OnlineSlot | None, stored: tuple[int, int]) -> bool:
    """Whether all that is rendered on views of size `stored` is a flip, or nothing."""
    if then is None:
        return True
    policy = then.policy
    plain = isinstance(policy, Policy) and not policy.crop and not policy.colours
    return plain and then.size == stored


def render_cached(
    slot: OnlineSlot,
    reader: AnyReader,
    rows: NDArray[np.int64],
    views: NDArray[np.int64],
    drawn: Drawn,
    out: Buffer,
    scratch: Scratch,
    clock: Clock,
    damaged: Damage | None = None,
) -> None:
    """Render the policy of `slot` on cached views: numbers `views` [B] of `rows` [B].

    `clock` takes the seconds but for those of `reader`.
    """
    started = time.perf_counter()
    read_seconds = 0.0
    plain = _by_place(drawn)
    at_once = max(1, SCRATCH_BYTES // int(np.prod(reader.shape)))
    for begin in range(0, len(rows), at_once):
        part = slice(begin, begin + at_once)
        stored = scratch.take(len(rows[part]), reader.shape)
        found: Damage | None = None if damaged is None else {}
        asked = time.perf_counter()
        reader.read(rows[part], views[part, None], [stored], None, found)
        read_seconds += time.perf_counter() - asked
        for place, image in enumerate(stored, begin):
            slot.policy.render(image, plain[place], slot.size, slot.filter, out[place])
        if damaged is not None:
            damaged |= {begin + place: error for place, error in (found or {}).items()}
    clock.add(render_seconds=time.perf_counter() - started - read_seconds)


def delivered_params(
    slot: OnlineSlot,
    drawn: Drawn,
    parent: NDArray[Any],
    mirrored: NDArray[np.bool_],
    size: tuple[int, int],
) -> Drawn:
    """Return what was drawn for a slot that renders cached views, as it is delivered.

    The crop box is composed with that of the cached view; as drawn it is "crop_local". Every
    other param is that of this last step alone.
    """
    local = drawn["crop_box"]
    return {
        **drawn,
        "crop_box": compose_boxes(parent, mirrored, size, local),
        "crop_local": local.astype(np.int32) if slot.policy.whole_pixels else local,
    }
