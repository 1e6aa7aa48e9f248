"""Measures of a picture by itself: how dark and how flat it is, and a hash that finds its like."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.format.columns import Column
from viewstore.format.plan import SOURCE
from viewstore.generators.contract import Context, Input, OfSource, Rendered, Sample
from viewstore.generators.scored.described import (
    columns_per_view,
    inputs_of,
    roles_of,
    seen_views,
    status_of,
)
from viewstore.images.colours import Pixels

HASH_SIZE = 9, 8  # width and height of the luma whose neighbours are compared
LARGEST_HASH = 2**64 - 2  # 2^64-1 says that there is none
NO_TWIN = 254
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_COLUMNS = (
    Column(name="dhash", dtype="u8", shape=()),
    Column(name="luma_mean", dtype="f4", shape=()),
    Column(name="luma_std", dtype="f4", shape=()),
)


@dataclass(frozen=True, kw_only=True)
class Quality(OfSource):
    """How dark and flat pictures are, and which views of a sample are nearly the same.

    Attributes:
        of: The view set whose views are measured, or "source" for the images.
        bits: Views of a sample whose hashes differ in so many bits at most, of 64, are twins.
        described: Roles of the measured views; recorded in the plan, never to be set.
    """

    VERSION: ClassVar[int] = 1
    KIND: ClassVar[Literal["pixels", "columns"]] = "columns"

    of: str = SOURCE
    bits: int = 4
    described: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.bits <= 64:
            raise ConfigError(f"quality.bits must be in [0, 64], got {self.bits}")

    @property
    def height(self) -> None:
        """Columns have no size."""
        return None

    def resolve(self, context: Context) -> ResolvedQuality:
        """Take on the roles of the views that are measured."""
        return ResolvedQuality(of=self.of, bits=self.bits, described=roles_of(context))

    def inputs(self) -> Mapping[str, Input]:
        """Return the view set that is measured, unless it is the images."""
        return inputs_of(self.of)

    def reads_source(self) -> bool:
        """Return whether the images are measured."""
        return self.of == SOURCE


@dataclass(frozen=True, kw_only=True)
class ResolvedQuality:
    """What `Quality` resolves to; `described` are the roles of the measured views."""

    of: str
    bits: int
    described: tuple[str, ...]

    @property
    def views(self) -> int:
        """Views per sample of what is measured."""
        return len(self.described)

    @property
    def height(self) -> int:
        """Return 0: columns have no size."""
        return 0

    @property
    def width(self) -> int:
        """Return 0: columns have no size."""
        return 0

    def roles(self) -> tuple[str, ...]:
        """Return the roles of the measured views."""
        return self.described

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
            pixels, made = seen_views(sample)
            empty = {each.name: each.empty(1)[0] for each in self._settings.columns()}
            for view in np.flatnonzero(made).tolist():
                empty["dhash"][view] = difference_hash(pixels[view])
                mean, std = brightness(pixels[view])
                empty["luma_mean"][view], empty["luma_std"][view] = mean, std
            if "twin" in empty:
                empty["twin"] = twins(empty["dhash"], made, self._settings.bits)
            yield Rendered(sample.index, None, {**empty, "status": status_of(made)})


def brightness(pixels: Pixels) -> tuple[np.float32, np.float32]:
    """Return mean and standard deviation of the luma of a picture, 0 to 255."""
    luma = (pixels @ LUMA).astype(np.float64)
    return np.float32(luma.mean()), np.float32(luma.std())


def difference_hash(pixels: Pixels) -> np.uint64:
    """Return 64 signs of a picture, uint8 [H, W, 3]: whether the luma rises to the right.

    The luma is averaged over areas to 8 rows of 9; the signs go row by row, the first is the
    highest bit. Pictures that look alike have hashes that differ in a few bits.
    """
    small = cv2.resize(pixels @ LUMA, HASH_SIZE, interpolation=cv2.INTER_AREA)
    rises = np.packbits(small[:, 1:] > small[:, :-1])
    return np.uint64(min(int.from_bytes(rises.tobytes(), "big"), LARGEST_HASH))


def twins(hashes: NDArray[np.uint64], made: NDArray[np.bool_], bits: int) -> NDArray[np.uint8]:
    """Return for each view [V] the lowest other one whose hash differs in `bits` at most.

    NO_TWIN where there is none, 255 for views that were never made.
    """
    near = np.bitwise_count(hashes[:, None] ^ hashes) <= bits
    near &= made & ~np.eye(len(hashes), dtype=np.bool_)
    found = np.where(near.any(1), near.argmax(1), NO_TWIN)
    return np.where(made, found, 255).astype(np.uint8)
