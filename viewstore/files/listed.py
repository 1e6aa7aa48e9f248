"""Reads the files that a listing names, each compared with the CRC-32 it was listed with."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from viewstore.errors import FormatError
from viewstore.files.maps import Descriptor
from viewstore.format.listing import Listing


class ListedFiles:
    """Reads views by row and number; of a tar, the descriptor stays open."""

    def __init__(self, root: str, listing: Listing, *, in_tar: bool) -> None:
        """Read what `listing` names below the folder `root`, or in the tar `root`."""
        self.root, self.listing, self.in_tar = root, listing, in_tar
        self._tar: Descriptor | None = None

    def read(self, row: int, view: int) -> bytes:
        """Return the file of a view that has one.

        Raises:
            FormatError: It cannot be read, or has other bytes than when it was listed.
        """
        record, where = self.listing.records[row, view], self.where(row, view)
        try:
            data = self._bytes(where, int(record["offset"]), int(record["size"]))
        except OSError as error:
            raise self._changed(where, row, view, error.strerror or str(error)) from error
        if len(data) != record["size"] or zlib.crc32(data) != record["crc32"]:
            raise self._changed(where, row, view, "its bytes are others than when it was listed")
        return data

    def where(self, row: int, view: int) -> str:
        """Return the path of the file of a view, or of the tar that holds it."""
        name = self.listing.names[self.listing.records["part"][row, view]]
        return self.root if self.in_tar else f"{self.root}/{name}"

    def _bytes(self, where: str, offset: int, size: int) -> bytes:
        if self.in_tar:
            if self._tar is None:
                self._tar = Descriptor(os.open(where, os.O_RDONLY))
            return os.pread(self._tar.number, size, offset)
        with Path(where).open("rb", buffering=0) as file:
            return file.read(size + 1)  # one more: the file may have grown

    @staticmethod
    def _changed(where: str, row: int, view: int, why: str) -> FormatError:
        return FormatError(
            f"view {view} of row {row} cannot be imported",
            code="VS205",
            where=where,
            why=why,
            fix="give the file back as it was, or import what is there into another --view-set",
        )
