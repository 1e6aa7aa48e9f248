"""Maps of files: pages that are announced come into memory before anybody touches them."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from viewstore.files.maps import announce, map_file

PAGES = 256


def in_memory(data: NDArray[np.uint8]) -> set[int]:
    """Return the numbers of the pages of a map that are in memory."""
    found = (ctypes.c_ubyte * PAGES)()
    libc = ctypes.CDLL(None, use_errno=True)
    size = ctypes.c_size_t(data.size)
    assert libc.mincore(ctypes.c_void_p(data.ctypes.data), size, found) == 0
    return {number for number, page in enumerate(found) if page & 1}


def test_announced_bytes_are_fetched_and_no_others(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(PAGES * mmap.PAGESIZE))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # a page that is not on the disk yet cannot be dropped
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        data = map_file(descriptor)
    finally:
        os.close(descriptor)
    if in_memory(data):
        pytest.skip("this file system keeps its pages in memory")
    announce(data, 100 * mmap.PAGESIZE + 7, 2 * mmap.PAGESIZE)
    until = time.monotonic() + 300
    while not in_memory(data) >= {100, 101, 102} and time.monotonic() < until:
        time.sleep(0.01)
    assert in_memory(data) >= {100, 101, 102}
    assert len(in_memory(data)) < PAGES // 2
