"""What is done to images before they are probed, as policies that a loader renders.

`CentreCrop` is the evaluation transform, `TrainingCrop` the augmentation of a probe's training
images, `Still` and `Boxed` show the images and the queries of retrieval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from viewstore.errors import ConfigError
from viewstore.format.columns import Column
from viewstore.images.colours import Numbers, Pixels
from viewstore.images.policies import Drawn, Policy
from viewstore.images.resize import FILTERS, Filter, crop_resize
from viewstore.randomness import Integers, Stream

# "bicubic" is Pillow's; the others are those of views, of which "pil" is Pillow's bilinear.
EvalFilter = Filter | Literal["bicubic"]
EVAL_FILTERS: tuple[EvalFilter, ...] = (*FILTERS, "bicubic")
EvalResize = Literal["1", "8/7"]
EVAL_RESIZES: tuple[EvalResize, ...] = ("1", "8/7")
CROP_BOX = (Column(name="crop_box", dtype="f4", shape=(4,)),)


@dataclass(frozen=True, kw_only=True)
class EvalTransform:
    """The evaluation transform: the same for what a probe learns from and is asked about.

    Attributes:
        resize: The short side before the centre crop, as a share of the crop's side: "8/7" makes
            36 of 32 and 256 of 224.
        filter: How images are resized.

    Raises:
        ConfigError: It is none of the choices.
    """

    resize: EvalResize = "1"
    filter: EvalFilter = "area"

    def __post_init__(self) -> None:
        if self.resize not in EVAL_RESIZES:
            raise ConfigError(
                f"eval_resize must be one of {', '.join(EVAL_RESIZES)}, got {self.resize!r}"
            )
        if self.filter not in EVAL_FILTERS:
            raise ConfigError(
                f"filter must be one of {', '.join(EVAL_FILTERS)}, got {self.filter!r}"
            )

    def policy(self, size: int) -> CentreCrop:
        """Return what renders the transform for an encoder of this size."""
        short = int(size * Fraction(self.resize))
        return CentreCrop(size=size, short=short, filter=self.filter)


OURS = EvalTransform()
PAPERS = EvalTransform(resize="8/7", filter="pil")


@dataclass(frozen=True, kw_only=True)
class Still:
    """The whole image resized to the view, whatever its shape: nothing is drawn.

    Attributes:
        name, role: As in ViewPolicy.
    """

    name: str = "evaluation"
    role: str = "expert"

    @property
    def columns(self) -> tuple[Column, ...]:
        """The crop box alone."""
        return CROP_BOX

    @property
    def whole_pixels(self) -> bool:
        """Whether crop boxes begin and end between pixels: yes."""
        return True

    def for_size(self, height: int, width: int) -> Self:
        """Return the policy itself."""
        del height, width
        return self

    def draw(
        self, stream: Stream, index: Integers, view: Integers, height: Integers, width: Integers
    ) -> Drawn:
        """Return the box of the whole image, [..., 4]."""
        del stream
        heights, widths, *_ = np.broadcast_arrays(height, width, index, view)
        corner = np.zeros(heights.shape)
        box = np.stack([corner, corner, heights, widths], axis=-1)
        return {"crop_box": box.astype(np.float32)}

    def render(
        self,
        image: Pixels,
        params: Mapping[str, Any],
        size: tuple[int, int],
        filter: Filter,
        out: Pixels | None = None,
    ) -> Pixels:
        """Return the part of the image in the box, resized to `size`, uint8 [*size, 3]."""
        return crop_resize(image, params["crop_box"], size, filter, out)


@dataclass(frozen=True, kw_only=True)
class CentreCrop(Still):
    """The short side resized to `short`, the middle of `size` cut out, as torchvision does both.

    Attributes:
        size: Side of the crop, in pixels.
        short: Short side before it.
        filter: How images are resized; the loader's filter has no effect.
    """

    size: int
    short: int
    filter: EvalFilter

    def render(
        self,
        image: Pixels,
        params: Mapping[str, Any],
        size: tuple[int, int],
        filter: Filter,
        out: Pixels | None = None,
    ) -> Pixels:
        """Return the middle of the image, uint8 [size, size, 3]."""
        del params, size, filter
        height, width = image.shape[:2]
        least = min(height, width)
        sides = self.short * height // least, self.short * width // least
        whole = resized(image, (0, 0, height, width), sides, self.filter)
        top, left = (round((side - self.size) / 2) for side in sides)
        middle = whole[top : top + self.size, left : left + self.size]
        if out is None:
            return middle
        out[...] = middle
        return out


@dataclass(frozen=True, kw_only=True)
class Boxed(Still):
    """The part of each image in a box of its own: the queries of retrieval.

    Attributes:
        boxes: The box of each row, (top, left, height, width) in whole pixels.
    """

    boxes: tuple[tuple[int, tuple[int, int, int, int]], ...]

    def draw(
        self, stream: Stream, index: Integers, view: Integers, height: Integers, width: Integers
    ) -> Drawn:
        """Return the box of each row of `index`, [..., 4]."""
        del stream
        rows, *_ = np.broadcast_arrays(index, view, height, width)
        by_row = dict(self.boxes)
        found = np.array([by_row[row] for row in rows.reshape(-1).tolist()], np.float32)
        return {"crop_box": found.reshape(*rows.shape, 4)}


@dataclass(frozen=True, kw_only=True)
class TrainingCrop(Policy):
    """A random resized crop and a flip, without colours.

    Attributes:
        bicubic: Whether to resize as Pillow's bicubic does; else as the loader's filter has it.
    """

    name: str = "probe"
    scale: tuple[float, float] = (0.08, 1)
    jitter_probability: float = 0
    gray: float = 0
    bicubic: bool = False

    def for_size(self, height: int, width: int) -> Self:
        """Return the policy itself."""
        del height, width
        return self

    def render(
        self,
        image: Pixels,
        params: Mapping[str, Any],
        size: tuple[int, int],
        filter: Filter,
        out: Pixels | None = None,
    ) -> Pixels:
        """Return the view with these params, uint8 [height, width, 3]."""
        if not self.bicubic:
            return super().render(image, params, size, filter, out)
        view = resized(image, params["crop_box"], size, "bicubic")
        if out is None:
            out = np.empty_like(view)
        out[...] = cv2.flip(view, 1) if params["flip"] else view
        return out


CROP = TrainingCrop()


def resized(
    image: Pixels, box: Numbers, size: tuple[int, int], filter: EvalFilter
) -> NDArray[np.uint8]:
    """Return the part of an image in a box of whole pixels, resized to `size` (height, width)."""
    top, left, height, width = map(int, box)
    part = image[top : top + height, left : left + width]
    if (height, width) == size:
        return part
    if filter != "bicubic":
        return crop_resize(part, (0, 0, height, width), size, filter)
    picture = Image.fromarray(np.ascontiguousarray(part))
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BICUBIC))
