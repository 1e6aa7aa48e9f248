"""Reads the rows of a source table, each compared with the CRC it was fixed with."""

from __future__ import annotations

import os
import threading
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, FormatError
from viewstore.files.crc_checks import CrcChecks, Verify
from viewstore.files.maps import Descriptor, most_descriptors
from viewstore.images.decode import scaled_decode
from viewstore.sources.kinds import kind_of
from viewstore.sources.table import SOURCE_VARIABLE, SourceTable

MOVED_FIX = (
    f"if the source was moved, say where it is: with {SOURCE_VARIABLE}=PLACE to read this store, "
    "or run its whole build command again with --source PLACE, which records it"
)
MEND_FIX = "mend the image, and build again with --source"


class SourceReader:
    """Reads the rows of a table; safe to share between threads, cheap to send to a process."""

    def __init__(self, table: SourceTable, *, verify: Verify = "always") -> None:
        """Read `table`; a row's CRC is checked at its "first" touch, "always" or never ("off")."""
        self.table = table
        self._checks = CrcChecks(len(table.keys), verify)
        self._files: dict[int, Descriptor] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return (partial(SourceReader, verify=self._checks.verify), (self.table,))

    def read(self, row: int) -> bytes:
        """Return the bytes of a row: an image file, or the raw pixels of an array.

        Raises:
            FormatError: They cannot be reached, or were checked and are not the ones the row was
                fixed with.
        """
        table = self.table
        part = table.parts[table.part[row]]
        try:
            if part.kind == "array":
                data = self._pixels(part.uri, row)
            elif part.kind == "dir":
                with open(_below(part.uri, table.keys[row]), "rb", buffering=0) as file:  # noqa: PTH123
                    data = file.readall()
            else:
                tar = self._open(int(table.part[row]))
                data = os.pread(tar.number, int(table.size[row]), int(table.offset[row]))
        except FileNotFoundError as error:
            raise self._not_there(row, part.uri) from error
        except OSError as error:
            raise self._unreadable(row, f"{error.strerror}") from error
        if self._checks.is_due(row):
            if zlib.crc32(data) != table.crc32[row]:
                raise self._unreadable(row, "its bytes changed since the store was begun")
            self._checks.passed(row)
        return data

    def image(self, row: int) -> NDArray[np.uint8]:
        """Return the image of a row, uint8 [H, W, 3]. Raises FormatError naming the file."""
        return self.decode(row, self.read(row), 1)[0]

    def decode(
        self, row: int, data: bytes, reduction: int, into: NDArray[np.uint8] | None = None
    ) -> tuple[NDArray[np.uint8], int]:
        """Return the image in the bytes of a row, and its reduction, as `scaled_decode`.

        `into` is memory of at least its size, in which the returned image may lie.
        """
        table = self.table
        if table.parts[table.part[row]].kind in ("array", "pixels"):
            height, width = int(table.height[row]), int(table.width[row])
            if len(data) not in (height * width, height * width * 3):
                raise self._unreadable(row, f"{len(data)} bytes are no {height} x {width} pixels")
            pixels = np.frombuffer(data, np.uint8).reshape(height, width, -1)
            return (np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels), 1
        try:
            image, made = scaled_decode(data, reduction, into=into)
        except (FormatError, ConfigError) as error:  # the latter: `into` is too small
            raise self._unreadable(row, str(error)) from error
        sides = -(-int(table.height[row]) // made), -(-int(table.width[row]) // made)
        if image.shape[:2] != sides:  # crop boxes are drawn for the size it had
            raise self._unreadable(row, "its size changed since the store was begun")
        return image, made

    def _pixels(self, uri: str, row: int) -> bytes:
        kind = kind_of(uri)
        if kind is None or kind.pixels is None:
            raise self._unreadable(row, "it is no array of pixels")
        try:
            return kind.pixels(uri, int(self.table.offset[row]))
        except FormatError as error:
            raise self._unreadable(row, str(error)) from error

    def _open(self, part: int) -> Descriptor:
        with self._lock:
            if part not in self._files:
                while len(self._files) >= most_descriptors():
                    del self._files[next(iter(self._files))]
                self._files[part] = Descriptor(os.open(self.table.parts[part].uri, os.O_RDONLY))
            return self._files[part]

    def _not_there(self, row: int, uri: str) -> FormatError:
        if Path(uri).exists():
            fix = f"{MOVED_FIX}; else give the image back"
            return self._unreadable(row, "there is no such file", fix=fix)
        return FormatError(
            f"the source of this store is not there: {uri}",
            code="VS207",
            where=uri,
            why=f"source image {self.table.keys[row]} is read from it",
            fix=MOVED_FIX,
        )

    def _unreadable(self, row: int, why: str, *, fix: str = MEND_FIX) -> FormatError:
        part = self.table.parts[self.table.part[row]]
        key = self.table.keys[row]
        return FormatError(
            f"source image {key} cannot be read",
            code="VS205",
            where=f"{part.uri}/{key}" if part.kind == "dir" else f"{part.uri}: {key}",
            why=why,
            fix=fix,
        )


def _below(folder: str, key: str) -> str:
    """Return folder/key. Raises FormatError: the key leads out of the folder.

    Called for each sample of each epoch; pathlib takes 25 us.
    """
    if key.startswith("/") or ".." in key.split("/") or "\0" in key:
        raise FormatError(f"key {key!r} leads out of its folder", where=folder)
    return f"{folder}/{key}"
