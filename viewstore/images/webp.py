"""The codec `webp`: lossless by default, lossy at a quality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import features

from viewstore.images.image_codec import ImageCodec, check_quality

METHOD = 4  # effort of the encoder, 0 (fast) to 6 (small)
LOSSLESS_EFFORT = 100  # what libwebp calls the quality of a lossless file


@dataclass(frozen=True, kw_only=True)
class Webp(ImageCodec):
    """WebP.

    Attributes:
        quality: 1 to 100; lossless if None.
    """

    name: ClassVar[str] = "webp"
    suffix: ClassVar[str] = "webp"
    pillow_format: ClassVar[str] = "WEBP"

    quality: int | None = None

    def __post_init__(self) -> None:
        if self.quality is not None:
            check_quality(self.quality)

    @property
    def lossless(self) -> bool:
        return self.quality is None

    @property
    def library(self) -> str:
        return f"libwebp {features.version_module('webp')}"

    def args(self, width: int) -> dict[str, Any]:
        del width
        return {"quality": self.quality, "method": METHOD}

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> Webp:
        return cls(quality=args.get("quality"))

    def save_options(self, width: int) -> dict[str, Any]:
        del width
        quality = LOSSLESS_EFFORT if self.quality is None else self.quality
        return {"lossless": self.lossless, "quality": quality, "method": METHOD}
