"""Images: encoded bytes to pixels and back, within limits, the same for everybody.

Pixels are uint8 on the decoder's grid: EXIF orientation is never applied, so that crop boxes
mean the same in every program that reads the file without applying it either.
"""

from __future__ import annotations

import io
import math
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)
from PIL import __version__ as pillow_version

from viewstore.errors import ConfigError, FormatError
from viewstore.image_header import LIMITS, Encoded, Limits, read_size, sniff, unreadable

Pixels = NDArray[np.uint8]
Filter = Literal["area", "linear", "pil"]
CODECS = ("raw", "jpg", "png", "webp")
SUBSAMPLINGS = {"420": "4:2:0", "444": "4:4:4"}
REDUCTIONS = (1, 2, 4, 8)
JPEG_QUALITY = 90
PNG_LEVEL = 6
WEBP_METHOD = 4

# The plug-ins themselves, not Image.open: it tries formats we do not read and warns of sizes
# that `Limits` refuses anyway.
_PLUGINS: Mapping[str, type[ImageFile.ImageFile]] = {
    "jpg": JpegImagePlugin.JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "tif": TiffImagePlugin.TiffImageFile,
    "ppm": PpmImagePlugin.PpmImageFile,
}
_WARNING = frozenset({"jpg", "tif"})  # formats whose plug-in warns about metadata it skips
_warnings_lock = threading.Lock()
_FILTERS = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR}


def probe(data: Encoded, *, limits: Limits = LIMITS) -> tuple[int, int, str]:
    """Return (height, width, suffix) of an encoded image from its header alone.

    The suffix is that of the content, whatever the file is called.

    Raises:
        FormatError: Not an image of a known format, or one that breaks a limit.
    """
    suffix = sniff(data)
    size = read_size(data, suffix, limits)
    if size is None:
        with _opened(data, suffix, limits) as image:
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
    if size and suffix == "jpg" and (colours := _jpeg_colours(data, size)):
        return _decode_jpeg(data, size, colours, reduction=reduction, into=into), reduction
    with _opened(data, suffix, limits) as image:
        pixels = _to_rgb(image, suffix)
    return (pixels if into is None else _copied(pixels, into)), 1


def _jpeg_colours(data: Encoded, size: tuple[int, int]) -> str | None:
    """Return "YCbCr" or "Gray", or None for what only Pillow converts."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=True)
    except ValueError:
        return None  # odd subsampling, or broken: Pillow says which
    return colours if colours in ("YCbCr", "Gray") and (height, width) == size else None


def _decode_jpeg(
    data: Encoded,
    size: tuple[int, int],
    colours: str,
    *,
    gray: bool = False,
    reduction: int = 1,
    into: Pixels | None = None,
) -> Pixels:
    """Decode strictly: a warning of the decoder is an error, and so is a cut file."""
    wanted, channels = ("GRAY", 1) if gray and colours == "Gray" else ("RGB", 3)
    height, width = (-(-side // reduction) for side in size)
    buffer = None if into is None else room(into, height, width, channels)
    # The decoder takes the smallest scale that gives these sides.
    least = {"min_height": height, "min_width": width} if reduction > 1 else {}
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(
            data, colorspace=wanted, strict=True, buffer=buffer, **least
        )
    except ValueError as error:
        raise unreadable(f"jpg does not decode: {error}") from error
    return pixels


def room(into: Pixels, height: int, width: int, channels: int = 3) -> Pixels:
    """Return the first bytes of `into` as uint8 [height, width, channels].

    Raises:
        ConfigError: It has fewer bytes, or they do not lie side by side.
    """
    wanted = height * width * channels
    if into.dtype != np.uint8 or not into.flags.c_contiguous or into.size < wanted:
        raise ConfigError(
            f"an image of {height} x {width} x {channels} needs {wanted} contiguous bytes to be "
            f"decoded into, got {into.dtype} {list(into.shape)}"
        )
    return into.reshape(-1)[:wanted].reshape(height, width, channels)


def _copied(pixels: Pixels, into: Pixels) -> Pixels:
    target = room(into, *pixels.shape)
    target[...] = pixels
    return target


@contextmanager
def _opened(data: Encoded, suffix: str, limits: Limits) -> Iterator[ImageFile.ImageFile]:
    """Open with Pillow; whatever it raises, also on the way to pixels, is a FormatError."""
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


def resize(image: Pixels, height: int, width: int, filter: Filter = "area") -> Pixels:
    """Return `image`, uint8 [H, W, C], resized to `height` x `width`.

    Args:
        image: Returned as it is if it has the size already.
        height: Rows of the result.
        width: Columns of the result.
        filter: "area" averages the pixels below each one (OpenCV), "linear" interpolates without
            antialiasing (OpenCV), "pil" is Pillow's antialiased bilinear. No two are equal.
    """
    if filter not in (*_FILTERS, "pil"):
        raise ConfigError(f"resize filter must be area, linear or pil, got {filter!r}")
    if image.shape[:2] == (height, width):
        return image
    if filter == "pil":
        flat = image[..., 0] if image.shape[2] == 1 else image
        picture = Image.fromarray(np.ascontiguousarray(flat))
        resized = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    else:
        resized = cv2.resize(image, (width, height), interpolation=_FILTERS[filter])
    return resized.reshape(height, width, image.shape[2])


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
            colours = _jpeg_colours(data, size)
            if colours is None:
                raise unreadable("jpg view must be grayscale or YCbCr")
            return _decode_jpeg(data, size, colours, gray=True, into=into)
        with _opened(data, suffix, LIMITS) as image:
            image.load()
            pixels = np.array(image)
        if pixels.dtype != np.uint8 or image.mode not in ("L", "RGB"):
            raise unreadable(f"{suffix} view must be 8-bit grayscale or RGB, got {image.mode}")
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        return pixels if into is None else _copied(pixels, into)

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
