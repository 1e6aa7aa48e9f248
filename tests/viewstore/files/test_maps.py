"""Bytes of files: announced pages come into memory early, small files are no pages at all."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from viewstore.errors import FormatError
from viewstore.files.maps import READ_BYTES, announce, file_bytes, map_file

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


SUM_OF_A_CUT_FILE = """
import os, sys
from viewstore.files import maps
file = os.open(sys.argv[1], os.O_RDWR)
data = maps.file_bytes(file)
os.truncate(file, 0)
print(int(data.sum()))
"""


@pytest.mark.parametrize("size", [0, 1, READ_BYTES, READ_BYTES + 1])
def test_bytes_of_a_file_are_read_only_and_need_no_descriptor(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    with path.open("rb") as file:
        data = file_bytes(file.fileno())
    assert data.tobytes() == path.read_bytes()
    assert not data.flags.writeable


@pytest.mark.parametrize(
    ("size", "code"), [(READ_BYTES, 0), (READ_BYTES + 1, -signal.SIGBUS)], ids=["small", "large"]
)
def test_a_small_file_that_is_cut_leaves_what_was_read_of_it(
    tmp_path: Path, size: int, code: int
) -> None:
    """Of a larger one, whose pages are those of the file, the process ends."""
    path = tmp_path / "file"
    path.write_bytes(b"\1" * size)
    program = [sys.executable, "-c", SUM_OF_A_CUT_FILE, str(path)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stdout == (f"{size}\n" if code == 0 else "")


def test_a_file_that_is_cut_while_it_is_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(10))
    with path.open("rb") as file:
        facts = os.fstat(file.fileno())
        monkeypatch.setattr(os, "fstat", lambda _: facts)
        os.truncate(path, 4)
        with pytest.raises(FormatError, match="became shorter while it was read: 4 of 10 bytes"):
            file_bytes(file.fileno())
