"""Small pictures of one view or original: read, decoded within limits, and encoded anew."""

from __future__ import annotations

import io
import textwrap
from html import escape

import numpy as np
from PIL import Image

from viewstore.images.colours import Pixels
from viewstore.images.decode import REDUCTIONS
from viewstore.inspect.pictures import LOSSLESS_SIDE
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

SIDES = (96, 224, 448)  # of the longer side, in pixels, of the pictures that can be had
MAX_BYTES = {96: 12_000, 224: 12_000, 448: 48_000}  # the last has four times the pixels
QUALITIES = (85, 75, 60, 45, 30, 15)
GREY, WORDS = "#dcdcda", "#4a4a4a"
LETTER, LINE = 7, 16  # pixels that a letter is wide, and a line of words high


def view_picture(view_set: ViewSet, row: int, view: int, side: int) -> bytes:
    """Return a view as PNG or JPEG, its longer side `side` pixels at most.

    Raises:
        ViewStoreError: It was not built, or cannot be read.
    """
    return encoded(view_set.view(row, view), side)


def original_picture(store: Store, row: int, side: int) -> bytes:
    """Return a source image as PNG or JPEG, its longer side `side` pixels at most.

    A JPEG is decoded from as few of its coefficients as that takes. EXIF orientation is not
    applied: crop boxes lie on the decoder's grid.

    Raises:
        ViewStoreError: It cannot be reached, or is not the one the store was begun with.
    """
    data = store.source.read(row)
    longer = max(int(store.table.height[row]), int(store.table.width[row]))
    reduction = max(each for each in REDUCTIONS if each == 1 or longer // each >= side)
    return encoded(store.source.decode(row, data, reduction)[0], side)


def encoded(pixels: Pixels, side: int) -> bytes:
    """Return uint8 [H, W, 1 or 3] as a file of a picture with at most `side` pixels a side.

    Pictures of up to 64 pixels are PNG, larger ones JPEG: of less quality, and at last of fewer
    pixels, until they have no more than MAX_BYTES[side].
    """
    image = Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
    image.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    if max(image.size) <= LOSSLESS_SIDE:
        data = _saved(image, format="PNG")
        if len(data) <= MAX_BYTES[side]:
            return data
    while True:
        for quality in QUALITIES:
            data = _saved(image, format="JPEG", quality=quality)
            if len(data) <= MAX_BYTES[side]:
                return data
        image = image.resize((image.width * 3 // 4 or 1, image.height * 3 // 4 or 1))


def media_type(picture: bytes) -> str:
    """Return the media type of what `encoded` gave."""
    return "image/png" if picture.startswith(b"\x89PNG") else "image/jpeg"


def placeholder(words: str, height: int, width: int) -> bytes:
    """Return a grey field as SVG, as high and wide as the picture that cannot be shown."""
    scale = 224 / max(height, width)
    wide, high = max(96, round(width * scale)), max(40, round(height * scale))
    lines = textwrap.wrap(words, max(wide // LETTER, 8), max_lines=max(high // LINE, 1))
    first = high / 2 + 4 - LINE * (len(lines) - 1) / 2
    text = "".join(
        f'<tspan x="{wide / 2}" y="{first + LINE * number:g}">{escape(line)} </tspan>'
        for number, line in enumerate(lines)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" '
        f'height="{high}"><rect width="{wide}" height="{high}" fill="{GREY}"/>'
        f'<text text-anchor="middle" font-size="13" '
        f'font-family="sans-serif" fill="{WORDS}">{text}</text></svg>'
    ).encode()


def _saved(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, **options)  # type: ignore[arg-type]
    return file.getvalue()
