"""What augmentation policies are made of: draws of params, and the cutting of drawn boxes.

Draws are vectorised over samples and views and return params in the dtypes that a store keeps,
so that a view rebuilt from its stored params is the same view bit for bit. Rendering is pure.
Source: arXiv:2002.05709, appendix A; boxes as in torchvision's RandomResizedCrop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import (
    Image,
)

from viewstore.errors import ConfigError
from viewstore.images.colours import Numbers, Pixels
from viewstore.randomness import Integers

Filter = Literal["area", "linear", "pil", "antialias"]

STORED_FILTERS: tuple[Filter, ...] = ("area", "linear", "pil")  # what views are built with
FILTERS: tuple[Filter, ...] = (*STORED_FILTERS, "antialias")
CUT_FILTERS: tuple[Filter, ...] = ("area", "linear")  # of which one call makes many views


_FILTERS = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR}


def resize(image: Pixels, height: int, width: int, filter: Filter = "area") -> Pixels:
    """Return `image`, uint8 [H, W, C], resized to `height` x `width`.

    Args:
        image: Returned as it is if it has the size already.
        height: Rows of the result.
        width: Columns of the result.
        filter: "area" averages the pixels below each one (OpenCV), "linear" interpolates without
            antialiasing (OpenCV), "pil" is Pillow's antialiased bilinear. No two are equal.
    """
    if filter not in (*_FILTERS, "pil"):
        raise ConfigError(f"resize filter must be area, linear or pil, got {filter!r}")
    if image.shape[:2] == (height, width):
        return image
    if filter == "pil":
        flat = image[..., 0] if image.shape[2] == 1 else image
        picture = Image.fromarray(np.ascontiguousarray(flat))
        resized = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    else:
        resized = cv2.resize(image, (width, height), interpolation=_FILTERS[filter])
    return resized.reshape(height, width, image.shape[2])


def reductions(
    boxes: Sequence[NDArray[np.float32]], sizes: Sequence[tuple[int, int]]
) -> NDArray[np.int64]:
    """Return how far each image may be decoded smaller: 8, 4, 2 or 1, int64 [B].

    The largest at which no crop has fewer pixels than its view on either side, so that a view
    is never enlarged from what was thrown away.

    Args:
        boxes: Crop boxes [B, 4] of each slot that shares the decoded images.
        sizes: Height and width of each slot's views.
    """
    fits = [
        (box[:, 2:] / np.asarray(size)).min(axis=1) for box, size in zip(boxes, sizes, strict=True)
    ]
    least = np.min(fits, axis=0)
    return np.select([least >= 8, least >= 4, least >= 2], [8, 4, 2], 1)


def reduced_boxes(
    boxes: NDArray[np.float32],
    reduction: Integers,
    height: Integers,
    width: Integers,
    *,
    whole: bool,
) -> NDArray[np.float32]:
    """Return crop boxes in pixels of images decoded at 1/`reduction`, float32 [B, 4].

    Args:
        boxes: In source pixels, [B, 4].
        reduction: Of each image, [B].
        height: Of each source image, [B].
        width: Likewise.
        whole: Move the edges to the nearest pixels, as the OpenCV filters need; a side never
            gets shorter than the whole pixels it had room for.
    """
    scale = np.asarray(reduction)[:, None]
    sides = -(-np.stack([height, width], axis=-1).astype(np.int64) // scale)  # sizes are unsigned
    start, end = boxes[:, :2] / scale, (boxes[:, :2] + boxes[:, 2:]) / scale
    if whole:
        # Halves go up on both edges; rounding them to even could take a pixel off.
        start, end = np.floor(start + 0.5), np.floor(end + 0.5)
    end = np.minimum(end, sides)
    return np.concatenate([start, end - start], axis=1).astype(np.float32)


def check_filter(name: str, known: Sequence[Filter] = FILTERS) -> Filter:
    """Return `name` as a resize filter. Raises ConfigError: it is none of the `known`."""
    for each in known:
        if name == each:
            return each
    raise ConfigError(f"filter must be one of {', '.join(known)}, got {name!r}")


def crop_resize(
    image: Pixels,
    box: Numbers,
    size: tuple[int, int],
    filter: Filter,
    out: Pixels | None = None,
    *,
    mirrored: bool = False,
) -> Pixels:
    """Return the part of `image` in `box`, resized to `size` (height, width).

    Args:
        image: uint8 [H, W, C].
        box: (top, left, height, width) in pixels; whole pixels unless the filter is "pil".
        size: Height and width of the result.
        filter: "area" averages where both sides shrink and is "linear" elsewhere,
            "linear" interpolates without antialiasing (both as OpenCV), "pil" is Pillow's
            antialiased bilinear, "antialias" torch's. No two are equal.
        out: Where to write the result, C-contiguous; a new array if None.
        mirrored: Flip the result from left to right.
    """
    if out is None:
        out = np.empty((*size, image.shape[2]), np.uint8)
    if filter == "pil":
        _resize_with_pillow(image, box, out)
    else:
        top, left, tall, wide = _whole(image, box, filter)
        if filter in CUT_FILTERS or (tall, wide) == size:
            cut(image, [(out, (top, left, tall, wide), mirrored, filter == "area")])
            return out
        resize_antialiased(image[top : top + tall, left : left + wide], out)
    if mirrored:
        cv2.flip(out, 1, dst=out)
    return out


def _whole(image: Pixels, box: Numbers, filter: Filter) -> tuple[int, int, int, int]:
    top, left, tall, wide = map(int, box)
    inside = top >= 0 <= left and top + tall <= image.shape[0] and left + wide <= image.shape[1]
    if not inside or [top, left, tall, wide] != [float(number) for number in box]:
        raise ConfigError(
            f"filter {filter} needs boxes of whole pixels within the image, "
            f"got {[float(number) for number in box]}; use filter pil"
        )
    return top, left, tall, wide


def _resize_with_pillow(image: Pixels, box: Numbers, out: Pixels) -> None:
    top, left, tall, wide = map(float, box)
    first_row, first_column = int(top), int(left)
    part = image[first_row : int(-(-(top + tall) // 1)), first_column : int(-(-(left + wide) // 1))]
    corner = (left - first_column, top - first_row)
    # A box stored as float32 may end past the last pixel by its rounding.
    end = min(corner[0] + wide, part.shape[1]), min(corner[1] + tall, part.shape[0])
    picture = Image.fromarray(np.ascontiguousarray(part))
    size = out.shape[1], out.shape[0]
    out[...] = np.asarray(picture.resize(size, Image.Resampling.BILINEAR, box=(*corner, *end)))


def warp(image: Pixels, box: Numbers, turn: float, size: tuple[int, int], out: Pixels) -> Pixels:
    """Write into `out` the box of `image` turned about its centre by `turn` radians.

    Linear interpolation; what lies outside repeats the border.
    """
    top, left, tall, wide = map(float, box)
    cos, sin = np.cos(turn), np.sin(turn)
    step_y, step_x = tall / size[0], wide / size[1]
    linear = np.array([[step_x * cos, -step_y * sin], [step_x * sin, step_y * cos]])
    centre = np.array([left + wide / 2, top + tall / 2]) - 0.5
    middle = np.array([size[1] - 1, size[0] - 1]) / 2
    matrix = np.column_stack([linear, centre - linear @ middle])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    out[...] = cv2.warpAffine(
        image, matrix, (size[1], size[0]), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    return out


try:
    from viewstore.images import _crops
except ImportError:  # installed where there was no C compiler
    _crops = None  # type: ignore[assignment]
compiled = _crops

# The view to fill, uint8 [h, w, C] and C-contiguous; the box (top, left, height, width) in whole
# pixels; whether to mirror it; whether to average over areas where both sides shrink.
Crop = tuple[Pixels, Numbers, bool, bool]


def cut(image: Pixels, crops: Sequence[Crop]) -> None:
    """Fill the view of each crop of `image`, uint8 [H, W, C].

    Raises:
        ValueError: A box is not of whole pixels, or does not lie within the image.
    """
    if compiled is None or image.shape[2] != 3:
        cut_with_opencv(image, crops)
        return
    rows_contiguous = image.strides[1:] == (3, 1)
    compiled.cut(image if rows_contiguous else np.ascontiguousarray(image), crops)


def cut_with_opencv(image: Pixels, crops: Sequence[Crop]) -> None:
    """Do what `cut` does, with OpenCV alone."""
    for view, box, mirrored, by_area in crops:
        top, left, tall, wide = map(int, box)
        if (top, left, tall, wide) != tuple(box):
            raise ValueError("a box must be of whole pixels")
        part = image[max(top, 0) : top + tall, max(left, 0) : left + wide]
        if part.shape[:2] != (tall, wide) or not part.size:
            raise ValueError(
                f"box {top}, {left}, {tall}, {wide} must lie within the image, "
                f"{image.shape[0]} x {image.shape[1]}"
            )
        height, width = view.shape[:2]
        shrinks = tall >= height and wide >= width
        if (tall, wide) == (height, width):
            view[...] = part
        else:
            method = cv2.INTER_AREA if by_area and shrinks else cv2.INTER_LINEAR
            cv2.resize(part, (width, height), dst=view, interpolation=method)
        if mirrored:
            cv2.flip(view, 1, dst=view)


def resize_antialiased(image: Pixels, out: Pixels) -> None:
    """Fill `out`, uint8 [h, w, C] and C-contiguous, with `image`, uint8 [H, W, C], resized."""
    import torch  # what never asks for this filter, builds for one, starts faster without it

    # A copy, since of other memory the kernel makes one in threads of its own; and an `out`,
    # without which it returns planes. torch.nn.functional.interpolate takes none.
    given = torch.from_numpy(image.copy()[None]).permute(0, 3, 1, 2)
    made = torch.from_numpy(out[None]).permute(0, 3, 1, 2)
    resize = torch.ops.aten._upsample_bilinear2d_aa.out
    resize(given, out.shape[:2], False, None, None, out=made)
