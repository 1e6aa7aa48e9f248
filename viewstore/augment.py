"""What augmentation policies are made of: draws of params, and the cutting of drawn boxes.

Draws are vectorised over samples and views and return params in the dtypes that a store keeps,
so that a view rebuilt from its stored params is the same view bit for bit. Rendering is pure.
Source: arXiv:2002.05709, appendix A; boxes as in torchvision's RandomResizedCrop.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from viewstore import antialias
from viewstore.colours import NOT_APPLIED, Numbers, Pixels
from viewstore.crops import cut
from viewstore.errors import ConfigError
from viewstore.randomness import Integers, Op, Stream, integers

Filter = Literal["area", "linear", "pil", "antialias"]
Range = tuple[float, float]

STORED_FILTERS: tuple[Filter, ...] = ("area", "linear", "pil")  # what views are built with
FILTERS: tuple[Filter, ...] = (*STORED_FILTERS, "antialias")
CUT_FILTERS: tuple[Filter, ...] = ("area", "linear")  # of which one call makes many views
CROP_ATTEMPTS = 10
_ORDERS = np.array(list(itertools.permutations(range(4))), np.uint8)
_NO_JITTER = np.array([1, 1, 1, 0], np.float32)


def draw_crop(
    stream: Stream,
    index: Integers,
    view: Integers,
    height: Integers,
    width: Integers,
    *,
    scale: Range,
    ratio: Range,
) -> NDArray[np.float32]:
    """Return crop boxes (top, left, height, width) in source pixels, float32 [..., 4].

    Ten attempts at an area in `scale` and a log-uniform aspect ratio (width / height) in
    `ratio`; where none fits, the largest centred box with the ratio clamped.
    """
    given = (np.asarray(each, np.int64) for each in (index, view, height, width))
    rows, views, heights, widths = np.broadcast_arrays(*given)
    shape = rows.shape
    rows, views, heights, widths = (a.reshape(-1) for a in (rows, views, heights, widths))
    boxes = _centred_boxes(heights, widths, ratio)
    left_over = np.arange(len(rows))
    for attempt in range(CROP_ATTEMPTS):
        u = stream.uniform(Op.CROP, rows[left_over], views[left_over], first_block=attempt)
        drawn, fits = _attempt(u, heights[left_over], widths[left_over], scale, ratio)
        boxes[left_over[fits]] = drawn[fits]
        left_over = left_over[~fits]
        if not len(left_over):
            break
    return boxes.reshape(*shape, 4).astype(np.float32)


def _attempt(
    u: NDArray[np.float64],
    height: NDArray[Any],
    width: NDArray[Any],
    scale: Range,
    ratio: Range,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    area = height * width * (scale[0] + u[:, 0] * (scale[1] - scale[0]))
    low, high = np.log(ratio)
    aspect = np.exp(low + u[:, 1] * (high - low))
    wide = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    tall = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (wide >= 1) & (wide <= width) & (tall >= 1) & (tall <= height)
    top = integers(u[:, 2], height - tall + 1)
    left = integers(u[:, 3], width - wide + 1)
    return np.stack([top, left, tall, wide], axis=1), fits


def _centred_boxes(height: NDArray[Any], width: NDArray[Any], ratio: Range) -> NDArray[np.int64]:
    narrow = width / height < ratio[0]
    broad = width / height > ratio[1]
    tall = np.where(narrow, np.rint(width / ratio[0]), height).astype(np.int64)
    wide = np.where(broad, np.rint(height * ratio[1]), width).astype(np.int64)
    return np.stack([(height - tall) // 2, (width - wide) // 2, tall, wide], axis=1)


def draw_switch(
    stream: Stream, op: Op, index: Integers, view: Integers, probability: float
) -> NDArray[np.bool_]:
    """Return where word 0 of `op` says yes, bool [...]; 0 and 1 need no draw."""
    if probability in (0, 1):
        return np.full(np.broadcast_shapes(np.shape(index), np.shape(view)), bool(probability))
    words = stream.words(op, index, view)[..., 0]
    return np.asarray(words < probability * 2.0**32)


def draw_jitter(
    stream: Stream,
    index: Integers,
    view: Integers,
    *,
    strength: tuple[float, float, float, float],
    probability: float,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return colour factors, float32 [..., 4], and the order of the four ops, uint8 [..., 4].

    Brightness, contrast and saturation lie in [1 - x, 1 + x], the hue shift in [-x, x] turns.
    Where the jitter is off they are 1, 1, 1, 0 and the order is 255.
    """
    u = stream.uniform(Op.JITTER, index, view, blocks=2)
    factors = _NO_JITTER + (2 * u[..., 4:] - 1) * strength
    factors[..., :3] = np.maximum(factors[..., :3], 0)
    order = _ORDERS[integers(stream.uniform(Op.JITTER_ORDER, index, view)[..., 0], len(_ORDERS))]
    off = u[..., 0] >= probability
    factors[off] = _NO_JITTER
    order[off] = NOT_APPLIED
    return factors.astype(np.float32), order


def draw_blur(
    stream: Stream, index: Integers, view: Integers, *, sigma: Range, probability: float
) -> NDArray[np.float32]:
    """Return the sigma of a Gaussian blur in output pixels, float32 [...]; 0 is off."""
    if probability == 0:
        return np.zeros(np.broadcast_shapes(np.shape(index), np.shape(view)), np.float32)
    u = stream.uniform(Op.BLUR, index, view)
    drawn = sigma[0] + u[..., 1] * (sigma[1] - sigma[0])
    return np.where(u[..., 0] < probability, drawn, 0).astype(np.float32)


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
        antialias.resize_into(image[top : top + tall, left : left + wide], out)
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
