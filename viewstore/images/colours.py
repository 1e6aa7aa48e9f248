"""Colours of one view: jitter, grayscale, blur and solarize, in the arithmetic of Pillow.

The pixels are those of Pillow to the last bit, so that stored views can be rebuilt, but most
are not made by it: a change of format and back costs more than most ops. Float32 holds the whole
numbers below 2^24 that Pillow computes with, and its float32 steps are repeated one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Numbers = Sequence[float] | NDArray[Any]

COLOUR_COLUMNS = ("jitter", "jitter_order", "gray", "blur", "solarize")  # of params
NOT_APPLIED = 255  # in "jitter_order"
SOLARIZE_OFF = 256
LEVELS = 255
CIRCLE = 6 * LEVELS  # of hues: six sectors
DIFFERENCES = 2 * LEVELS + 1  # of two levels

_LEVEL = np.arange(LEVELS + 1, dtype=np.float32)
# Shares of red, green and blue in the gray level, and the half that rounds it.
_LUMA = np.array([[19595, 38470, 7471, 1 << 15]], np.float32) / np.float32(1 << 16)
# Index of a colour in the table of hues: differences to green, counted from their least.
_HUE_INDEX = np.array([[DIFFERENCES, 1 - DIFFERENCES, -1, (DIFFERENCES + 1) * LEVELS]], np.float32)


def brighten(pixels: Pixels, factor: float) -> None:
    """Multiply uint8 pixels of any shape by `factor` in place: rounded, and clamped to 255."""
    table = np.clip(np.rint(np.arange(256) * factor), 0, 255).astype(np.uint8)
    pixels[...] = table[pixels]


def recolour(
    pixels: Pixels,
    *,
    jitter: Numbers,
    jitter_order: Sequence[int] | NDArray[Any],
    gray: bool,
    blur: float,
    solarize: int,
) -> None:
    """Apply colour jitter, grayscale, blur and solarize to uint8 [H, W, 3] in place.

    Args:
        pixels: The view.
        jitter: Factors of brightness, contrast and saturation, and the hue shift in turns.
        jitter_order: The order of these four, by number; NOT_APPLIED for those that are off.
        gray: Whether all channels become the gray level.
        blur: Sigma of a Gaussian blur, in pixels; 0 is off.
        solarize: Levels from here on are inverted; SOLARIZE_OFF is off.
    """
    order = [op for op in jitter_order if op != NOT_APPLIED]
    if not (order or gray or blur > 0 or solarize < SOLARIZE_OFF):
        return
    view = pixels
    for op in order:
        view = _JITTERS[op](view, float(jitter[op]))
    if gray:  # one plane from here on: three equal ones would stay equal
        view = _luma(view.astype(np.float32)).astype(np.uint8)
    if blur > 0:
        view = np.asarray(Image.fromarray(view).filter(ImageFilter.GaussianBlur(blur)))
    if solarize < SOLARIZE_OFF:
        levels = np.arange(LEVELS + 1, dtype=np.uint8)
        view = looked_up(view, np.where(levels < solarize, levels, LEVELS - levels))
    pixels[...] = _repeated(view) if gray else view


def with_brightness(view: Pixels, factor: float) -> Pixels:
    return looked_up(view, _cut(_LEVEL * np.float32(factor), factor))


def with_contrast(view: Pixels, factor: float) -> Pixels:
    total = cv2.sumElems(_luma(view.astype(np.float32)))[0]
    mean = np.float32(int(total / (view.shape[0] * view.shape[1]) + 0.5))
    return looked_up(view, _cut(mean + np.float32(factor) * (_LEVEL - mean), factor))


def with_saturation(view: Pixels, factor: float) -> Pixels:
    levels = view.astype(np.float32)
    gray = _repeated(_luma(levels))
    levels -= gray
    levels *= np.float32(factor)
    levels += gray
    return _cut(levels, factor)


def looked_up(view: Pixels, table: Pixels) -> Pixels:
    return np.asarray(cv2.LUT(view, table), np.uint8)


def _luma(levels: Floats) -> Floats:
    """Return the gray levels of float32 [H, W, 3], whole numbers [H, W]."""
    return np.floor(np.asarray(cv2.transform(levels, _LUMA), np.float32))


def _repeated(gray: NDArray[Any]) -> NDArray[Any]:
    return cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB)


def _cut(levels: Floats, factor: float) -> Pixels:
    """Return levels blended by `factor` as uint8, cut towards zero."""
    if not 0 <= factor <= 1:
        np.maximum(levels, 0, out=levels)
        np.minimum(levels, LEVELS, out=levels)
    return levels.astype(np.uint8)


def _hue(view: Pixels, turns: float) -> Pixels:
    """Turn the hue by steps of 1/255 turn, cut towards zero; hue and saturation are uint8."""
    index = cv2.transform(view.astype(np.float32), _HUE_INDEX).astype(np.int32)
    hue = hues().take(index)
    hue += np.uint8(int(turns * LEVELS) % 256)
    red, green, blue = cv2.split(view)
    value = cv2.max(cv2.max(red, green), blue)
    chroma = cv2.subtract(value, cv2.min(cv2.min(red, green), blue))
    # One division of whole numbers below 2^24, so that its floor is exact.
    colour = np.multiply(chroma, np.float32(LEVELS))
    colour /= np.maximum(value, 1)
    np.floor(colour, out=colour)
    colour *= value
    missing = np.stack([np.asarray(cv2.LUT(hue, each), np.float32) for each in _shares()])
    missing *= colour
    missing /= np.float32(LEVELS**2)
    np.rint(missing, out=missing)
    channels = [cv2.subtract(value, each) for each in missing.astype(np.uint8)]
    return np.asarray(cv2.merge(channels), np.uint8)


@lru_cache(maxsize=1)
def hues() -> Pixels:
    """Return Pillow's hue of every difference of levels, uint8 [511 * 511].

    A colour's index is that of red - green, then of green - blue, each counted from -255. It is
    a table, as Pillow cuts what float32 and float64 in turn have made of a fraction: where that
    is whole, the hue may come out one lower.
    """
    red, blue = np.mgrid[-LEVELS : LEVELS + 1, -LEVELS : LEVELS + 1]
    colours = np.stack([red, np.zeros_like(red), -blue], axis=-1)
    colours -= colours.min(axis=-1, keepdims=True)
    possible = np.minimum(colours, LEVELS).astype(np.uint8)
    picture: Pixels = np.asarray(Image.fromarray(possible).convert("HSV"))
    return picture[..., 0].flatten()


@lru_cache(maxsize=1)
def _shares() -> Floats:
    """Return how much of the saturation red, green and blue lack at each hue, [3, 256]."""
    # The three are one function of the hue, a third of the circle apart; 255 is all.
    position = (6 * np.arange(256) + np.array([[5], [3], [1]]) * LEVELS) % CIRCLE
    shares: Floats = np.clip(np.minimum(position, 4 * LEVELS - position), 0, LEVELS).astype("f4")
    return shares


_JITTERS = (with_brightness, with_contrast, with_saturation, _hue)
