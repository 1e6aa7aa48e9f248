"""What a policy is, and the standard one: crop, flip, jitter, grayscale, blur, solarize."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.format.columns import Column
from viewstore.images import colours, draws, resize
from viewstore.images.colours import Pixels
from viewstore.images.draws import Range
from viewstore.images.resize import Filter
from viewstore.randomness import Integers, Op, Stream

Drawn = dict[str, NDArray[Any]]
# What recorded params may say; a policy draws no more.
MOST_FACTOR = 10.0  # of brightness, contrast and saturation
MOST_BLUR = 64.0  # pixels


class ViewPolicy(Protocol):
    """How one view of a sample is drawn and rendered."""

    @property
    def name(self) -> str:
        """Name in the table."""

    @property
    def role(self) -> str:
        """Purpose of the view: "expert", "global" or "local"."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """The params of one view."""

    @property
    def whole_pixels(self) -> bool:
        """Whether crop boxes begin and end between pixels."""

    def for_size(self, height: int, width: int) -> Self:
        """Return the policy for views of this size."""

    def draw(
        self,
        stream: Stream,
        index: Integers,
        view: Integers,
        height: Integers,
        width: Integers,
    ) -> Drawn:
        """Return params by column, [..., *shape] in the stored dtypes; arguments broadcast."""

    def render(
        self,
        image: Pixels,
        params: Mapping[str, Any],
        size: tuple[int, int],
        filter: Filter,
        out: Pixels | None = None,
    ) -> Pixels:
        """Return the view with these params, uint8 [height, width, 3]. Pure: it replays too."""


MOST_RATIO = 100  # of the width of a crop to its height, and the other way round
MOST_SIDE = 1 << 20  # of a view, in pixels: no larger one exists


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Random resized crop, flip, colour jitter, grayscale, blur, solarize: in this order.

    Attributes:
        name: Name in the table.
        role: Purpose of the view.
        crop: Whether there is a crop; else the box is the whole image.
        scale: Least and greatest area of the crop box, as a share of the image's.
        ratio: Least and greatest width / height of the crop box.
        flip, gray, solarize: Probabilities.
        jitter: Strength of brightness, contrast, saturation and hue.
        jitter_probability: Of jittering at all.
        blur: Probability of a Gaussian blur.
        sigma: Least and greatest sigma of the blur, in output pixels.
        blur_above: Views of this many pixels or fewer a side are never blurred.
        threshold: Values from here on are inverted by solarize.
    """

    name: str
    role: str = "expert"
    crop: bool = True
    scale: Range = (0.2, 1.0)
    ratio: Range = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_probability: float = 0.8
    gray: float = 0.2
    blur: float = 0.0
    sigma: Range = (0.1, 2.0)
    blur_above: int = 0
    solarize: float = 0.0
    threshold: int = 128

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError(f"policy scale must satisfy 0 < low <= high <= 1, got {self.scale}")
        if not 1 / MOST_RATIO <= self.ratio[0] <= self.ratio[1] <= MOST_RATIO:
            raise ConfigError(
                f"policy ratio must satisfy 1/{MOST_RATIO} <= low <= high <= {MOST_RATIO}, "
                f"got {self.ratio}"
            )
        if not 0 <= self.sigma[0] <= self.sigma[1]:
            raise ConfigError(f"policy sigma must satisfy 0 <= low <= high, got {self.sigma}")
        if min(self.jitter) < 0 or self.jitter[3] > 0.5:
            raise ConfigError(f"policy jitter must be >= 0, its hue <= .5, got {self.jitter}")
        if self.sigma[1] > MOST_BLUR or max(self.jitter) > MOST_FACTOR - 1:
            raise ConfigError(
                f"policy sigma must be <= {MOST_BLUR:g}, its jitter <= {MOST_FACTOR - 1:g}, "
                f"got {self.sigma} and {self.jitter}"
            )
        if not 0 <= self.threshold <= colours.SOLARIZE_OFF:
            raise ConfigError(
                f"policy threshold must be in [0, {colours.SOLARIZE_OFF}], got {self.threshold}"
            )
        if not 0 <= self.blur_above <= MOST_SIDE:
            raise ConfigError(
                f"policy blur_above must be in [0, {MOST_SIDE}], got {self.blur_above}"
            )
        for name in ("flip", "jitter_probability", "gray", "blur", "solarize"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"policy {name} must be in [0, 1], got {getattr(self, name)}")

    @property
    def columns(self) -> tuple[Column, ...]:
        """The params of one view; those of colours only where a colour may change."""
        return _COLUMNS if self.colours else _CUT_COLUMNS

    @property
    def whole_pixels(self) -> bool:
        """Whether crop boxes begin and end between pixels: yes."""
        return True

    @property
    def colours(self) -> bool:
        """Whether a view may differ from its crop in more than a flip."""
        return max(self.jitter_probability, self.gray, self.blur, self.solarize) > 0

    def at_strength(self, strength: float) -> Policy:
        """Return the policy with jitter (.8, .8, .8, .2) * `strength`.

        Strength 1 is SimCLR, .5 SimSiam. Source: arXiv:2002.05709, appendix A.

        Raises:
            ConfigError: The jitter has not this form, as that of byol and dino.
        """
        unit = tuple(each / self.jitter[0] for each in self.jitter) if self.jitter[0] else ()
        if not unit or not np.allclose(unit, (1, 1, 1, 0.25)):
            raise ConfigError(
                f"policy {self.name} has no strength of jitter: its factors are {self.jitter}, "
                "not (.8, .8, .8, .2) times one"
            )
        return replace(self, jitter=(0.8 * strength,) * 3 + (0.2 * strength,))

    def for_size(self, height: int, width: int) -> Policy:
        """Return the policy for views of this size: small ones may not be blurred."""
        return replace(self, blur=0.0) if min(height, width) <= self.blur_above else self

    def draw(
        self,
        stream: Stream,
        index: Integers,
        view: Integers,
        height: Integers,
        width: Integers,
    ) -> Drawn:
        """Return params by column; the image sizes `height`, `width` bound the crop box."""
        at = (index, view)
        flip = draws.draw_switch(stream, Op.FLIP, *at, self.flip).astype(np.uint8)
        cut: Drawn = {"crop_box": self.box(stream, *at, height, width), "flip": flip}
        if not self.colours:
            return cut
        factors, order = draws.draw_jitter(
            stream, *at, strength=self.jitter, probability=self.jitter_probability
        )
        inverted = draws.draw_switch(stream, Op.SOLARIZE, *at, self.solarize)
        threshold = np.where(inverted, self.threshold, colours.SOLARIZE_OFF)
        return {
            **cut,
            "jitter": factors,
            "jitter_order": order,
            "gray": draws.draw_switch(stream, Op.GRAY, *at, self.gray).astype(np.uint8),
            "blur": draws.draw_blur(stream, *at, sigma=self.sigma, probability=self.blur),
            "solarize": threshold.astype(np.uint16),
        }

    def box(
        self,
        stream: Stream,
        index: Integers,
        view: Integers,
        height: Integers,
        width: Integers,
        *,
        op: Op = Op.CROP,
        first_block: int = 0,
    ) -> NDArray[np.float32]:
        """Return the crop boxes alone, float32 [..., 4], by the words of `op` from a block on."""
        if self.crop:
            return draws.draw_crop(
                stream,
                index,
                view,
                height,
                width,
                scale=self.scale,
                ratio=self.ratio,
                op=op,
                first_block=first_block,
            )
        heights, widths, *_ = np.broadcast_arrays(height, width, index, view)
        corner = np.zeros(heights.shape, np.float32)
        return np.stack([corner, corner, heights, widths], axis=-1).astype(np.float32)

    def render(
        self,
        image: Pixels,
        params: Mapping[str, Any],
        size: tuple[int, int],
        filter: Filter,
        out: Pixels | None = None,
    ) -> Pixels:
        """Return the view with these params, uint8 [height, width, 3]."""
        mirrored = bool(params["flip"])
        view = resize.crop_resize(image, params["crop_box"], size, filter, out, mirrored=mirrored)
        if "jitter" in params:
            self.recolour(view, params)
        return view

    def recolour(self, view: Pixels, params: Mapping[str, Any]) -> None:
        """Apply the colours of these params to a view that was cut and flipped, in place."""
        colours.recolour(
            view,
            jitter=params["jitter"],
            jitter_order=params["jitter_order"],
            gray=bool(params["gray"]),
            blur=float(params["blur"]),
            solarize=int(params["solarize"]),
        )


_COLUMNS = (
    Column(name="blur", dtype="f4", shape=()),
    Column(name="crop_box", dtype="f4", shape=(4,)),
    Column(name="flip", dtype="u1", shape=()),
    Column(name="gray", dtype="u1", shape=()),
    Column(name="jitter", dtype="f4", shape=(4,)),
    Column(name="jitter_order", dtype="u1", shape=(4,)),
    Column(name="solarize", dtype="u2", shape=()),
)
_CUT_COLUMNS = tuple(column for column in _COLUMNS if column.name in ("crop_box", "flip"))
