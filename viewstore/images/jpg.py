"""The codec `jpg`: JPEG with restart markers, decoded by libjpeg-turbo."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import simplejpeg
from PIL import features

from viewstore.errors import ConfigError
from viewstore.images.colours import Pixels
from viewstore.images.decode import decode_jpeg, jpeg_colours
from viewstore.images.header import Encoded, jpeg_head, unreadable
from viewstore.images.image_codec import ImageCodec, ViewDecoder, check_quality

SUBSAMPLINGS = {"420": "4:2:0", "444": "4:4:4"}
QUALITY = 90


@dataclass(frozen=True, kw_only=True)
class Jpg(ImageCodec):
    """JPEG.

    Attributes:
        quality: 1 to 100.
        subsampling: "420", or "444" for full colour resolution.
        restart: Whether there are restart markers, so that crops can be decoded on their own.
    """

    name: ClassVar[str] = "jpg"
    suffix: ClassVar[str] = "jpg"
    pillow_format: ClassVar[str] = "JPEG"

    quality: int = QUALITY
    subsampling: str = "420"
    restart: bool = True

    def __post_init__(self) -> None:
        if self.subsampling not in SUBSAMPLINGS:
            raise ConfigError(f"jpg subsampling must be 420 or 444, got {self.subsampling!r}")
        check_quality(self.quality)

    @property
    def lossless(self) -> bool:
        return False

    @property
    def library(self) -> str:
        return f"libjpeg-turbo {features.version_feature('libjpeg_turbo')}"

    def args(self, width: int) -> dict[str, Any]:
        interval = restart_interval(width, self.subsampling) if self.restart else False
        return {"quality": self.quality, "subsampling": self.subsampling, "restart": interval}

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> Jpg:
        return cls(
            quality=args.get("quality", QUALITY),
            subsampling=args.get("subsampling", "420"),
            restart=args.get("restart") is not False,
        )

    def save_options(self, width: int) -> dict[str, Any]:
        options = {"quality": self.quality, "subsampling": SUBSAMPLINGS[self.subsampling]}
        if not self.restart:
            return options
        return {**options, "restart_marker_blocks": restart_interval(width, self.subsampling)}

    def decode(self, data: Encoded, *, into: Pixels | None = None) -> Pixels:
        size = self.check_header(data)
        if size is None or jpeg_colours(data, size) != "YCbCr":
            raise unreadable("jpg view must be YCbCr")
        return decode_jpeg(data, size, into=into)

    def view_decoder(self, shape: tuple[int, int, int]) -> ViewDecoder:
        return JpgViewDecoder(self, shape)


class JpgViewDecoder(ViewDecoder):
    """Decodes JPEG views, checking a header only where it differs from the one before.

    What limits and formats are checked for lies in a JPEG's header: a file that begins with one
    that passed, byte for byte, passes too.
    """

    def __init__(self, codec: Jpg, shape: tuple[int, int, int]) -> None:
        super().__init__(codec, shape)
        self._head = b""

    def decode(self, data: Encoded, into: Pixels) -> None:
        head = self._head
        if head and bytes(data[: len(head)]) == head:
            try:
                simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True, buffer=into)
            except ValueError as error:
                raise unreadable(f"jpg does not decode: {error}") from error
            return
        super().decode(data, into)
        self._head = jpeg_head(data)


def restart_interval(width: int, subsampling: str) -> int:
    """Return the restart interval in MCUs of a jpg `width` pixels wide.

    It divides the MCUs of a row, so that a crop spliced from whole intervals does not shear:
    the largest divisor in 2..4, else the row.
    """
    columns = math.ceil(width / (8 if subsampling == "444" else 16))
    return next((n for n in (4, 3, 2) if columns % n == 0), columns)
