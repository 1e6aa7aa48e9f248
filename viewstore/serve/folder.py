"""The files of one generation of a store in a folder, however long somebody reads them.

`finalise` replaces derived files before the manifest, under the same names. What they were when a
generation was read stays at hand here: open files, and the bytes of small records. Everything is
opened component by component below the folder, and no symbolic link is followed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import FormatError
from viewstore.files.blob_cache import Checked
from viewstore.files.local import LocalFiles, matching
from viewstore.files.maps import Descriptor, file_bytes
from viewstore.format.tar import unpack_npy

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe must not stop us
HASHED_AT_ONCE = 1 << 20
WHY = {
    errno.ENOENT: "is missing",
    errno.ELOOP: "is a symbolic link",
    errno.ENOTDIR: "lies behind a symbolic link, or below what is no folder",
}


class KeptFiles(LocalFiles):
    """Reads the files of a generation; threads may share it.

    Attributes:
        records: Bytes of the records that were read whole, by name below the folder.
        kept: Derived files that stay open, by name: those that `keep` was told of.
    """

    def __init__(self, root: Path) -> None:
        """Read below the folder `root`. Raises OSError: it cannot be opened."""
        self.root = root
        self.records: dict[str, bytes] = {}
        self.kept: dict[str, Descriptor] = {}
        self._folder = Descriptor(os.open(root, FOLDER & ~os.O_NOFOLLOW))

    def opened(self, name: str, size: int | None = None) -> Descriptor:
        """Open the file `name` below the folder; it is closed when nobody holds it.

        Raises:
            FormatError: It is missing, not a regular file, a symbolic link leads to it, or it has
                not `size` bytes.
        """
        try:
            found = self.kept.get(name) or Descriptor(_open_below(self._folder.number, name))
        except OSError as error:
            why = WHY.get(error.errno or 0, f"cannot be opened: {error.strerror}")
            raise FormatError(f"{name} {why}", where=str(self.root / name)) from error
        facts = os.fstat(found.number)
        if not stat.S_ISREG(facts.st_mode):
            raise FormatError(f"{name} is not a regular file", where=str(self.root / name))
        if size not in (None, facts.st_size):
            raise FormatError(
                f"{name} has {facts.st_size} bytes, the records say {size}",
                where=str(self.root / name),
            )
        return found

    def keep(self, name: str, size: int, sha256: str) -> None:
        """Keep a derived file open. Raises FormatError: it is not the one that the manifest names.

        Between two generations that is so for a moment.
        """
        found = self.opened(name, size)
        if _sha256(found, size) != sha256:
            raise FormatError(
                f"{name} does not match the sha256 of the manifest", where=str(self.root / name)
            )
        self.kept[name] = found

    def record(self, path: Path, limit: int, check: Callable[[bytes], Checked]) -> Checked:
        name = self._name(path)
        if name not in self.records:
            file = self.opened(name)
            data = _read(file, 0, min(limit, os.fstat(file.number).st_size) + 1)
            if len(data) > limit:
                raise FormatError(f"{name} must be at most {limit} bytes", where=str(path))
            if name in self.kept:
                return _located(check, data, path)
            self.records[name] = data
        return _located(check, self.records[name], path)

    def array(
        self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], size: int, sha256: str
    ) -> NDArray[Any]:
        file = self.opened(self._name(path), size)  # it would be closed before it is mapped
        data = file_bytes(file.number).data
        return _located(
            lambda raw: unpack_npy(raw, dtype, shape),
            matching(data, size=size, sha256=sha256),
            path,
        )

    def open(self, path: Path, size: int, sha256: str) -> int:
        file = self.opened(self._name(path), size)
        return os.dup(file.number)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _open_below(folder: int, name: str) -> int:
    """Open a file, component by component. Raises OSError: ELOOP where one is a symbolic link."""
    *folders, last = name.split("/")
    below = None  # holds the folder that is open
    for each in folders:
        below = Descriptor(os.open(each, FOLDER, dir_fd=below.number if below else folder))
    return os.open(last, FILE, dir_fd=below.number if below else folder)


def _located(check: Callable[[Any], Checked], data: bytes | memoryview, path: Path) -> Checked:
    try:
        return check(data)
    except FormatError as error:
        raise error.located(str(path)) from error


def _read(file: Descriptor, start: int, size: int) -> bytes:
    """Return bytes [start, start + size) of a file, fewer where it ends."""
    pieces = []
    while size and (piece := os.pread(file.number, size, start)):
        pieces.append(piece)
        start, size = start + len(piece), size - len(piece)
    return b"".join(pieces)


def _sha256(file: Descriptor, size: int) -> str:
    digest = hashlib.sha256()
    for start in range(0, size, HASHED_AT_ONCE):
        digest.update(_read(file, start, min(HASHED_AT_ONCE, size - start)))
    return digest.hexdigest()
