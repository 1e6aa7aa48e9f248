"""The policy for handwritten digits, which must not be flipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from viewstore.format.columns import Column
from viewstore.images import colours, resize
from viewstore.images.colours import Pixels
from viewstore.images.draws import Range
from viewstore.images.policy import Drawn
from viewstore.images.resize import Filter
from viewstore.randomness import Integers, Op, Stream, normal


@dataclass(frozen=True, kw_only=True)
class Digits:
    """For handwritten digits, which must not be flipped: zoom, shift, turn, brightness.

    The zoom and the shift are the crop box; the box is turned about its centre.

    Attributes:
        name: Name in the table.
        role: Purpose of the view.
        zoom: Least and greatest side of the crop box, as a share of the image's.
        turn: Standard deviation of the rotation, in radians.
        brightness: Least and greatest factor.
    """

    name: str = "digits"
    role: str = "expert"
    zoom: Range = (0.6, 1.0)
    turn: float = 0.15
    brightness: Range = (0.6, 1.2)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The params of one view."""
        return _DIGITS_COLUMNS

    @property
    def whole_pixels(self) -> bool:
        """Whether crop boxes begin and end between pixels: no."""
        return False

    def for_size(self, height: int, width: int) -> Digits:
        """Return the policy itself: it is the same for every size."""
        return self

    def draw(
        self,
        stream: Stream,
        index: Integers,
        view: Integers,
        height: Integers,
        width: Integers,
    ) -> Drawn:
        """Return params by column: crop words 0, 2, 3 are zoom, top, left; 4 and 5 the turn."""
        u = stream.uniform(Op.CROP, index, view, blocks=2)
        share = self.zoom[0] + u[..., 0] * (self.zoom[1] - self.zoom[0])
        crop_height, crop_width = share * np.asarray(height), share * np.asarray(width)
        top, left = u[..., 2] * (height - crop_height), u[..., 3] * (width - crop_width)
        low, high = self.brightness
        factor = low + stream.uniform(Op.JITTER, index, view, blocks=2)[..., 4] * (high - low)
        turn = self.turn * normal(u[..., 4], u[..., 5])
        return {
            "crop_box": np.stack([top, left, crop_height, crop_width], -1).astype(np.float32),
            "x_brightness": factor.astype(np.float32),
            "x_rotation": turn.astype(np.float32),
        }

    def render(
        self,
        image: Pixels,
        params: Mapping[str, Any],
        size: tuple[int, int],
        filter: Filter,
        out: Pixels | None = None,
    ) -> Pixels:
        """Return the view with these params; always interpolated linearly, as warps are."""
        view = np.empty((*size, image.shape[2]), np.uint8) if out is None else out
        resize.warp(image, params["crop_box"], float(params["x_rotation"]), view)
        colours.brighten(view, float(params["x_brightness"]))
        return view


_DIGITS_COLUMNS = (
    Column(name="crop_box", dtype="f4", shape=(4,)),
    Column(name="x_brightness", dtype="f4", shape=()),
    Column(name="x_rotation", dtype="f4", shape=()),
)
