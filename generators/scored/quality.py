"""Measures of a picture by itself: how dark and how flat it is, and a hash that finds its like."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.format.columns import Column
from viewstore.generators.contract import Context, Rendered, Sample
from viewstore.generators.scored.described import (
    Described,
    Describes,
    columns_per_view,
    made_views,
    roles_of,
    seen_views,
    status_of,
    unwritten,
)
from viewstore.images.colours import Pixels

HASH_ROWS, HASH_COLUMNS = 8, 9  # of the luma whose neighbours are compared
LARGEST_HASH = 2**64 - 2  # 2^64-1 says that there is none
NO_TWIN = 254
LUMA = 299, 587, 114  # thousandths of red, green and blue
_COLUMNS = (
    Column(name="dhash", dtype="u8", shape=()),
    Column(name="luma_mean", dtype="f4", shape=()),
    Column(name="luma_std", dtype="f4", shape=()),
)


@dataclass(frozen=True, kw_only=True)
class Quality(Describes):
    """How dark and flat pictures are, and which views of a sample are nearly the same.

    Attributes:
        of: The view set whose views are measured, or "source" for the images.
        bits: Views of a sample whose hashes differ in so many bits at most, of 64, are twins.
        described: Roles of the measured views; recorded in the plan, never to be set.
    """

    VERSION: ClassVar[int] = 1

    bits: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.bits <= 64:
            raise ConfigError(f"quality.bits must be in [0, 64], got {self.bits}")

    def resolve(self, context: Context) -> ResolvedQuality:
        """Take on the roles of the views that are measured."""
        return ResolvedQuality(of=self.of, bits=self.bits, described=roles_of(context))


@dataclass(frozen=True, kw_only=True)
class ResolvedQuality(Described):
    """What `Quality` resolves to."""

    bits: int

    def columns(self) -> tuple[Column, ...]:
        """Return the params columns, by name."""
        twin = (Column(name="twin", dtype="u1", shape=()),) if self.views > 1 else ()
        return columns_per_view((*_COLUMNS, *twin), self.views)

    def make(self, context: Context) -> QualityGenerator:
        """Return the generator."""
        del context
        return QualityGenerator(self)


class QualityGenerator:
    """Measures the views of one sample after the other."""

    def __init__(self, settings: ResolvedQuality) -> None:
        self._settings = settings

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        """Yield the columns of each sample, in the order of the samples."""
        for sample in samples:
            made = made_views(sample)
            pixels = seen_views(sample) if made.any() else []
            params = unwritten(self._settings.columns())
            for view in np.flatnonzero(made).tolist():
                luma = luma_of(pixels[view])
                params["dhash"][view] = difference_hash(luma)
                params["luma_mean"][view], params["luma_std"][view] = brightness(luma)
            if "twin" in params:
                params["twin"] = twins(params["dhash"], made, self._settings.bits)
            yield Rendered(sample.index, None, {**params, "status": status_of(made)})


def luma_of(pixels: Pixels) -> NDArray[np.int32]:
    """Return the luma of a picture, uint8 [H, W, 3], in thousandths of a level: int32 [H, W]."""
    red, green, blue = (pixels[..., channel].astype(np.int32) for channel in range(3))
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def brightness(luma: NDArray[np.int32]) -> tuple[np.float32, np.float32]:
    """Return mean and standard deviation of a luma in thousandths, 0 to 255."""
    mean = luma.sum(dtype=np.int64) / luma.size
    deviation = np.sqrt(np.square(luma - mean).mean())
    return np.float32(mean / 1000), np.float32(deviation / 1000)


def difference_hash(luma: NDArray[np.int32]) -> np.uint64:
    """Return 64 signs of a picture by its luma [H, W]: whether it rises to the right.

    The luma is averaged over areas to 8 rows of 9; the signs go row by row, the first is the
    highest bit. Pictures that look alike have hashes that differ in a few bits. Averages are
    whole numbers times a constant, below 2^53 and so exact: equal ones never differ in a last
    digit, and a flat picture has no sign.
    """
    height, width = luma.shape
    small = _overlaps(height, HASH_ROWS) @ luma @ _overlaps(width, HASH_COLUMNS).T
    rises = np.packbits(small[:, 1:] > small[:, :-1])
    return np.uint64(min(int.from_bytes(rises.tobytes(), "big"), LARGEST_HASH))


def _overlaps(size: int, cells: int) -> NDArray[np.float64]:
    """Return how much of each of `size` pixels lies in each of `cells` equal parts of their row.

    The unit is 1 / cells of a pixel, in which all overlaps are whole: float64 [cells, size].
    """
    pixel, cell = np.arange(size) * cells, np.arange(cells)[:, None] * size
    overlap = np.minimum(pixel + cells, cell + size) - np.maximum(pixel, cell)
    found: NDArray[np.float64] = np.maximum(overlap, 0).astype(np.float64)
    return found


def twins(hashes: NDArray[np.uint64], made: NDArray[np.bool_], bits: int) -> NDArray[np.uint8]:
    """Return for each view [V] the lowest other one whose hash differs in `bits` at most.

    NO_TWIN where there is none, 255 for views that were never made.
    """
    near = np.bitwise_count(hashes[:, None] ^ hashes) <= bits
    near &= made & ~np.eye(len(hashes), dtype=np.bool_)
    found = np.where(near.any(1), near.argmax(1), NO_TWIN)
    return np.where(made, found, 255).astype(np.uint8)
