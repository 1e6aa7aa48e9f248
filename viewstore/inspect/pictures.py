"""Pictures in the sizes in which sheet and report show them, and as data URIs for the page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from viewstore.errors import ConfigError
from viewstore.images.colours import Pixels

GRID_GAP = 2
MAX_GRID_PIXELS = 64_000_000
LOSSLESS_SIDE = 64  # up to it pictures are PNG, which the page enlarges without smoothing


@dataclass(frozen=True)
class PageImage:
    """A picture in a page.

    Attributes:
        uri: Its data URI, or the relative address of it.
        small: Whether it has so few pixels that they are shown as such, not smoothed.
        larger: Address of a larger one, to which it is a link; None: there is none.
    """

    uri: str
    small: bool
    larger: str | None = None

    @property
    def lazy(self) -> bool:
        """Whether it is fetched when it comes into sight."""
        return not self.enlarges

    @property
    def enlarges(self) -> bool:
        """Whether pressing it enlarges it where it stands: it is there in full size."""
        return self.uri.startswith("data:")


def fit(pixels: Pixels, side: int, *, wide: int | None = None) -> Image.Image:
    """Return uint8 [H, W, 1 or 3] as a picture about `side` pixels high and `wide` wide at most.

    `wide` is `side` if it is not given. Small ones are enlarged by a whole factor without
    smoothing, so that pixels stay pixels.
    """
    image = _image(pixels)
    wide = side if wide is None else wide
    factor = min(side // image.height, wide // image.width)
    if factor >= 1:
        size = image.width * factor, image.height * factor
        return image.resize(size, Image.Resampling.NEAREST)
    scale = min(side / image.height, wide / image.width)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def grid(pictures: Sequence[Pixels], side: int, *, across: int | None = None) -> Image.Image:
    """Return pictures of one size, uint8 [H, W, 1 or 3], in rows of `across`, or about a square.

    Each is shown as `fit` does, with a gap of GRID_GAP white pixels between two.

    Raises:
        ConfigError: There is no picture, or the grid has more than 64 megapixels.
    """
    across = across or math.ceil(math.sqrt(len(pictures)))
    first = fit(pictures[0], side) if len(pictures) else None
    if first is None:
        raise ConfigError("a grid needs at least one image")
    step = first.width + GRID_GAP, first.height + GRID_GAP
    down = math.ceil(len(pictures) / across)
    size = across * step[0] - GRID_GAP, down * step[1] - GRID_GAP
    if size[0] * size[1] > MAX_GRID_PIXELS:
        raise ConfigError(
            f"a grid must have at most 64 megapixels; {len(pictures)} images give "
            f"{size[0] * size[1] / 1e6:.0f}",
            fix="make fewer images, or write them as .npy",
        )
    made = Image.new("RGB", size, "#ffffff")
    for number, picture in enumerate(pictures):
        row, column = divmod(number, across)
        made.paste(fit(picture, side), (column * step[0], row * step[1]))
    return made


def shrink(pixels: Pixels, side: int) -> Pixels:
    """Return uint8 [H, W, C] no longer than `side` pixels on its longer side."""
    return pixels if max(pixels.shape[:2]) <= side else np.asarray(fit(pixels, side))


def page_image(pixels: Pixels | None, side: int, quality: int) -> PageImage | None:
    """Return a picture for a page, encoded anew: stored bytes never reach the page.

    Args:
        pixels: uint8 [H, W, 1 or 3]; None gives None.
        side: Greatest longer side, in pixels.
        quality: Of the JPEG, 1 to 95; pictures up to 64 pixels are PNG.
    """
    if pixels is None:
        return None
    pixels = shrink(pixels, side)
    small = max(pixels.shape[:2]) <= LOSSLESS_SIDE
    file = io.BytesIO()
    if small:
        _image(pixels).save(file, "PNG", optimize=True)
    else:
        _image(pixels).save(file, "JPEG", quality=quality, optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    return PageImage(f"data:image/{'png' if small else 'jpeg'};base64,{data}", small)


def _image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels if pixels.shape[2] == 3 else pixels.repeat(3, axis=2))
