"""Crops of one image, resized and mirrored, cut all at once without the interpreter's lock.

A C module does it where one could be compiled, OpenCV elsewhere: the pixels are the same to the
last bit (docs/decisions/0005-hot-loops-in-c.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from viewstore.colours import Numbers, Pixels

try:
    from viewstore import _crops
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
