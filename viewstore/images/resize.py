"""Resizing: an image to a size, and the part of it in a crop box to a view.

Views that are stored are rendered here, and rendered again from their params: for each filter,
box and size the pixels are fixed for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from viewstore.errors import ConfigError
from viewstore.images.colours import Numbers, Pixels
from viewstore.randomness import Integers

try:
    from viewstore.images import _crops
except ImportError:  # installed where there was no C compiler
    _crops = None  # type: ignore[assignment]
compiled = _crops

# "area" averages where both sides shrink and is "linear" elsewhere, "linear" interpolates without
# antialiasing (both as OpenCV does), "pil" is Pillow's antialiased bilinear filter, "antialias"
# torch's. No two are equal.
Filter = Literal["area", "linear", "pil", "antialias"]
STORED_FILTERS: tuple[Filter, ...] = ("area", "linear", "pil")  # what views are built with
FILTERS: tuple[Filter, ...] = (*STORED_FILTERS, "antialias")
CUT_FILTERS: tuple[Filter, ...] = ("area", "linear")  # those of `cut`

# The view to fill, uint8 [h, w, C] and C-contiguous; the box (top, left, height, width) in whole
# pixels; whether to mirror it; whether to average over areas where both sides shrink.
Crop = tuple[Pixels, Numbers, bool, bool]


def check_filter(name: str, known: Sequence[Filter] = FILTERS) -> Filter:
    """Return `name` as a resize filter. Raises ConfigError: it is none of the `known`."""
    for each in known:
        if name == each:
            return each
    raise ConfigError(f"filter must be one of {', '.join(known)}, got {name!r}")


def resize(image: Pixels, height: int, width: int) -> Pixels:
    """Return `image`, uint8 [H, W, 3], resized to `height` x `width` with the filter "area".

    The pixels are those of a crop of the whole image: an encoder is probed on what it was trained
    on. An image of that size is returned itself, not a copy.
    """
    if image.shape[:2] == (height, width):
        return image
    return crop_resize(image, (0, 0, *image.shape[:2]), (height, width), "area")


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
        filter: How it is resampled; a box of the result's size is copied by every filter.
        out: Where to write the result, C-contiguous; a new array if None.
        mirrored: Flip the result from left to right.

    Raises:
        ConfigError: A box with fractions or beyond the image, for another filter than "pil".
    """
    if out is None:
        out = np.empty((*size, image.shape[2]), np.uint8)
    if filter == "pil":
        _resize_with_pillow(image, box, out)
    else:
        top, left, height, width = _whole_box(image, box, filter)
        if filter in CUT_FILTERS or (height, width) == size:
            cut(image, [(out, (top, left, height, width), mirrored, filter == "area")])
            return out
        _resize_with_torch(image[top : top + height, left : left + width], out)
    if mirrored:
        cv2.flip(out, 1, dst=out)
    return out


def _whole_box(image: Pixels, box: Numbers, filter: Filter) -> tuple[int, int, int, int]:
    top, left, height, width = map(int, box)
    inside = top >= 0 <= left and top + height <= image.shape[0] and left + width <= image.shape[1]
    if not inside or [top, left, height, width] != [float(number) for number in box]:
        raise ConfigError(
            f"filter {filter} needs boxes of whole pixels within the image, "
            f"got {[float(number) for number in box]}; use filter pil"
        )
    return top, left, height, width


def _resize_with_pillow(image: Pixels, box: Numbers, out: Pixels) -> None:
    top, left, height, width = map(float, box)
    first_row, first_column = int(top), int(left)
    end_row, end_column = int(-(-(top + height) // 1)), int(-(-(left + width) // 1))
    part = image[first_row:end_row, first_column:end_column]
    corner = (left - first_column, top - first_row)
    # A box stored as float32 may end past the last pixel by its rounding.
    end = min(corner[0] + width, part.shape[1]), min(corner[1] + height, part.shape[0])
    picture = Image.fromarray(np.ascontiguousarray(part))
    size = out.shape[1], out.shape[0]
    out[...] = np.asarray(picture.resize(size, Image.Resampling.BILINEAR, box=(*corner, *end)))


def _resize_with_torch(image: Pixels, out: Pixels) -> None:
    import torch  # what never asks for this filter, builds for one, starts faster without it

    # A copy, since of other memory the kernel makes one in threads of its own; and an `out`,
    # without which it returns planes. torch.nn.functional.interpolate takes none.
    given = torch.from_numpy(image.copy()[None]).permute(0, 3, 1, 2)
    made = torch.from_numpy(out[None]).permute(0, 3, 1, 2)
    resize = torch.ops.aten._upsample_bilinear2d_aa.out
    resize(given, out.shape[:2], False, None, None, out=made)


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
        top, left, height, width = map(int, box)
        if (top, left, height, width) != tuple(box):
            raise ValueError("a box must be of whole pixels")
        part = image[max(top, 0) : top + height, max(left, 0) : left + width]
        if part.shape[:2] != (height, width) or not part.size:
            raise ValueError(
                f"box {top}, {left}, {height}, {width} must lie within the image, "
                f"{image.shape[0]} x {image.shape[1]}"
            )
        view_height, view_width = view.shape[:2]
        shrinks = height >= view_height and width >= view_width
        if (height, width) == (view_height, view_width):
            view[...] = part
        else:
            method = cv2.INTER_AREA if by_area and shrinks else cv2.INTER_LINEAR
            cv2.resize(part, (view_width, view_height), dst=view, interpolation=method)
        if mirrored:
            cv2.flip(view, 1, dst=view)


def warp(image: Pixels, box: Numbers, turn: float, out: Pixels) -> None:
    """Fill `out`, uint8 [h, w, 3], with the box of `image` turned about its centre.

    Linear interpolation; what lies outside repeats the border.

    Args:
        image: uint8 [H, W, 3].
        box: (top, left, height, width) in pixels, fractions too.
        turn: Angle in radians.
        out: What is filled.
    """
    top, left, height, width = map(float, box)
    rows, columns = out.shape[:2]
    cos, sin = np.cos(turn), np.sin(turn)
    step_y, step_x = height / rows, width / columns
    linear = np.array([[step_x * cos, -step_y * sin], [step_x * sin, step_y * cos]])
    centre = np.array([left + width / 2, top + height / 2]) - 0.5
    middle = np.array([columns - 1, rows - 1]) / 2
    matrix = np.column_stack([linear, centre - linear @ middle])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    out[...] = cv2.warpAffine(
        image, matrix, (columns, rows), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )


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
        whole: Move the edges to the nearest pixels, as every filter but "pil" needs; a side never
            gets shorter than the number of whole pixels that fit into it.
    """
    scale = np.asarray(reduction)[:, None]
    sides = -(-np.stack([height, width], axis=-1).astype(np.int64) // scale)  # sizes are unsigned
    start, end = boxes[:, :2] / scale, (boxes[:, :2] + boxes[:, 2:]) / scale
    if whole:
        # Halves go up on both edges; rounding them to even could take a pixel off.
        start, end = np.floor(start + 0.5), np.floor(end + 0.5)
    end = np.minimum(end, sides)
    return np.concatenate([start, end - start], axis=1).astype(np.float32)
