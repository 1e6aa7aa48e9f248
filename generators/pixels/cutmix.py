"""CutMix views: each view of another set with a box of a view of another image.

Source: CutMix (arXiv:1905.04899), with the shares of HEXA (section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.format.columns import MADE, Column, Status
from viewstore.generators.contract import (
    PARENT,
    Context,
    Input,
    OfSource,
    Reach,
    Rendered,
    Sample,
    check_form_of,
)
from viewstore.images.colours import Pixels
from viewstore.images.cutmix import UNIFORMS, boxes_of, kept_shares, shares_of
from viewstore.randomness import Op, integers

STANDARD = "simclr"  # the view set that is mixed where none is named
WORDS = 12  # of a view: those of its share, then two of its centre
PARTNERS = 16  # that are drawn of a view: the first whose view was made is taken


@dataclass(frozen=True, kw_only=True)
class CutMix(OfSource):
    """The user's settings of CutMix views.

    View v of an image is view v of the other set with a box of view v of another image, which is
    drawn out of the whole store. No labels are mixed: training finds the partner's by its row.

    Attributes:
        of: The view set that is mixed.
        views: Views of each sample; recorded in the plan, never to be set.
        height, width: Of the views; recorded in the plan, never to be set.
    """

    VERSION: ClassVar[int] = 1

    of: str = STANDARD
    views: int | None = None
    height: int | None = None
    width: int | None = None

    def inputs(self) -> Mapping[str, Input]:
        """Return the view set that is mixed."""
        return {PARENT: Input(self.of)}

    def reach(self) -> Reach:
        """Return "set": a partner may be any row."""
        return "set"

    def reads_source(self) -> bool:
        """Return that no source image is opened."""
        return False

    def resolve(self, context: Context) -> ResolvedCutMix:
        """Take on the form of the other set. Raises ConfigError: another one was asked for."""
        parent = context.parent
        if parent is None:
            raise ConfigError(f"cutmix mixes the views of {self.of!r}, got none")
        check_form_of("cutmix", self, parent)
        return ResolvedCutMix(
            of=self.of, views=parent.num_views, height=parent.height, width=parent.width
        )


@dataclass(frozen=True, kw_only=True)
class ResolvedCutMix:
    """What `CutMix` resolves to; its attributes are those of `CutMix`."""

    of: str
    views: int
    height: int
    width: int

    def roles(self) -> tuple[str, ...]:
        """Return the role of each view: "cutmix"."""
        return ("cutmix",) * self.views

    def columns(self) -> tuple[Column, ...]:
        """Return the params columns, by name."""
        return (
            Column(name="mix_box", dtype="i4", shape=(self.views, 4)),
            Column(name="mix_lambda", dtype="f4", shape=(self.views,)),
            Column(name="mix_lambda0", dtype="f4", shape=(self.views,)),
            Column(name="mix_partner", dtype="i8", shape=(self.views,)),
            Column(name="parent", dtype="i4", shape=(self.views,)),
            Column(name="status", dtype="u1", shape=(self.views,)),
        )

    def make(self, context: Context) -> CutMixGenerator:
        """Return the generator."""
        return CutMixGenerator(self, context)


class CutMixGenerator:
    """Draws shares, boxes and partners by (seed, sample, view), and pastes."""

    def __init__(self, settings: ResolvedCutMix, context: Context) -> None:
        assert context.parent is not None, "resolve refuses to go without"
        self._settings = settings
        self._others = context.parent
        self._made = np.isin(context.parent.params["status"], MADE)
        self._num_samples = context.num_samples
        self._stream = context.stream

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        """Yield the views of each sample, in the order of the samples."""
        return map(self._mixed, samples)

    def _mixed(self, sample: Sample) -> Rendered:
        settings, views = self._settings, np.arange(self._settings.views)
        assert sample.parent is not None, "resolve refuses to go without"
        uniform = self._stream.uniform(Op.CUTMIX, sample.index, views, blocks=WORDS // 4)
        shares = shares_of(uniform[:, :UNIFORMS])
        centres = uniform[:, UNIFORMS : UNIFORMS + 2]
        boxes = boxes_of(shares, centres, settings.height, settings.width)
        partners, made = self._partners(sample.index)
        made &= np.isin(sample.parent.status, MADE)
        pixels = np.zeros((settings.views, settings.height, settings.width, 3), np.uint8)
        for view in np.flatnonzero(made).tolist():
            own, other = sample.parent.pixels()[view], self._others[int(partners[view])][view]
            pixels[view] = pasted(own, other, boxes[view])
        return Rendered(
            sample.index,
            pixels,
            {
                "mix_box": boxes.astype(np.int32),
                "mix_lambda": kept_shares(boxes, settings.height, settings.width).astype("f4"),
                "mix_lambda0": shares.astype(np.float32),
                "mix_partner": partners,
                "parent": views.astype(np.int32),
                "status": np.where(made, Status.OK, Status.FAILED).astype(np.uint8),
            },
        )

    def _partners(self, row: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the partner of each view of a row, and whether its view was made, [V] each."""
        views = np.arange(self._settings.views)
        uniform = self._stream.uniform(Op.CUTMIX_PARTNER, row, views, blocks=PARTNERS // 4)
        drawn = integers(uniform, self._num_samples)
        made: NDArray[np.bool_] = self._made[drawn, views[:, None]]
        return drawn[views, made.argmax(axis=1)], np.asarray(made.any(axis=1))


def pasted(own: Pixels, other: Pixels, box: NDArray[np.int64]) -> Pixels:
    """Return a view [H, W, C] with the box (x0, y0, x1, y1) of another."""
    mixed = own.copy()
    x0, y0, x1, y1 = box
    mixed[y0:y1, x0:x1] = other[y0:y1, x0:x1]
    return mixed
