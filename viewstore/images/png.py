"""The codec `png`: lossless files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import features

from viewstore.images.image_codec import ImageCodec

LEVEL = 6  # of zlib, 1 (fast) to 9 (small)


@dataclass(frozen=True, kw_only=True)
class Png(ImageCodec):
    """PNG at one fixed level of compression."""

    name: ClassVar[str] = "png"
    suffix: ClassVar[str] = "png"
    pillow_format: ClassVar[str] = "PNG"

    @property
    def lossless(self) -> bool:
        return True

    @property
    def library(self) -> str:
        ng = features.version_feature("zlib_ng")
        return f"zlib-ng {ng}" if ng else f"zlib {features.version_codec('zlib')}"

    def args(self, width: int) -> dict[str, Any]:
        del width
        return {"level": LEVEL}

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> Png:
        del args
        return cls()

    def save_options(self, width: int) -> dict[str, Any]:
        del width
        return {"compress_level": LEVEL}
