"""The base of codecs that store each view as an image file: members, Pillow, checked decoding."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from PIL import __version__ as pillow_version

from viewstore.errors import ConfigError
from viewstore.images.colours import Pixels
from viewstore.images.decode import copy_into, open_image
from viewstore.images.header import LIMITS, Encoded, read_size, sniff, unreadable


@dataclass(frozen=True, kw_only=True)
class ImageCodec(ABC):
    """Base of the codecs whose files Pillow writes; what each method returns, `Codec` says.

    Class attributes:
        name: Also the suffix that `images.header.sniff` gives the codec's files.
        pillow_format: What Pillow calls the format.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    pillow_format: ClassVar[str]
    encoded: ClassVar[bool] = True

    @property
    @abstractmethod
    def lossless(self) -> bool: ...

    @property
    @abstractmethod
    def library(self) -> str:
        """Name and version of the library that Pillow encodes with."""

    @abstractmethod
    def save_options(self, width: int) -> dict[str, Any]:
        """Return the options of Pillow's `save` for an image `width` pixels wide."""

    @property
    def encoder(self) -> str:
        return f"pillow {pillow_version}, {self.library}"

    def members(self, views: int) -> tuple[str, ...]:
        digits = 2 if views > 10 else 1
        return ("json", *(f"v{view:0{digits}d}.{self.suffix}" for view in range(views)))

    def encode(self, pixels: Pixels) -> bytes:
        buffer = io.BytesIO()
        image = Image.fromarray(np.ascontiguousarray(pixels))
        image.save(buffer, format=self.pillow_format, **self.save_options(pixels.shape[1]))
        return buffer.getvalue()

    def decode(self, data: Encoded, *, into: Pixels | None = None) -> Pixels:
        self.check_header(data)
        with open_image(data, self.name, LIMITS) as image:
            image.load()
            pixels = np.array(image)
        if image.mode != "RGB":
            raise unreadable(f"{self.name} view must be 8-bit RGB, got {image.mode}")
        return pixels if into is None else copy_into(pixels, into)

    def check_header(self, data: Encoded) -> tuple[int, int] | None:
        """Return height and width, None if only Pillow can tell.

        Raises:
            FormatError: A file of another format, or one that claims to be over a limit.
        """
        suffix = sniff(data)
        if suffix != self.name:
            raise unreadable(f"view must be a {self.name}, got a {suffix}")
        return read_size(data, suffix, LIMITS)

    def view_decoder(self, shape: tuple[int, int, int]) -> ViewDecoder:
        return ViewDecoder(self, shape)

    def roundtrip(self, views: Pixels) -> Pixels:
        if self.lossless:
            return views
        return np.stack([self.decode(self.encode(view)) for view in views])


class ViewDecoder:
    """Decodes one view after the other into memory of the caller. Safe to call from threads."""

    def __init__(self, codec: ImageCodec, shape: tuple[int, int, int]) -> None:
        """Decode views of a codec, all of `shape` [H, W, 3]."""
        self._codec = codec
        self._shape = shape

    def decode(self, data: Encoded, into: Pixels) -> None:
        """Fill `into`, uint8 [H, W, 3] and C-contiguous.

        Raises:
            FormatError: Corrupt, over a limit, of another format or size.
        """
        try:
            found = self._codec.decode(data, into=into).shape
        except ConfigError as error:  # it is larger than a view may be
            raise unreadable(str(error)) from error
        if found != self._shape:
            raise unreadable(f"view must be of {self._shape}, got {found}")


def check_quality(quality: int) -> None:
    """Raise ConfigError unless the quality of a lossy codec is in [1, 100]."""
    if not 1 <= quality <= 100:
        raise ConfigError(f"codec quality must be in [1, 100], got {quality}")
