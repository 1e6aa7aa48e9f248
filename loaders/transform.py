"""Online views: params drawn for a whole batch, every source image decoded once for all slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.loaders.compose import compose_boxes
from viewstore.loaders.views import OnlineSlot
from viewstore.policies import Drawn
from viewstore.randomness import Integers, Stream

ReadImage = Callable[[int], NDArray[np.uint8]]


class OnlineViews:
    """Draws and renders the online slots of a batch."""

    def __init__(
        self,
        slots: Sequence[OnlineSlot],
        read_image: ReadImage,
        heights: NDArray[Any],
        widths: NDArray[Any],
    ) -> None:
        """Render from `read_image`(row); `heights` and `widths` are the sizes it gives, [N]."""
        self.slots = slots
        self._read_image = read_image
        self._heights = heights
        self._widths = widths

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
        out: Sequence[NDArray[np.uint8]],
    ) -> None:
        """Render every slot of `rows` into its buffer, uint8 [B, h, w, 3].

        Raises:
            FormatError: A source image cannot be read.
        """
        plain = [{name: column.tolist() for name, column in params.items()} for params in drawn]
        for place, row in enumerate(rows.tolist()):
            image = self._read_image(row)
            for slot, params, buffer in zip(self.slots, plain, out, strict=True):
                mine = {name: column[place] for name, column in params.items()}
                slot.policy.render(image, mine, slot.size, slot.filter, buffer[place])


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


def render_cached(
    slot: OnlineSlot,
    stored: NDArray[np.uint8],
    drawn: Drawn,
    out: NDArray[np.uint8],
) -> None:
    """Render the policy of `slot` on stored views, uint8 [B, H, W, C], into `out`."""
    plain = {name: column.tolist() for name, column in drawn.items()}
    for place, image in enumerate(stored):
        mine = {name: column[place] for name, column in plain.items()}
        slot.policy.render(image, mine, slot.size, slot.filter, out[place])


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
