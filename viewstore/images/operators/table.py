"""The operators: pure functions of a picture and a value, and the table of their numbers.

The pixels are Pillow's to the last bit, though tables of levels make some of them faster.
Sources: DSSL (arXiv:2110.13555) and its public code, RandAugment (arXiv:1909.13719), UniformAugment
(arXiv:2003.14348).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from viewstore.images.colours import (
    LEVELS,
    Pixels,
    looked_up,
    with_brightness,
    with_contrast,
    with_saturation,
)

Affine = tuple[float, float, float, float, float, float]
Render = Callable[[Pixels, float], Pixels]

CUT_OUT = (125, 123, 114)  # the colour of what a cutout hides
DEPTH = 8  # bits of a level
ADD_THRESHOLD = 128  # of SolarizeAdd
LARGEST = 65536  # of all values and coordinates that a renderer is given
_LEVEL = np.arange(LEVELS + 1)


def autocontrast(view: Pixels, value: float) -> Pixels:
    """Stretch the levels of each channel to 0..255."""
    del value
    return np.asarray(ImageOps.autocontrast(Image.fromarray(view)))


def equalize(view: Pixels, value: float) -> Pixels:
    """Even out the histogram of each channel."""
    del value
    return np.asarray(ImageOps.equalize(Image.fromarray(view)))


def invert(view: Pixels, value: float) -> Pixels:
    """Turn each level x into 255 - x."""
    del value
    return LEVELS - view


def identity(view: Pixels, value: float) -> Pixels:
    """Change nothing."""
    del value
    return view


def rotate(view: Pixels, value: float) -> Pixels:
    """Turn by `value` degrees, counter-clockwise; what comes in from outside is black."""
    return np.asarray(Image.fromarray(view).rotate(value))


def posterize(view: Pixels, value: float) -> Pixels:
    """Keep the upper int(`value`) bits of each level, at least one."""
    bits = min(max(1, int(value)), DEPTH)
    return view & np.uint8(LEVELS ^ (LEVELS >> bits))


def solarize(view: Pixels, value: float) -> Pixels:
    """Invert the levels from `value` on."""
    return looked_up(view, np.where(value <= _LEVEL, LEVELS - _LEVEL, _LEVEL).astype(np.uint8))


def solarize_add(view: Pixels, value: float) -> Pixels:
    """Add `value`, cut to whole levels, then invert those from 128 on."""
    added = np.clip(_LEVEL + value, 0, LEVELS).astype(np.uint8)
    return looked_up(view, np.where(added < ADD_THRESHOLD, added, LEVELS - added))


def sharpen(view: Pixels, value: float) -> Pixels:
    """Blend with the smoothed picture; 1 is the identity, less is blurred, more sharpened."""
    return np.asarray(ImageEnhance.Sharpness(Image.fromarray(view)).enhance(value))


def shear_x(view: Pixels, value: float) -> Pixels:
    """Shift row y by `value` * y pixels to the left."""
    return _affine(view, (1, value, 0, 0, 1, 0))


def shear_y(view: Pixels, value: float) -> Pixels:
    """Shift column x by `value` * x pixels upwards."""
    return _affine(view, (1, 0, 0, value, 1, 0))


def shift_x(view: Pixels, value: float) -> Pixels:
    """Shift by `value` pixels to the left."""
    return _affine(view, (1, 0, value, 0, 1, 0))


def shift_y(view: Pixels, value: float) -> Pixels:
    """Shift by `value` pixels upwards."""
    return _affine(view, (1, 0, 0, 0, 1, value))


def shift_x_by_share(view: Pixels, value: float) -> Pixels:
    """Shift by `value` of the width to the left."""
    return shift_x(view, value * view.shape[1])


def shift_y_by_share(view: Pixels, value: float) -> Pixels:
    """Shift by `value` of the height upwards."""
    return shift_y(view, value * view.shape[0])


def _affine(view: Pixels, matrix: Affine) -> Pixels:
    """Show at (x, y) the pixel nearest to its place under `matrix`; black outside."""
    image = Image.fromarray(view)
    return np.asarray(image.transform(image.size, Image.Transform.AFFINE, matrix))


def cut_out(view: Pixels, side: float, x: float, y: float) -> Pixels:
    """Hide a square of `side` pixels around (x, y) behind CUT_OUT.

    The corners are DSSL's: the first is cut to whole pixels and at least 0, the last is as far
    from it as the square is wide, at most the size of the view, and hidden too.
    """
    height, width = view.shape[:2]
    left, top = int(max(0, x - side / 2)), int(max(0, y - side / 2))
    right, bottom = int(min(width, left + side)), int(min(height, top + side))
    hidden = view.copy()
    hidden[top : bottom + 1, left : right + 1] = CUT_OUT
    return hidden


@dataclass(frozen=True)
class Operator:
    """One row of the table.

    Attributes:
        name: As RandAugment's literature writes it.
        render: Returns the picture, uint8 [H, W, 3], with a value applied; None for a cutout.
        has_value: Whether a value matters.
        cuts: "pixels" or "share": the operator is a cutout around a point of its own, and its
            value is the side in pixels or as a share of the width. Else "".
    """

    name: str
    render: Render | None
    has_value: bool = True
    cuts: str = ""

    def __call__(self, view: Pixels, value: float, x: float, y: float) -> Pixels:
        """Return `view` with the operator of this value and, for a cutout, centre applied."""
        if self.render is not None:
            return self.render(view, value)
        return cut_out(view, value * view.shape[1] if self.cuts == "share" else value, x, y)


# A number is the place in this table, for ever: stores keep it. The first 16 are DSSL's.
OPERATORS: tuple[Operator, ...] = (
    Operator("AutoContrast", autocontrast, has_value=False),
    Operator("Equalize", equalize, has_value=False),
    Operator("Invert", invert, has_value=False),
    Operator("Rotate", rotate),
    Operator("Posterize", posterize),
    Operator("Solarize", solarize),
    Operator("SolarizeAdd", solarize_add),
    Operator("Color", with_saturation),
    Operator("Contrast", with_contrast),
    Operator("Brightness", with_brightness),
    Operator("Sharpness", sharpen),
    Operator("ShearX", shear_x),
    Operator("ShearY", shear_y),
    Operator("CutoutAbs", None, cuts="pixels"),
    Operator("TranslateXabs", shift_x),
    Operator("TranslateYabs", shift_y),
    Operator("TranslateX", shift_x_by_share),
    Operator("TranslateY", shift_y_by_share),
    Operator("Cutout", None, cuts="share"),
    Operator("Identity", identity, has_value=False),
)
NUMBERS = {operator.name: number for number, operator in enumerate(OPERATORS)}
