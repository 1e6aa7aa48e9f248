"""Image files to pixels, within limits, the same on every machine; views and sources alike.

Pixels are uint8 on the decoder's grid: EXIF orientation is never applied, so that crop boxes
mean the same in every program that reads the file without applying it either.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import numpy as np
import simplejpeg
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

from viewstore.errors import ConfigError, FormatError
from viewstore.images.colours import Pixels
from viewstore.images.header import LIMITS, Encoded, Limits, read_size, sniff, unreadable

REDUCTIONS = (1, 2, 4, 8)

# The plug-ins themselves, not Image.open: it tries formats we do not read and warns of sizes
# that `Limits` refuses anyway.
_PLUGINS: Mapping[str, type[ImageFile.ImageFile]] = {
    "jpg": JpegImagePlugin.JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "tif": TiffImagePlugin.TiffImageFile,
    "ppm": PpmImagePlugin.PpmImageFile,
    "gif": GifImagePlugin.GifImageFile,
}
READS_AVIF = bool(features.check("avif"))  # as Pillow was built
if READS_AVIF:
    from PIL import AvifImagePlugin

    _PLUGINS = {**_PLUGINS, "avif": AvifImagePlugin.AvifImageFile}
_WARNING = frozenset({"jpg", "tif"})  # formats whose plug-in warns about metadata it skips
_warnings_lock = threading.Lock()


def probe(data: Encoded, *, limits: Limits = LIMITS) -> tuple[int, int, str]:
    """Return (height, width, suffix) of an encoded image from its header alone.

    The suffix is that of the content, whatever the file is called.

    Raises:
        FormatError: Not an image of a known format, or one that breaks a limit.
    """
    suffix = sniff(data)
    size = read_size(data, suffix, limits)
    if size is None:
        with open_image(data, suffix, limits) as image:
            size = image.height, image.width
    return *size, suffix


def decode(data: Encoded, *, limits: Limits = LIMITS, into: Pixels | None = None) -> Pixels:
    """Return the pixels of an encoded image, uint8 [H, W, 3].

    Grayscale is repeated, CMYK and palettes are converted, alpha is dropped, 16 bits become
    the upper 8. Orientation in EXIF is not applied.

    Args:
        data: The file, as bytes or as a view of a larger buffer, which is not copied.
        limits: How large the image may be.
        into: Memory to decode into, uint8 and C-contiguous, of the image's size or larger; the
            result is a view of its first bytes. A new array if None.

    Raises:
        FormatError: Cut short, corrupt, not an image, or over a limit.
        ConfigError: `into` is too small for the image.
    """
    return scaled_decode(data, 1, limits=limits, into=into)[0]


def scaled_decode(
    data: Encoded, reduction: int, *, limits: Limits = LIMITS, into: Pixels | None = None
) -> tuple[Pixels, int]:
    """Return the pixels at 1/`reduction` of the size, sides rounded up, and the reduction made.

    A JPEG is made smaller while it is decoded, from fewer of its coefficients; every other image
    comes as it is, with a reduction of 1. `reduction` is 1, 2, 4 or 8: the decoder is slow at
    the factors between. The rest is as in `decode`.
    """
    if reduction not in REDUCTIONS:
        raise ConfigError(f"reduction must be one of {REDUCTIONS}, got {reduction}")
    suffix = sniff(data)
    size = read_size(data, suffix, limits)
    if size and suffix == "jpg" and jpeg_colours(data, size):
        return decode_jpeg(data, size, reduction=reduction, into=into), reduction
    with open_image(data, suffix, limits) as image:
        pixels = _to_rgb(image, suffix)
    return (pixels if into is None else copy_into(pixels, into)), 1


def jpeg_colours(data: Encoded, size: tuple[int, int]) -> str | None:
    """Return "YCbCr" or "Gray", or None for what only Pillow converts."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=True)
    except ValueError:
        return None  # odd subsampling, or broken: Pillow says which
    return colours if colours in ("YCbCr", "Gray") and (height, width) == size else None


def decode_jpeg(
    data: Encoded, size: tuple[int, int], *, reduction: int = 1, into: Pixels | None = None
) -> Pixels:
    """Return a YCbCr or gray JPEG of `size` (height, width), whose header was checked, as RGB.

    `reduction` and `into` are those of `scaled_decode`.

    Raises:
        FormatError: The file is cut short, or its decoder warns of anything.
        ConfigError: `into` is too small for the image.
    """
    height, width = (-(-side // reduction) for side in size)
    buffer = None if into is None else first_pixels(into, height, width)
    # The decoder takes the smallest scale that gives these sides.
    least = {"min_height": height, "min_width": width} if reduction > 1 else {}
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(
            data, colorspace="RGB", strict=True, buffer=buffer, **least
        )
    except ValueError as error:
        raise unreadable(f"jpg does not decode: {error}") from error
    return pixels


def first_pixels(into: Pixels, height: int, width: int) -> Pixels:
    """Return the first bytes of `into` as uint8 [height, width, 3].

    Raises:
        ConfigError: It has fewer bytes, or they do not lie side by side.
    """
    wanted = height * width * 3
    if into.dtype != np.uint8 or not into.flags.c_contiguous or into.size < wanted:
        raise ConfigError(
            f"an image of {height} x {width} x 3 needs {wanted} contiguous bytes to be "
            f"decoded into, got {into.dtype} {list(into.shape)}"
        )
    return into.reshape(-1)[:wanted].reshape(height, width, 3)


def copy_into(pixels: Pixels, into: Pixels) -> Pixels:
    """Return a copy of `pixels`, uint8 [H, W, 3], in the first bytes of `into`.

    Raises:
        ConfigError: `into` is too small, or its bytes do not lie side by side.
    """
    target = first_pixels(into, *pixels.shape[:2])
    target[...] = pixels
    return target


@contextmanager
def open_image(data: Encoded, suffix: str, limits: Limits) -> Iterator[ImageFile.ImageFile]:
    """Open a file of format `suffix` with Pillow, for as long as the context lasts.

    Raises:
        FormatError: Whatever Pillow raises, in the body of the context too; an image over a
            limit, or one of several pictures; a format that this Pillow cannot read.
    """
    if suffix not in _PLUGINS:
        raise unreadable(f"{suffix} cannot be read by the Pillow that is installed")
    try:
        with _warnings_ignored() if suffix in _WARNING else nullcontext():
            image = _PLUGINS[suffix](io.BytesIO(data))
            limits.check(image.height, image.width, encoded_bytes=len(data))
            if getattr(image, "n_frames", 1) > 1:
                raise unreadable(f"{suffix} must hold one picture, got several")
            yield image
    except FormatError:
        raise
    except Exception as error:  # a foreign parser on hostile bytes may raise anything
        raise unreadable(f"{suffix} does not decode: {error or type(error).__name__}") from error


@contextmanager
def _warnings_ignored() -> Iterator[None]:
    """Silence warnings; filters belong to the process, so one thread at a time changes them."""
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _to_rgb(image: ImageFile.ImageFile, suffix: str) -> Pixels:
    image.load()
    if image.mode.startswith("I;16") or (image.mode == "I" and suffix == "ppm"):
        gray = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise unreadable(f"{suffix} must have 8 or 16 bits per sample, got mode {image.mode}")
    image.info.pop("transparency", None)  # dropped like alpha, not blended
    return np.array(image.convert("RGB"))
