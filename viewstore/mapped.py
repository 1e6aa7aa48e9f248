"""Arrays that stay in their files: checked once, then mapped, so that they take no memory."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import FormatError
from viewstore.tar import npy_header


def map_npy(
    path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], *, size: int, sha256: str
) -> NDArray[Any]:
    """Return the array in the npy file `path`, mapped read-only.

    Raises:
        FormatError: The file has not this size and sha256, or does not hold such an array.
        OSError: It cannot be read.
    """
    header = npy_header(dtype, shape)
    count = int(np.prod(shape, dtype=np.int64))
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size != size:
            raise FormatError(f"{path.name} must have {size} bytes")
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise FormatError(f"{path.name} does not match its sha256")
        file.seek(0)
        if file.read(len(header)) != header or size != len(header) + count * dtype.itemsize:
            raise FormatError(f"{path.name} must be {dtype} {shape}, C order")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(data, dtype, count=count, offset=len(header)).reshape(shape)


class StoredKeys(Sequence[str]):
    """Texts that lie one after another in an array of bytes, decoded when they are asked for."""

    def __init__(self, data: NDArray[np.uint8], offsets: NDArray[np.uint64]) -> None:
        """Take text i from data[offsets[i] : offsets[i + 1]].

        Raises:
            FormatError: The texts do not fill `data` one after another, or are no UTF-8.
        """
        self._data, self._offsets = data, offsets
        if offsets[0] != 0 or offsets[-1] != len(data) or (offsets[1:] < offsets[:-1]).any():
            raise FormatError("source keys must lie one after another and fill their column")
        for begin in range(0, len(self), _TEXTS_AT_ONCE):
            self._check_text(begin, min(len(self), begin + _TEXTS_AT_ONCE))

    def _check_text(self, begin: int, end: int) -> None:
        offsets = self._offsets[begin : end + 1].astype(np.int64)
        joined = self._data[offsets[0] : offsets[-1]]
        starts = offsets[:-1][offsets[:-1] < offsets[1:]] - offsets[0]
        try:
            joined.tobytes().decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"source keys must be UTF-8: {error}") from error
        if (joined[starts] & 0xC0 == 0x80).any():
            raise FormatError("source keys must be UTF-8: one begins within a character")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> tuple[str, ...]: ...
    def __getitem__(self, row: int | slice) -> str | tuple[str, ...]:
        if isinstance(row, slice):
            return tuple(self._text(each) for each in range(len(self))[row])
        return self._text(range(len(self))[row])

    def _text(self, row: int) -> str:
        return self._data[int(self._offsets[row]) : int(self._offsets[row + 1])].tobytes().decode()


_TEXTS_AT_ONCE = 1 << 16
