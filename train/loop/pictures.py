"""A picture of a batch as it is trained on: a line for each sample, a column for each view."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from viewstore.files.disk import write_atomic
from viewstore.images.colours import Pixels

BATCH = "batch.png"
SAMPLES = 6  # that a picture shows
SIDE = 96  # of a view in it, in pixels
GAP, CAPTION = 4, 16
INK, PAPER = "#1b1b1b", "#ffffff"


def batch_picture(views: Sequence[Tensor], roles: Sequence[str]) -> Pixels:
    """Return the first samples of a batch with all their views, uint8 [H, W, 3].

    Args:
        views: V x [B, 1 or 3, r, r], levels from 0 to 255: uint8, or floats, which are rounded.
        roles: Of each view, which its column is headed with.
    """
    rows = min(SAMPLES, len(views[0]))
    step = SIDE + GAP
    picture = Image.new("RGB", (len(views) * step - GAP, CAPTION + rows * step - GAP), PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(11)
    for column, (view, role) in enumerate(zip(views, roles, strict=True)):
        draw.text((column * step, 1), f"{column} {role}", fill=INK, font=font)
        for row, image in enumerate(_levels(view[:rows])):
            picture.paste(_shown(image), (column * step, CAPTION + row * step))
    return np.asarray(picture)


def save_picture(path: Path, picture: Pixels) -> None:
    """Replace the file `path` by a picture, uint8 [H, W, 3], as PNG."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    write_atomic(path, file.getvalue())


def _levels(images: Tensor) -> Pixels:
    """Return levels [B, C, r, r] as uint8 [B, r, r, 3] on the CPU."""
    images = images.detach().cpu()
    if images.is_floating_point():
        images = images.float().round().clamp(0, 255)
    found: Pixels = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).byte().numpy()
    return found


def _shown(image: Pixels) -> Image.Image:
    """Return an image SIDE pixels wide and high: its pixels stay pixels where it is small."""
    small = len(image) <= SIDE
    how = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    return Image.fromarray(np.ascontiguousarray(image)).resize((SIDE, SIDE), how)
