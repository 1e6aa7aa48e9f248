"""The seam between the readers of a store and its files: the protocol `Files`, and this disk.

`LOCAL` reads the files of this machine; `viewstore.files.remote` reads those below a URL.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, FormatError
from viewstore.files.blob_cache import BlobCache, Checked
from viewstore.files.disk import read_limited
from viewstore.files.maps import file_bytes, map_file
from viewstore.files.transport import OBSTORE_SCHEMES
from viewstore.format.tar import unpack_npy

CACHED_BYTES = 1 << 20  # smaller files cost less to fetch than to keep
SCHEME = re.compile(r"[a-z][a-z0-9+.:-]+://", re.IGNORECASE)
ALMOST_URL = re.compile(rf"({'|'.join(OBSTORE_SCHEMES)}|file):(?!//)/?(.*)", re.I | re.S)


class Files(Protocol):
    """Reads the files that the paths of a store name."""

    @property
    def cache(self) -> BlobCache | None:
        """How blobs come to this machine; None where they lie on it."""

    def record(self, path: Path, limit: int, check: Callable[[bytes], Checked]) -> Checked:
        """Return `check` of the bytes of a file, which raises FormatError unless they are right.

        Raises:
            FormatError: It is missing, longer than `limit` bytes, or not what it should be; it
                is named.
        """

    def exists(self, path: Path) -> bool:
        """Whether there is such a file."""

    def array(
        self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], size: int, sha256: str
    ) -> NDArray[Any]:
        """Return the array in an npy file of `size` bytes which has this sha256.

        Raises:
            FormatError: The file is missing, has other bytes or holds another array; it is named.
        """

    def open(self, path: Path, size: int, sha256: str) -> int:
        """Return a descriptor of a blob of `size` bytes; the caller closes it.

        Raises:
            FormatError: The file is missing, or not what its commit says.
        """

    def reopen(self, path: Path, size: int, sha256: str) -> int | None:
        """Return a descriptor of a blob that was found damaged, if there is another one to read.

        Returns:
            None: the file is read where it lies. Else what was kept of it on this machine was
            compared with its sha256, dropped if it differs, and fetched again.

        Raises:
            ViewStoreError: As `open`, or the damaged copy cannot be dropped; the copy is named.
        """

    def origin(self, path: Path, sha256: str) -> str:
        """Return the path or URL of a blob, and its copy on this machine if that was read."""

    def where(self, path: Path) -> str:
        """Return the path or URL of a file, for messages."""


class LocalFiles:
    """The files of this machine. Blobs are opened by size: members have their own CRC."""

    cache = None

    def record(self, path: Path, limit: int, check: Callable[[bytes], Checked]) -> Checked:
        try:
            return check(read_limited(path, limit))
        except FileNotFoundError as error:
            raise FormatError(f"{path.name} is missing", where=str(path)) from error
        except FormatError as error:
            raise error.located(str(path)) from error

    def exists(self, path: Path) -> bool:
        return path.is_file()

    def array(
        self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], size: int, sha256: str
    ) -> NDArray[Any]:
        try:
            with path.open("rb") as file:
                data = file_bytes(file.fileno()).data
            return unpack_npy(matching(data, size=size, sha256=sha256), dtype, shape)
        except (FormatError, OSError) as error:
            raise FormatError(str(error), where=str(path)) from error

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

    def reopen(self, path: Path, size: int, sha256: str) -> int | None:
        return None

    def origin(self, path: Path, sha256: str) -> str:
        return str(path)

    def where(self, path: Path) -> str:
        return str(path)


LOCAL = LocalFiles()


def whole_file(files: Files, path: Path, size: int, sha256: str) -> bytes:
    """Return the bytes of a file. Raises as `shared_file`."""
    return bytes(shared_file(files, path, size, sha256))


def shared_file(files: Files, path: Path, size: int, sha256: str) -> bytes | memoryview:
    """Return the bytes of a file; of a large one of a remote store, pages of its cached copy.

    Pages cost memory once, however many processes of a machine hold them.

    Raises:
        FormatError: The file is missing, or has another size or sha256; it is named.
    """
    check = partial(matching, size=size, sha256=sha256)
    if files.cache is None or size < CACHED_BYTES:
        return files.record(path, size, check)
    return checked_blob(files, path, size, sha256, check)


def checked_blob(
    files: Files, path: Path, size: int, sha256: str, check: Callable[[memoryview], Checked]
) -> Checked:
    """Return `check` of the mapped bytes of a blob; what it refuses is read anew if it was kept.

    Raises:
        FormatError: It was refused each time; the file is named, and its copy here.
        RemoteError: The remote store did not give it.
    """
    data = mapped(files.open(path, size, sha256)).data
    try:
        return check(data)
    except FormatError:
        descriptor = files.reopen(path, size, sha256)
        if descriptor is None:
            raise
    try:
        return check(mapped(descriptor).data)
    except FormatError as error:
        raise error.located(files.origin(path, sha256)) from error


def mapped(descriptor: int) -> NDArray[np.uint8]:
    """Return the bytes of an open file, uint8 [size], read-only; the file is closed."""
    try:
        return map_file(descriptor)
    finally:
        os.close(descriptor)


def matching(data: bytes | memoryview, *, size: int, sha256: str) -> bytes | memoryview:
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
    """Return the folder that a path or a file:// URL names.

    Raises:
        ConfigError: It is no URL, or almost one, which would be a folder named "s3:"; or an empty
            text, which would be the current folder.
    """
    text = str(path)
    if not text:
        raise ConfigError("a store must be named, got an empty text")
    almost = ALMOST_URL.fullmatch(text) if isinstance(path, str) else None
    if almost is not None:
        scheme, rest = almost[1].lower(), almost[2]
        url = f"{scheme}://{'/' if scheme == 'file' else ''}{rest}"
        raise ConfigError(
            f"{text} is neither a URL nor a usual path: did you mean {url}?",
            where=text,
            why=f"a URL has two slashes behind {scheme}:",
            fix=f"give {url}, or ./{text} for a folder of that name",
        )
    if not text.startswith("file://"):
        return Path(path)
    try:
        return Path(unquote(urlsplit(text).path))
    except ValueError as error:
        raise ConfigError(f"store URL cannot be understood: {error}", where=text) from error
