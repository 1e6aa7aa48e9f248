"""Array sources: `.npz` files of images, and the handwritten digits of scikit-learn."""

from __future__ import annotations

import functools
import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import FormatError

DIGITS = "digits"
IMAGE_NAMES = ("images", "x", "x_train", "data", "arr_0")
LABEL_NAMES = ("labels", "y", "y_train", "arr_1")


@dataclass(frozen=True)
class Arrays:
    """Images uint8 [N, H, W, C] with C = 1 or 3, labels int32 [N], and what identifies them."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int32]
    label_names: tuple[str, ...]
    bytes: int | None
    sha256: str | None


@functools.lru_cache(maxsize=4)
def load_arrays(uri: str) -> Arrays:
    """Return the arrays of "digits" or of an `.npz`. Raises FormatError naming the file."""
    if uri == DIGITS:
        return _digits()
    try:
        return _npz(Path(uri))
    except FormatError as error:
        raise FormatError(str(error), code="VS205", where=uri, fix=_NPZ_FIX) from error


_NPZ_FIX = "save it with numpy.savez(file, images=uint8 [N, H, W, 3], labels=int [N])"


def _digits() -> Arrays:
    """Real handwritten digits (UCI, Alpaydin and Kaynak), 8 px, enlarged to 16 px."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = digits.images / 8 - 1
    large = _twice(_twice(small, axis=1), axis=2)
    pixels = np.clip(np.rint((large + 1) * 127.5), 0, 255).astype(np.uint8)
    names = tuple(str(digit) for digit in range(10))
    sha256 = hashlib.sha256(pixels.tobytes()).hexdigest()
    return Arrays(pixels[..., None], digits.target.astype(np.int32), names, pixels.nbytes, sha256)


def _twice(images: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Double one axis bilinearly: sample centres at (i + .5) / 2 - .5, edges repeated."""
    size = images.shape[axis]
    places = np.clip((np.arange(2 * size) + 0.5) / 2 - 0.5, 0, None)
    low = places.astype(np.int64)
    high = np.minimum(low + 1, size - 1)
    shape = [1, 1, 1]
    shape[axis] = -1
    share = (places - low).reshape(shape)
    doubled: NDArray[np.float64] = images.take(low, axis) * (1 - share)
    doubled += images.take(high, axis) * share
    return doubled


def _npz(path: Path) -> Arrays:
    data = path.read_bytes()
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = archive.files
            images = archive[_named(names, IMAGE_NAMES, "images")]
            label_name = next((name for name in LABEL_NAMES if name in names), None)
            labels: Any = -np.ones(len(images)) if label_name is None else archive[label_name]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        raise FormatError(f"npz cannot be read: {error}") from error
    if (
        images.dtype != np.uint8
        or images.ndim not in (3, 4)
        or images.shape[3:] not in ((), (1,), (3,))
    ):
        raise FormatError(
            f"npz images must be uint8 [N, H, W] or [N, H, W, 1 or 3], "
            f"got {images.dtype} {list(images.shape)}"
        )
    if labels.shape not in ((len(images),), (len(images), 1)):
        raise FormatError(f"npz labels must be [{len(images)}], got {list(labels.shape)}")
    images = images if images.ndim == 4 else images[..., None]
    sha256 = hashlib.sha256(data).hexdigest()
    return Arrays(images, labels.reshape(-1).astype(np.int32), (), len(data), sha256)


def _named(names: Sequence[str], wanted: Sequence[str], what: str) -> str:
    for name in wanted:
        if name in names:
            return name
    raise FormatError(f"npz must hold {what} under one of {list(wanted)}, it has {list(names)}")
