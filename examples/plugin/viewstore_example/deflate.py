"""The codec `deflate`: each view as its height and width, and its pixels compressed by zlib."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, FormatError
from viewstore.format.plan import MAX_SIDE

HEADER = struct.Struct("<4sHH")
MAGIC = b"dfl1"
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Deflate:
    """Lossless views. What each method returns, `viewstore.images.codec.Codec` says."""

    name: ClassVar[str] = "deflate"
    suffix: ClassVar[str] = "dfl"
    encoded: ClassVar[bool] = True
    lossless: ClassVar[bool] = True

    level: int = 6

    @property
    def encoder(self) -> str:
        return f"zlib {zlib.ZLIB_RUNTIME_VERSION}"

    def args(self, width: int) -> dict[str, Any]:
        return {"level": self.level}

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> Deflate:
        return cls(level=args["level"])

    def members(self, views: int) -> tuple[str, ...]:
        return ("json", *(f"v{view:02d}.{self.suffix}" for view in range(views)))

    def encode(self, pixels: Pixels) -> bytes:
        head = HEADER.pack(MAGIC, *pixels.shape[:2])
        return head + zlib.compress(np.ascontiguousarray(pixels).tobytes(), self.level)

    def decode(self, data: bytes | memoryview, *, into: Pixels | None = None) -> Pixels:
        data = bytes(data)
        if len(data) < HEADER.size or data[:4] != MAGIC:
            raise FormatError("view must be a deflate file")
        _, height, width = HEADER.unpack_from(data)
        if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
            raise FormatError(f"deflate view must be 1 to {MAX_SIDE} px a side")
        pixels = self._unpacked(data[HEADER.size :], height * width * 3)
        if into is None:
            return pixels.reshape(height, width, 3)
        if into.size < pixels.size:
            raise ConfigError(f"a view of {pixels.size} bytes does not fit into {into.size}")
        found = into.reshape(-1)[: pixels.size].reshape(height, width, 3)
        found[...] = pixels.reshape(height, width, 3)
        return found

    def _unpacked(self, packed: bytes, size: int) -> Pixels:
        """Return `size` bytes, and never more: what a damaged file expands to has a bound."""
        unpacker = zlib.decompressobj()
        try:
            found = unpacker.decompress(packed, size + 1)
        except zlib.error as error:
            raise FormatError(f"deflate view does not decode: {error}") from error
        if len(found) != size or not unpacker.eof:
            raise FormatError(f"deflate view must hold {size} bytes")
        return np.frombuffer(found, np.uint8).copy()

    def view_decoder(self, shape: tuple[int, int, int]) -> DeflateDecoder:
        return DeflateDecoder(self, shape)

    def roundtrip(self, views: Pixels) -> Pixels:
        return views


@dataclass(frozen=True)
class DeflateDecoder:
    """Decodes one view after the other, all of one shape."""

    codec: Deflate
    shape: tuple[int, int, int]

    def decode(self, data: bytes | memoryview, into: Pixels) -> None:
        """Fill `into`. Raises FormatError: corrupt, or of another shape."""
        found = self.codec.decode(data)
        if found.shape != self.shape:
            raise FormatError(f"view must be of {self.shape}, got {found.shape}")
        into[...] = found
