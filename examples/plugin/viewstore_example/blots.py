"""The generator `blots`: the source image with one gray square on it (Cutout, arXiv:1708.04552)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.format.columns import Column
from viewstore.generators.contract import Context, OfSource, Rendered, Sample
from viewstore.images.resize import resize
from viewstore.randomness import Op, Stream

GRAY = 128


@dataclass(frozen=True, kw_only=True)
class Blots(OfSource):
    """Views with one gray square each.

    Attributes:
        views: Number of views of each sample.
        height, width: Size of the views in pixels. Automatic is that of the source where all its
            images are alike, else 32.
        share: Side of the square, as a share of the shorter side of the view.
    """

    VERSION: ClassVar[int] = 1

    views: int = 2
    height: int | None = None
    width: int | None = None
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(f"blots.share must be in (0, 1], got {self.share}")

    def resolve(self, context: Context) -> ResolvedBlots:
        """Fill in the size of the views."""
        return ResolvedBlots(
            views=self.views,
            height=self.height or context.source_height or 32,
            width=self.width or context.source_width or 32,
            share=self.share,
        )


@dataclass(frozen=True, kw_only=True)
class ResolvedBlots:
    """What `Blots` resolves to; its attributes are those of `Blots`."""

    views: int
    height: int
    width: int
    share: float

    @property
    def side(self) -> int:
        """Side of the square in pixels."""
        return max(1, round(self.share * min(self.height, self.width)))

    def roles(self) -> tuple[str, ...]:
        """Return the role of each view."""
        return ("expert",) * self.views

    def columns(self) -> tuple[Column, ...]:
        """Return the params columns: where the square lies, and what became of each view."""
        return (
            Column(name="status", dtype="u1", shape=(self.views,)),
            Column(name="x_corner", dtype="u2", shape=(self.views, 2)),
        )

    def make(self, context: Context) -> BlotsGenerator:
        """Return the generator."""
        return BlotsGenerator(self, context.stream)


class BlotsGenerator:
    """Draws the corner of each square by (seed, sample, view), and by nothing else."""

    def __init__(self, settings: ResolvedBlots, stream: Stream) -> None:
        self.settings = settings
        self.stream = stream

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        """Yield the views of each sample, in the order of the samples."""
        s = self.settings
        for sample in samples:
            u = self.stream.uniform(Op.CROP, sample.index, np.arange(s.views))[:, :2]
            corner = np.floor(u * (s.height - s.side + 1, s.width - s.side + 1)).astype(np.uint16)
            status = np.ones(s.views, np.uint8)
            yield Rendered(
                sample.index,
                self._pixels(sample.image, corner),
                {"status": status, "x_corner": corner},
            )

    def _pixels(self, image: NDArray[np.uint8], corner: NDArray[np.uint16]) -> NDArray[np.uint8]:
        s = self.settings
        views = np.repeat(resize(image, s.height, s.width)[None], s.views, axis=0)
        for view, (top, left) in zip(views, corner.tolist(), strict=True):
            view[top : top + s.side, left : left + s.side] = GRAY
        return views
