"""Read-only memory maps of files, which keep no descriptor: a process may open few files.

`mmap.mmap` and `numpy.memmap` duplicate the descriptor for as long as the map lives.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import FormatError
from viewstore.format.tar import npy_header

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_LIBC.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_FAILED = ctypes.c_void_p(-1).value


class _Map:
    """Pages of a file, until the last array on them is gone."""

    _size = 0  # of a map that is not made yet: a signal may end __init__ anywhere
    _unmap = _LIBC.munmap  # at the end of the process modules may be gone before maps

    def __init__(self, descriptor: int, size: int) -> None:
        address = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        if address == _FAILED:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._address, self._size = address, size
        self.__array_interface__ = {
            "data": (address, True),
            "shape": (size,),
            "typestr": "|u1",
            "version": 3,
        }

    def __del__(self) -> None:
        if self._size:
            self._unmap(self._address, self._size)


def map_file(descriptor: int) -> NDArray[np.uint8]:
    """Return the bytes of a file, read-only, [size]; the caller may close the descriptor.

    They are pages of the file: one that becomes shorter ends the process that reads them.
    """
    size = os.fstat(descriptor).st_size
    return np.asarray(_Map(descriptor, size)) if size else np.empty(0, np.uint8)


def announce(data: NDArray[np.uint8], begin: int, size: int) -> None:
    """Ask the system to read bytes [begin, begin + size) of a map into memory (madvise)."""
    first = begin - begin % mmap.PAGESIZE
    _LIBC.madvise(data.ctypes.data + first, begin + size - first, mmap.MADV_WILLNEED)


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


# Each reader of many files takes this share of the descriptors that the process may have.
SHARE = 8


class Descriptor:
    """The number of an open file, which is closed when this object is collected."""

    number = -1  # a signal may end __init__ anywhere

    def __init__(self, number: int) -> None:
        """Own a descriptor."""
        self.number = number

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


def most_descriptors() -> int:
    """Return how many descriptors one reader of many files may keep."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, soft // SHARE) if soft != resource.RLIM_INFINITY else 1 << 16
