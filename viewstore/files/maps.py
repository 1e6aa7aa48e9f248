"""The bytes of files: small ones read, others mapped without a descriptor, for a process has few.

`mmap.mmap` and `numpy.memmap` duplicate the descriptor for as long as the map lives.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import FormatError

READ_BYTES = 64 << 10  # of a file that is read: up to here half the time that a map of it takes

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


def file_bytes(descriptor: int) -> NDArray[np.uint8]:
    """Return the bytes of a file, read-only, [size]: a copy of a small one, else a map of it.

    Raises:
        FormatError: It became shorter while it was read.
    """
    size = os.fstat(descriptor).st_size
    if size > READ_BYTES:
        return map_file(descriptor)
    data = os.pread(descriptor, size, 0)
    if len(data) != size:
        raise FormatError(f"a file became shorter while it was read: {len(data)} of {size} bytes")
    return np.frombuffer(data, np.uint8)


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
