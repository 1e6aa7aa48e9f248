"""The augmentation policies of `expert` view sets and online views: what they draw and render.

A policy is settings alone. The table names each one; policies that treat the two views of a
pair differently have one entry for even view numbers and one for odd ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, nearest
from viewstore.format.columns import Column
from viewstore.images import colours, draws, resize
from viewstore.images.colours import Pixels
from viewstore.images.draws import Range
from viewstore.images.resize import Filter
from viewstore.randomness import Integers, Op, Stream, normal

Drawn = dict[str, NDArray[Any]]

LOCAL_SHARE = 96 / 224  # of the global views' side, as DINO's local crops


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
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ConfigError(f"policy ratio must satisfy 0 < low <= high, got {self.ratio}")
        if not 0 <= self.sigma[0] <= self.sigma[1]:
            raise ConfigError(f"policy sigma must satisfy 0 <= low <= high, got {self.sigma}")
        if min(self.jitter) < 0 or self.jitter[3] > 0.5:
            raise ConfigError(f"policy jitter must be >= 0, its hue <= .5, got {self.jitter}")
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
        cut: Drawn = {"crop_box": self._box(stream, *at, height, width), "flip": flip}
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

    def _box(
        self, stream: Stream, index: Integers, view: Integers, height: Integers, width: Integers
    ) -> NDArray[np.float32]:
        if self.crop:
            return draws.draw_crop(
                stream, index, view, height, width, scale=self.scale, ratio=self.ratio
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


@dataclass(frozen=True, kw_only=True)
class Digits:
    """For handwritten digits, which must not be flipped: zoom, shift, turn, brightness.

    The zoom and the shift are the crop box; the box is turned about its centre.

    Attributes:
        name: Name in the table.
        role: Purpose of the view.
        zoom: Least and greatest side of the crop box, as a share of the image's.
        turn: Standard deviation of the rotation, in radians.
        brightness: Least and greatest factor.
    """

    name: str = "digits"
    role: str = "expert"
    zoom: Range = (0.6, 1.0)
    turn: float = 0.15
    brightness: Range = (0.6, 1.2)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The params of one view."""
        return _DIGITS_COLUMNS

    @property
    def whole_pixels(self) -> bool:
        """Whether crop boxes begin and end between pixels: no."""
        return False

    def for_size(self, height: int, width: int) -> Digits:
        """Return the policy itself: it is the same for every size."""
        return self

    def draw(
        self,
        stream: Stream,
        index: Integers,
        view: Integers,
        height: Integers,
        width: Integers,
    ) -> Drawn:
        """Return params by column: crop words 0, 2, 3 are zoom, top, left; 4 and 5 the turn."""
        u = stream.uniform(Op.CROP, index, view, blocks=2)
        share = self.zoom[0] + u[..., 0] * (self.zoom[1] - self.zoom[0])
        crop_height, crop_width = share * np.asarray(height), share * np.asarray(width)
        top, left = u[..., 2] * (height - crop_height), u[..., 3] * (width - crop_width)
        low, high = self.brightness
        factor = low + stream.uniform(Op.JITTER, index, view, blocks=2)[..., 4] * (high - low)
        turn = self.turn * normal(u[..., 4], u[..., 5])
        return {
            "crop_box": np.stack([top, left, crop_height, crop_width], -1).astype(np.float32),
            "x_brightness": factor.astype(np.float32),
            "x_rotation": turn.astype(np.float32),
        }

    def render(
        self,
        image: Pixels,
        params: Mapping[str, Any],
        size: tuple[int, int],
        filter: Filter,
        out: Pixels | None = None,
    ) -> Pixels:
        """Return the view with these params; always interpolated linearly, as warps are."""
        view = np.empty((*size, image.shape[2]), np.uint8) if out is None else out
        resize.warp(image, params["crop_box"], float(params["x_rotation"]), view)
        colours.brighten(view, float(params["x_brightness"]))
        return view


_DIGITS_COLUMNS = (
    Column(name="crop_box", dtype="f4", shape=(4,)),
    Column(name="x_brightness", dtype="f4", shape=()),
    Column(name="x_rotation", dtype="f4", shape=()),
)

_CROP = Policy(name="crop", jitter_probability=0, gray=0)
_WEAK = replace(_CROP, ratio=(0.9, 1.1))
_STRONG = (0.8, 0.8, 0.8, 0.2)
_BYOL = (0.4, 0.4, 0.2, 0.1)
_MOCO = Policy(name="moco", blur=0.5)
_FIRST = Policy(name="byol", scale=(0.08, 1), jitter=_BYOL, blur=1)
_SECOND = replace(_FIRST, blur=0.1, solarize=0.2)
_GLOBAL = replace(_FIRST, name="dino", role="global", scale=(0.4, 1))

# The papers resize with bilinear or bicubic filters; here the filter is a setting of its own.
POLICIES: Mapping[str, tuple[ViewPolicy, ...]] = {
    "simclr": (Policy(name="simclr", scale=(0.08, 1), jitter=_STRONG, blur=0.5, blur_above=40),),
    "simsiam": (replace(_MOCO, name="simsiam"),),
    "moco": (_MOCO,),
    "cifar": (Policy(name="cifar"),),
    "byol": (_FIRST, _SECOND),
    "dino": (_GLOBAL, replace(_GLOBAL, blur=0.1, solarize=0.2)),
    "dino-local": (replace(_GLOBAL, name="dino-local", role="local", scale=(0.05, 0.4), blur=0.5),),
    "digits": (Digits(),),
    "crop": (_CROP,),
    "flip": (replace(_CROP, name="flip", crop=False),),
    # Weak crops for generated views. Source: Constructive Assimilation, section 3, and its code.
    "smallcrop": (replace(_WEAK, name="smallcrop", scale=(0.9, 1)),),
    "medcrop": (replace(_WEAK, name="medcrop", scale=(0.7, 1)),),
    "largecrop": (replace(_WEAK, name="largecrop", scale=(0.5, 1)),),
}


def policies(name: str) -> tuple[ViewPolicy, ...]:
    """Return the policies of `name`; view v follows number v modulo their count.

    Raises:
        ConfigError: There is no such policy; the nearest one is named.
    """
    if name not in POLICIES:
        hint = nearest(name, list(POLICIES))
        raise ConfigError(f"there is no augmentation policy {name!r}; {hint}", code="VS102")
    return POLICIES[name]


def as_policies(policy: str | ViewPolicy) -> tuple[ViewPolicy, ...]:
    """Return the policies of a name, or the policy itself. Raises ConfigError."""
    return policies(policy) if isinstance(policy, str) else (policy,)


def output_size(policy: str | ViewPolicy, height: int, width: int) -> tuple[int, int]:
    """Return the size of the policy's views beside global views of `height` x `width`."""
    if as_policies(policy)[0].role != "local":
        return height, width
    return max(1, round(height * LOCAL_SHARE)), max(1, round(width * LOCAL_SHARE))
