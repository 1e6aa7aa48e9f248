"""The format and size of an image file by its header, checked against limits before decoding.

A few bytes can ask for gigabytes, so the size is read and refused here, by own code for the
formats that training sets are made of, before any decoder sees the file.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from viewstore.errors import FormatError

Encoded = bytes | memoryview  # an image file, maybe inside a larger buffer
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ANIMATION_OR_PIXELS = re.compile(rb"acTL|IDAT")  # an animation says so before its pixels
_ENTROPY_END = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # a marker that is not a restart
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_BASELINE, _PROGRESSIVE, _START_OF_SCAN, _END_OF_IMAGE = 0xC0, 0xC2, 0xDA, 0xD9
_ANIMATED = 0x02  # flag of a WebP VP8X chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How large an image may claim to be.

    Attributes:
        side: Pixels of the longer side.
        pixels: Pixels of the image.
        scans: Scans of a progressive JPEG; each one costs a pass over the whole image.
        ratio: Decoded bytes per encoded byte, for images of `ratio_pixels` or more: small flat
            pictures are honestly compressed further than any bomb needs.
        ratio_pixels: Size from which `ratio` counts.
    """

    side: int = 16_384
    pixels: int = 64_000_000
    scans: int = 16
    ratio: int = 200
    ratio_pixels: int = 16_000_000

    def check(self, height: int, width: int, *, encoded_bytes: int) -> None:
        """Raise FormatError if an image of `height` x `width` pixels is over a limit."""
        if not (0 < height <= self.side and 0 < width <= self.side):
            raise unreadable(f"image sides must be in [1, {self.side}], got {height} x {width}")
        if height * width > self.pixels:
            raise unreadable(
                f"image must have at most {self.pixels} pixels, got {height * width}",
                why="decoding it would take more memory than an image may",
            )
        decoded = height * width * 3
        if height * width >= self.ratio_pixels and decoded > self.ratio * encoded_bytes:
            raise unreadable(
                f"image must decode to at most {self.ratio} bytes per byte, got "
                f"{decoded // max(1, encoded_bytes)}",
                why="a small file that asks for a large image is how decoders are attacked",
            )


LIMITS = Limits()


def unreadable(message: str, *, why: str | None = None) -> FormatError:
    """Return the error of an image that cannot be read."""
    return FormatError(message, code="VS205", why=why)


def sniff(data: Encoded) -> str:
    """Return the suffix of the format that `data` begins like. Raises FormatError."""
    if data[:3] == b"\xff\xd8\xff":
        return "jpg"
    if data[:8] == _PNG_SIGNATURE:
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:2] == b"BM":
        return "bmp"
    if data[:4] in (b"II*\0", b"MM\0*"):
        return "tif"
    if data[:2] in (b"P4", b"P5", b"P6"):
        return "ppm"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis"):
        return "avif"
    what = "an empty file" if not data else f"bytes {data[:8].hex(' ')}"
    raise unreadable(f"image must be jpg, png, webp, avif, gif, bmp, tif or ppm, got {what}")


def read_size(data: Encoded, suffix: str, limits: Limits) -> tuple[int, int] | None:
    """Return (height, width), or None if the format is one that its decoder has to read.

    Raises:
        FormatError: The header is cut short, contradicts itself, or breaks a limit.
    """
    readers = {"jpg": _jpeg_size, "png": _png_size, "webp": _webp_size}
    if suffix not in readers:
        return None
    try:
        height, width = readers[suffix](data, limits)
    except (struct.error, IndexError) as error:
        raise unreadable(f"{suffix} header is cut short") from error
    limits.check(height, width, encoded_bytes=len(data))
    return height, width


def _jpeg_size(data: Encoded, limits: Limits) -> tuple[int, int]:
    """Walk the segments to the frame header; of a progressive JPEG on to the end."""
    size: tuple[int, int] | None = None
    scans, position = 0, 2
    while True:
        marker, position = _jpeg_marker(data, position)
        if marker == _END_OF_IMAGE or marker in _JPEG_ALONE:
            break
        (length,) = struct.unpack_from(">H", data, position)
        if length < 2:
            raise unreadable(f"jpg segment at byte {position} must be at least 2 bytes long")
        if marker in _JPEG_FRAMES:
            if size is not None:
                raise unreadable("jpg must have one frame header, got two")
            size = struct.unpack_from(">HH", data, position + 3)
            if marker != _PROGRESSIVE:
                return size
        position += length
        if marker == _START_OF_SCAN:
            scans += 1
            if scans > limits.scans:
                raise unreadable(f"progressive jpg must have at most {limits.scans} scans")
            end = _ENTROPY_END.search(data, position)
            if end is None:
                break
            position = end.start()
    if size is None:
        raise unreadable("jpg has no frame header")
    return size


def is_baseline(data: Encoded) -> bool:
    """Whether a JPEG is a sequential one of 8 bits, which every decoder reads.

    `data` has passed `read_size`.
    """
    position = 2
    while True:
        marker, position = _jpeg_marker(data, position)
        if marker in _JPEG_FRAMES:
            return marker == _BASELINE
        position += struct.unpack_from(">H", data, position)[0]


def jpeg_head(data: Encoded) -> bytes:
    """Return a JPEG up to where its first scan's data begin; b"" if it is progressive.

    Files that share it are of one size and coded alike. `data` has passed `read_size`.
    """
    position = 2
    while True:
        marker, position = _jpeg_marker(data, position)
        if marker == _PROGRESSIVE:
            return b""
        position += struct.unpack_from(">H", data, position)[0]
        if marker == _START_OF_SCAN:
            return bytes(data[:position])


def _jpeg_marker(data: Encoded, position: int) -> tuple[int, int]:
    """Return the marker at `position` and the position behind it."""
    if data[position] != 0xFF:
        raise unreadable(f"jpg must have a marker at byte {position}")
    while data[position] == 0xFF:  # any number of fill bytes may stand before it
        position += 1
    return data[position], position + 1


def _png_size(data: Encoded, limits: Limits) -> tuple[int, int]:
    del limits
    if data[12:16] != b"IHDR":
        raise unreadable("png must begin with an IHDR chunk")
    first = _ANIMATION_OR_PIXELS.search(data)
    if first and first[0] == b"acTL":
        raise unreadable("png must hold one picture, got an animation")
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def _webp_size(data: Encoded, limits: Limits) -> tuple[int, int]:
    del limits
    kind = data[12:16]
    if kind == b"VP8X":
        if data[20] & _ANIMATED:
            raise unreadable("webp must hold one picture, got an animation")
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return height, width
    if kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", data, 21)
        return (packed >> 14 & 0x3FFF) + 1, (packed & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    raise unreadable(f"webp chunk must be VP8, VP8L or VP8X, got {kind!r}")
