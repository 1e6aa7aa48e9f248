"""Where the bytes of a store come from: the one seam between its readers and disk or network.

`LOCAL` reads the files of this machine; `viewstore.files.remote` reads a URL through a cache.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypedDict, TypeVar
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import FormatError
from viewstore.files.cache_settings import CacheSettings
from viewstore.files.disk import read_limited
from viewstore.files.fetch import Retry, Traffic
from viewstore.files.maps import map_npy
from viewstore.format.records import SMALL_BYTES

MOST_MAPS = 1 << 14  # of a view set; a process may have four times as many

Checked = TypeVar("Checked")


@dataclass(frozen=True)
class Download:
    """A blob to have at hand soon."""

    path: Path
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Room:
    """Bytes of this machine for blobs, and the ranks that share them."""

    bytes: int
    ranks: int


class FileSettings(TypedDict, total=False):
    """What `open_store` takes beside a place, to read it as another process does."""

    cache: CacheSettings
    retry: Retry


class Files(Protocol):
    """Reads the files that the paths of a store name."""

    def record(self, path: Path, limit: int, check: Callable[[bytes], Checked]) -> Checked:
        """Return `check` of the bytes of a file, which raises FormatError unless they are right.

        Raises:
            FormatError: It is missing, longer than `limit`, or not what it should be; it is named.
        """

    def exists(self, path: Path) -> bool:
        """Whether there is such a file."""

    def content(self, path: Path, size: int, sha256: str) -> bytes:
        """Return the bytes of a file, which have this sha256.

        Raises:
            FormatError: The file is missing, or has other bytes; it is named.
        """

    def array(
        self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], size: int, sha256: str
    ) -> NDArray[Any]:
        """Return the array in an npy file which has this sha256. Raises as `content`."""

    def part(self, path: Path, start: int, stop: int, check: Callable[[bytes], Checked]) -> Checked:
        """Return `check` of bytes [start, stop) of a blob. Raises as `record`."""

    def open(self, path: Path, size: int, sha256: str) -> int:
        """Return a descriptor of a blob of `size` bytes; the caller closes it.

        Raises:
            FormatError: The file is missing, or not what its commit says.
        """

    def where(self, path: Path) -> str:
        """Return what people call the file at `path`."""

    def prefetch(self, downloads: Sequence[Download]) -> None:
        """Begin to fetch blobs that are needed next, in this order, if that takes time."""

    def holds(self, sha256: str) -> bool:
        """Whether a blob is on this machine now."""

    @property
    def keeps(self) -> bool:
        """Whether blobs that are opened stay on this machine, as long as there is room."""

    @property
    def settings(self) -> FileSettings:
        """How they are read."""

    @property
    def room(self) -> Room:
        """What this machine gives to blobs."""

    @property
    def traffic(self) -> Traffic | None:
        """Counts of what came over the network; None for files of this machine."""

    def check_cache(self, largest: int) -> None:
        """Raise ConfigError if blobs of up to `largest` bytes cannot be kept at hand."""

    def most_open(self, largest: int) -> int:
        """Return how many blobs of up to `largest` bytes to keep open or mapped."""

    def repair(self, path: Path, options: str) -> str:
        """Return what mends the store that `path`, a file of a view set, is of."""

    def finalise(self, path: Path) -> str:
        """Return what derives the files of the store anew that `path`, as above, is of."""


class LocalFiles:
    """The files of this machine. Blobs are opened by size: members have their own CRC."""

    def record(self, path: Path, limit: int, check: Callable[[bytes], Checked]) -> Checked:
        return read_record(path, check, limit=limit)

    def exists(self, path: Path) -> bool:
        return path.is_file()

    def content(self, path: Path, size: int, sha256: str) -> bytes:
        return self.record(path, size, partial(matching, size=size, sha256=sha256))

    def array(
        self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], size: int, sha256: str
    ) -> NDArray[Any]:
        try:
            return map_npy(path, dtype, shape, size=size, sha256=sha256)
        except (FormatError, OSError) as error:
            raise FormatError(str(error), where=str(path)) from error

    def part(self, path: Path, start: int, stop: int, check: Callable[[bytes], Checked]) -> Checked:
        with path.open("rb") as file:
            file.seek(start)
            return check(file.read(stop - start))

    def open(self, path: Path, size: int, sha256: str) -> int:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise FormatError("is missing") from error
        found = os.fstat(descriptor).st_size
        if found != size:
            os.close(descriptor)
            raise FormatError(f"is {'shorter' if found < size else 'longer'} than its commit says")
        return descriptor

    def where(self, path: Path) -> str:
        return str(path)

    def prefetch(self, downloads: Sequence[Download]) -> None:
        """Nothing to do: the files are here."""

    def holds(self, sha256: str) -> bool:
        return True

    @property
    def keeps(self) -> bool:
        return True

    @property
    def settings(self) -> FileSettings:
        return {}

    @property
    def room(self) -> Room:
        return Room(bytes=sys.maxsize, ranks=1)

    @property
    def traffic(self) -> None:
        return None

    def check_cache(self, largest: int) -> None:
        """Nothing to check: there is none."""

    def most_open(self, largest: int) -> int:
        return MOST_MAPS

    def repair(self, path: Path, options: str) -> str:
        return f"viewstore verify {path.parents[2]} --repair {options}"

    def finalise(self, path: Path) -> str:
        return f"viewstore finalise {path.parents[2]}"


LOCAL = LocalFiles()
SCHEME = re.compile(r"[a-z][a-z0-9+.:-]+://", re.IGNORECASE)


def matching(data: bytes, *, size: int, sha256: str) -> bytes:
    """Return `data`. Raises FormatError unless it has this size and sha256."""
    if len(data) != size:
        raise FormatError(f"file must have {size} bytes, got {len(data)}")
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise FormatError(f"file does not match its sha256: expected {sha256}, got {found}")
    return data


def is_url(path: str | Path) -> bool:
    """Whether `path` names a store elsewhere; file:// is this machine."""
    return SCHEME.match(str(path)) is not None and not str(path).startswith("file://")


def local_path(path: str | Path) -> Path:
    """Return the folder that a path or a file:// URL names."""
    text = str(path)
    return Path(unquote(urlsplit(text).path)) if text.startswith("file://") else Path(path)


Unpacked = TypeVar("Unpacked")


def read_record(
    path: Path, unpack: Callable[[bytes], Unpacked], *, limit: int = SMALL_BYTES
) -> Unpacked:
    """Return what `unpack` finds in the file `path`. Raises FormatError naming the file."""
    try:
        return unpack(read_limited(path, limit))
    except FileNotFoundError as error:
        raise FormatError(f"{path.name} is missing", where=str(path)) from error
    except FormatError as error:
        raise error.located(str(path)) from error
