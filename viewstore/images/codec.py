"""Images: encoded bytes to pixels and back, within limits, the same for everybody.

Pixels are uint8 on the decoder's grid: EXIF orientation is never applied, so that crop boxes
mean the same in every program that reads the file without applying it either.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from PIL import (
    Image,
    features,
)
from PIL import __version__ as pillow_version

from viewstore.errors import ConfigError, FormatError
from viewstore.images.colours import Pixels
from viewstore.images.decode import copied_into, decode_jpeg, jpeg_colours, opened
from viewstore.images.header import LIMITS, Encoded, jpeg_head, read_size, sniff, unreadable

CODECS = ("raw", "jpg", "png", "webp")
SUBSAMPLINGS = {"420": "4:2:0", "444": "4:4:4"}
JPEG_QUALITY = 90
PNG_LEVEL = 6
WEBP_METHOD = 4


@dataclass(frozen=True, kw_only=True)
class Codec:
    """How views are encoded. The same pixels give the same bytes for one `encoder`.

    Attributes:
        name: "raw" (kept as an array), "jpg", "png" (lossless) or "webp".
        quality: Of jpg, 90 if None; of webp, lossless if None.
        subsampling: Of jpg: "420", or "444" for full colour resolution.
        restart: Whether jpg has restart markers, so that crops can be decoded on their own.
    """

    name: str = "raw"
    quality: int | None = None
    subsampling: str = "420"
    restart: bool = True

    def __post_init__(self) -> None:
        if self.name not in CODECS:
            raise ConfigError(f"codec must be one of {', '.join(CODECS)}, got {self.name!r}")
        if self.subsampling not in SUBSAMPLINGS:
            raise ConfigError(f"jpg subsampling must be 420 or 444, got {self.subsampling!r}")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ConfigError(f"codec quality must be in [1, 100], got {self.quality}")
        if self.quality is not None and self.name in ("raw", "png"):
            raise ConfigError(f"codec {self.name} is lossless: it has no quality")
        if self.quality is None and self.name == "jpg":
            object.__setattr__(self, "quality", JPEG_QUALITY)

    @property
    def suffix(self) -> str:
        """Suffix of its members: npy for raw."""
        return "npy" if self.name == "raw" else self.name

    @property
    def lossless(self) -> bool:
        return self.name in ("raw", "png") or (self.name == "webp" and self.quality is None)

    def encode(self, pixels: Pixels) -> bytes:
        """Return the file of one view, uint8 [H, W, C] with C = 3, or 1 for jpg and png."""
        if self.name == "raw":
            return pixels.tobytes()
        _, width, channels = pixels.shape
        if channels not in ((3,) if self.name == "webp" else (1, 3)):
            raise ConfigError(f"codec {self.name} cannot store {channels} channels")
        flat = pixels[..., 0] if channels == 1 else pixels
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(flat)).save(
            buffer, format=_FORMATS[self.name], **self._save_options(width, channels)
        )
        return buffer.getvalue()

    def _save_options(self, width: int, channels: int) -> dict[str, Any]:
        if self.name == "png":
            return {"compress_level": PNG_LEVEL}
        if self.name == "webp":
            lossless = {"lossless": self.quality is None, "quality": self.quality or 100}
            return {**lossless, "method": WEBP_METHOD}
        options = {"quality": self.quality, "subsampling": SUBSAMPLINGS[self.subsampling]}
        if not self.restart:
            return options
        # A single component is coded in blocks of 8, however it would be subsampled.
        subsampling = "444" if channels == 1 else self.subsampling
        return {**options, "restart_marker_blocks": restart_interval(width, subsampling)}

    def decode(self, data: Encoded, *, into: Pixels | None = None) -> Pixels:
        """Return the view in a file of this codec, uint8 [H, W, C]; C is as it was encoded.

        `into` is memory to decode into, as in the function `decode`.

        Raises:
            FormatError: Corrupt, over a limit, or of another format.
        """
        if self.name == "raw":
            raise ConfigError("raw views are read as an array, they are not decoded")
        suffix = sniff(data)
        if suffix != self.name:
            raise unreadable(f"view must be a {self.name}, got a {suffix}")
        size = read_size(data, suffix, LIMITS)
        if size and suffix == "jpg":
            colours = jpeg_colours(data, size)
            if colours is None:
                raise unreadable("jpg view must be grayscale or YCbCr")
            return decode_jpeg(data, size, colours, gray=True, into=into)
        with opened(data, suffix, LIMITS) as image:
            image.load()
            pixels = np.array(image)
        if pixels.dtype != np.uint8 or image.mode not in ("L", "RGB"):
            raise unreadable(f"{suffix} view must be 8-bit grayscale or RGB, got {image.mode}")
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        return pixels if into is None else copied_into(pixels, into)

    def roundtrip(self, views: Pixels) -> Pixels:
        """Return what `views`, uint8 [V, H, W, C], will read as once they are stored."""
        if self.lossless:
            return views
        return np.stack([self.decode(self.encode(view)) for view in views])

    def to_plan(self, width: int) -> dict[str, Any]:
        """Return the plan's {"name", "args", "encoder"} for views `width` pixels wide."""
        args: dict[str, Any] = {}
        if self.name == "jpg":
            interval = restart_interval(width, self.subsampling) if self.restart else False
            args = {"quality": self.quality, "subsampling": self.subsampling, "restart": interval}
        elif self.name == "png":
            args = {"level": PNG_LEVEL}
        elif self.name == "webp":
            args = {"quality": self.quality, "method": WEBP_METHOD}
        return {"name": self.name, "args": args, "encoder": self.encoder}

    @classmethod
    def from_plan(cls, codec: Mapping[str, Any]) -> Codec:
        """Return the codec of a plan's `codec` field. Raises FormatError: an unknown one."""
        args = codec.get("args", {})
        try:
            return cls(
                name=codec["name"],
                quality=args.get("quality"),
                subsampling=args.get("subsampling", "420"),
                restart=args.get("restart") is not False,
            )
        except (ConfigError, KeyError, TypeError) as error:
            raise FormatError(f"plan has a codec that cannot be read: {error}") from error

    @property
    def encoder(self) -> str | None:
        """Library and version that decide the bytes; None for raw."""
        if self.name == "raw":
            return None
        library = {"jpg": _libjpeg, "png": _zlib, "webp": _libwebp}[self.name]()
        return f"pillow {pillow_version}, {library}"


_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


def restart_interval(width: int, subsampling: str) -> int:
    """Return the restart interval in MCUs of a jpg `width` pixels wide.

    It divides the MCUs of a row, so that a crop spliced from whole intervals does not shear:
    the largest divisor in 2..4, else the row.
    """
    columns = math.ceil(width / (8 if subsampling == "444" else 16))
    return next((n for n in (4, 3, 2) if columns % n == 0), columns)


def _libjpeg() -> str:
    return f"libjpeg-turbo {features.version_feature('libjpeg_turbo')}"


def _zlib() -> str:
    ng = features.version_feature("zlib_ng")
    return f"zlib-ng {ng}" if ng else f"zlib {features.version_codec('zlib')}"


def _libwebp() -> str:
    return f"libwebp {features.version_module('webp')}"


class ViewDecoder:
    """Decodes one view after the other, checking a header that it has not met before.

    What limits and formats are checked for lies in a JPEG's header: a file that begins with one
    that passed, byte for byte, passes too. Safe to call from several threads.
    """

    def __init__(self, codec: Codec, shape: tuple[int, int, int]) -> None:
        """Decode views of a codec, all of `shape` [H, W, C]."""
        self._codec = codec
        self._shape = shape
        self._colours = "GRAY" if shape[2] == 1 else "RGB"
        self._head = b""

    def decode(self, data: Encoded, into: Pixels) -> None:
        """Fill `into`, uint8 [H, W, C] and C-contiguous.

        Raises:
            FormatError: Corrupt, over a limit, of another format or size.
        """
        head = self._head
        if head and bytes(data[: len(head)]) == head:
            try:
                simplejpeg.decode_jpeg(data, colorspace=self._colours, strict=True, buffer=into)
            except ValueError as error:
                raise unreadable(f"jpg does not decode: {error}") from error
            return
        try:
            found = self._codec.decode(data, into=into).shape
        except ConfigError as error:  # it is larger than a view may be
            raise unreadable(str(error)) from error
        if found != self._shape:
            raise unreadable(f"view must be of {self._shape}, got {found}")
        if self._codec.name == "jpg":
            self._head = jpeg_head(data)
