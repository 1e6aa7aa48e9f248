"""Writes a download into a file, and proves that it has the size and sha256 that it must have."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator

from viewstore.errors import FormatError

Download = Callable[[], Iterator[bytes]]  # yields the bytes of a file, anew each time


def write_download(
    descriptor: int, sha256: str, size: int, download: Download, where: str, *, tries: int
) -> None:
    """Write a download to an open file; one of another size or sha256 is begun again.

    Raises:
        FormatError: Each of `tries` downloads had other bytes.
    """
    for left in reversed(range(tries)):
        os.lseek(descriptor, 0, os.SEEK_SET)
        try:
            _write_checked(descriptor, sha256, size, download())
            return
        except FormatError as error:
            if not left:
                raise FormatError(
                    f"{error}, in {tries} downloads",
                    code="VS203",
                    where=where,
                    why="the remote file was changed, or the way from it changes bytes",
                ) from error


def _write_checked(descriptor: int, sha256: str, size: int, chunks: Iterator[bytes]) -> None:
    """Write `chunks` to a file. Raises FormatError: they have another size or sha256."""
    found = hashlib.sha256()
    length = 0
    for chunk in chunks:
        length += len(chunk)
        if length > size:  # no more is written than was reserved
            raise FormatError(f"file must have {size} bytes, got more")
        found.update(chunk)
        view = memoryview(chunk)
        while view:
            view = view[os.write(descriptor, view) :]
    if length != size:
        raise FormatError(f"file must have {size} bytes, got {length}")
    if found.hexdigest() != sha256:
        raise FormatError(
            f"file does not match its sha256: expected {sha256}, got {found.hexdigest()}"
        )
