"""Source images for the benchmark: many JPEGs of at most 512 px, cut from real photographs."""

from __future__ import annotations

import io
import itertools
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.images.decode import decode, probe
from viewstore.images.jpg import Jpg
from viewstore.images.resize import resize
from viewstore.randomness import Stream

MOST_PIXELS = 512
LEAST_PIXELS = 320  # of a photograph whose square part is compared: it must shrink to 224
PER_TAR = 256
SUFFIXES = (".jpg", ".jpeg")


def photographs(folder: Path) -> list[Path]:
    """Return the JPEG files below a folder, by name. Raises ConfigError: there are none."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ConfigError(
            f"there are no JPEG files below {folder}", fix="name a folder of photographs: --photos"
        )
    return found


def cut(image: NDArray[np.uint8], number: int, *, square: bool) -> NDArray[np.uint8]:
    """Return part `number` of a photograph: half or more of its area, at most 512 px."""
    height, width = image.shape[:2]
    share, top, left = Stream(0).uniform(0, np.array(number), 0)[:3]
    side = (0.5 + 0.5 * share) ** 0.5
    h, w = round(height * side), round(width * side)
    if square:
        h = w = min(h, w)
    top, left = round(top * (height - h)), round(left * (width - w))
    part = image[top : top + h, left : left + w]
    scale = MOST_PIXELS / max(h, w)
    if scale >= 1:
        return np.ascontiguousarray(part)
    return resize(part, max(1, round(h * scale)), max(1, round(w * scale)))


def jpegs(sources: list[Path], count: int, *, square: bool) -> Iterator[bytes]:
    """Yield `count` JPEGs of quality 90; photographs come round again with other parts."""
    codec = Jpg()
    if square:
        sources = [path for path in sources if min(probe(path.read_bytes())[:2]) >= LEAST_PIXELS]
    for number in range(count):
        image = decode(sources[number % len(sources)].read_bytes())
        yield codec.encode(cut(image, number, square=square))


def write_tars(folder: Path, images: Iterator[bytes]) -> None:
    """Write images as WebDataset tars of 256, each with its number as class."""
    folder.mkdir(parents=True)
    for first in itertools.count(step=PER_TAR):
        part = list(itertools.islice(images, PER_TAR))
        if not part:
            return
        path = folder / f"{first // PER_TAR:04d}.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, image in enumerate(part, first):
                for suffix, data in (("jpg", image), ("cls", str(number).encode())):
                    entry = tarfile.TarInfo(f"{number:05d}.{suffix}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
