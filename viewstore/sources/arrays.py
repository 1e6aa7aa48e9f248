"""Array sources: `.npz` files of images, and the handwritten digits of scikit-learn."""

from __future__ import annotations

import functools
import hashlib
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import FormatError
from viewstore.files import disk
from viewstore.images.header import LIMITS
from viewstore.sources.labels import LabelReader, number_labels
from viewstore.sources.table import (
    OnError,
    Part,
    Source,
    SourceKind,
    SourceTable,
    first_rows,
    no_source,
    one_file,
)

DIGITS = "digits"
IMAGE_NAMES = ("images", "x", "x_train", "data", "arr_0")
LABEL_NAMES = ("labels", "label", "y", "y_train", "targets", "target", "arr_1")
NPZ_ARRAY_BYTES = 16 << 30
SHOWN = 5  # names of arrays


@dataclass(frozen=True)
class Arrays:
    """Images uint8 [N, H, W, C] with C = 1 or 3, labels int32 [N], and what identifies them.

    `unread`: names of other arrays where none is called as labels are.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int32]
    label_names: tuple[str, ...]
    bytes: int | None
    sha256: str | None
    unread: tuple[str, ...] = ()


def load_arrays(uri: str) -> Arrays:
    """Return the arrays of "digits" or of an `.npz`. Raises FormatError naming the file."""
    if uri == DIGITS:
        return _digits()
    found = Path(uri).stat()
    return _load_npz(uri, found.st_mtime_ns, found.st_size, found.st_ino)


@functools.lru_cache(maxsize=4)
def _load_npz(uri: str, *version: int) -> Arrays:
    """Return the arrays of a file; another `version` of it is another file."""
    del version
    try:
        return _npz(Path(uri))
    except FormatError as error:
        raise FormatError(str(error), code="VS205", where=uri, fix=_NPZ_FIX) from error


def array_pixels(uri: str, entry: int) -> bytes:
    """Return the pixels of an entry of an array source, uint8 [H, W] or [H, W, 3].

    Raises:
        FormatError: The array is damaged, or has no such entry any more.
        OSError: It cannot be read.
    """
    images = load_arrays(uri).images
    if entry >= len(images):
        raise FormatError(f"the array has {len(images)} images now")
    pixels: bytes = images[entry].tobytes()
    return pixels


_NPZ_FIX = "save it with numpy.savez(file, images=uint8 [N, H, W, 3], labels=int [N])"


@functools.cache
def _digits() -> Arrays:
    """Real handwritten digits (UCI, Alpaydin and Kaynak), 8 px, enlarged to 16 px.

    They lie in scikit-learn, which takes seconds to import and is not needed to read them.
    """
    path = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = np.loadtxt(str(path), np.int32, delimiter=",")  # 64 pixels from 0 to 16, and the digit
    small = table[:, :-1].reshape(-1, 8, 8) / 8 - 1
    large = _twice(_twice(small, axis=1), axis=2)
    pixels = np.clip(np.rint((large + 1) * 127.5), 0, 255).astype(np.uint8)
    names = tuple(str(digit) for digit in range(10))
    sha256 = hashlib.sha256(pixels.tobytes()).hexdigest()
    return Arrays(pixels[..., None], table[:, -1].copy(), names, pixels.nbytes, sha256)


def _twice(images: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Double one axis bilinearly: sample centres at (i + .5) / 2 - .5, edges repeated."""
    size = images.shape[axis]
    centres = np.clip((np.arange(2 * size) + 0.5) / 2 - 0.5, 0, None)
    low = centres.astype(np.int64)
    high = np.minimum(low + 1, size - 1)
    shape = [1, 1, 1]
    shape[axis] = -1
    weight = (centres - low).reshape(shape)
    doubled: NDArray[np.float64] = images.take(low, axis) * (1 - weight)
    doubled += images.take(high, axis) * weight
    return doubled


def _npz(path: Path) -> Arrays:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            image_name = _named(names, IMAGE_NAMES, "images")
            images = _read_npy(archive, image_name)
            label_name = next((name for name in LABEL_NAMES if name in names), None)
            labels = None if label_name is None else _read_npy(archive, label_name)
        sha256, size = disk.sha256_of(path), path.stat().st_size
    except FormatError:
        raise
    except Exception as error:  # foreign parsers on hostile bytes may raise anything
        why = error if str(error) else type(error).__name__
        raise FormatError(f"npz cannot be read: {why}") from error
    if (
        images.dtype != np.uint8
        or images.ndim not in (3, 4)
        or images.shape[3:] not in ((), (1,), (3,))
    ):
        raise FormatError(
            f"npz images must be uint8 [N, H, W] or [N, H, W, 1 or 3], "
            f"got {images.dtype} {list(images.shape)}"
        )
    if len(images):
        height, width = images.shape[1:3]
        LIMITS.check(height, width, encoded_bytes=height * width)
    images = images if images.ndim == 4 else images[..., None]
    unread = [] if label_name else sorted({*names} - {image_name})
    return Arrays(images, *_npz_labels(labels, len(images)), size, sha256, tuple(unread))


def _npz_labels(
    labels: NDArray[Any] | None, count: int
) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Return labels [count] with the names of their numbers, if they are words."""
    if labels is None:
        return np.full(count, -1, np.int32), ()
    if labels.shape not in ((count,), (count, 1)) or labels.dtype.kind not in "iufU":
        raise FormatError(
            f"npz labels must be integers or words [{count}], got {labels.dtype} "
            f"{list(labels.shape)}"
        )
    reader = LabelReader()
    try:
        values = labels.reshape(-1).tolist()
    except SystemError as error:  # numpy checks no letter, and CPython refuses those beyond Unicode
        raise FormatError(f"npz labels must be Unicode: {error}") from error
    found = [
        reader.text(v.encode("utf-8", "surrogatepass")) if isinstance(v, str) else reader.value(v)
        for v in values
    ]
    if reader.unread:
        raise FormatError(
            f"npz labels must be whole numbers in [-1, 2^31) or words, got {reader.example}"
        )
    return number_labels(found)


def _read_npy(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """Return an array of an npz; what its header claims is checked before it is read."""
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise FormatError(f"npz array {name} has npy version {version}")
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran_order, dtype = read_header(file)
        if dtype.kind not in "biufU":
            raise FormatError(f"npz array {name} must hold numbers or words, got {dtype}")
        claimed = math.prod(shape) * dtype.itemsize
        if claimed > NPZ_ARRAY_BYTES or claimed != info.file_size - file.tell():
            raise FormatError(
                f"npz array {name} claims {claimed} bytes, its member holds "
                f"{info.file_size - file.tell()}, and at most {NPZ_ARRAY_BYTES} are read"
            )
        data = file.read(claimed)
        file.read(1)  # the end of a member is where zipfile checks its CRC
    array = np.frombuffer(data, dtype)
    return array.reshape(shape[::-1]).T if fortran_order else array.reshape(shape)


def _named(names: Sequence[str], wanted: Sequence[str], what: str) -> str:
    for name in wanted:
        if name in names:
            return name
    raise FormatError(f"npz must hold {what} under one of {list(wanted)}, it has {list(names)}")


def array_file(spec: str) -> list[str]:
    """Return the absolute path of an `.npz`, or "digits"."""
    return [DIGITS] if spec == DIGITS else one_file(spec)


def scan_arrays(spec: str, *, limit: int | None, on_error: OnError) -> Source:
    """Return the images of "digits" or of an `.npz`; none of them can be unreadable."""
    del on_error
    uri = array_file(spec)[0]
    if spec != DIGITS and not Path(spec).is_file():
        raise no_source(spec, "nothing is there")
    arrays = load_arrays(uri)
    count, height, width = arrays.images.shape[:3]
    digits = max(4, len(str(count - 1)))
    crcs = [zlib.crc32(image.tobytes()) for image in arrays.images]
    table = SourceTable(
        keys=tuple(f"{row:0{digits}d}" for row in range(count)),
        label=arrays.labels,
        part=np.zeros(count, np.uint32),
        offset=np.arange(count, dtype=np.uint64),
        size=np.full(count, arrays.images[0].nbytes if count else 0, np.uint32),
        crc32=np.array(crcs, np.uint32),
        height=np.full(count, height, np.uint32),
        width=np.full(count, width, np.uint32),
        parts=(Part(uri=uri, kind="array", bytes=arrays.bytes, sha256=arrays.sha256),),
        label_names=arrays.label_names,
    )
    return Source(first_rows(table, limit), notes=tuple(_notes(spec, arrays)))


def _notes(spec: str, arrays: Arrays) -> Iterator[str]:
    if Path(DIGITS).is_dir() and spec == DIGITS:
        yield "the folder of this name is not read: ./digits names it"
    if arrays.unread:
        yield (
            f"there are no labels: an array of them must be called {', '.join(LABEL_NAMES)}; not "
            f"read: {', '.join(arrays.unread[:SHOWN])}"
        )


def _is_array(spec: str) -> bool:
    """Return whether a spelling names arrays; a folder is one of pictures, whatever its suffix."""
    return spec == DIGITS or (Path(spec).suffix.lower() == ".npz" and not Path(spec).is_dir())


KIND = SourceKind(
    spelling="an .npz with images, digits",
    matches=_is_array,
    scan=scan_arrays,
    files=array_file,
    pixels=array_pixels,
)
