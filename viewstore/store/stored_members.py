"""Reads the members of rows out of the shards of a view set, each compared with its CRC-32."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import FormatError
from viewstore.files.blob_cache import BlobCache
from viewstore.format.plan import Plan
from viewstore.store.mapped_shards import MappedShards
from viewstore.store.shard import Shard

Cut = Callable[[int, int], bytes]  # bytes of a shard: offset and size


class StoredMembers:
    """The members of rows; threads share it.

    A shard of this disk is opened for each row that is read: one that somebody cuts meanwhile is an
    error, where reading a map of it would end the process. Remote shards are mapped, or ranges of
    them are fetched.
    """

    def __init__(
        self,
        plan: Plan,
        members: NDArray[Any],
        shards: Mapping[int, Shard],
        mapped: MappedShards,
        cache: BlobCache | None,
    ) -> None:
        """Read members of `plan` where the table `members` [N, M] says that they lie.

        `cache` brings remote shards, which are `mapped`; None: they lie here.
        """
        self._plan, self._members = plan, members
        self._shards, self._mapped, self._cache = shards, mapped, cache

    def read(self, row: int, number: int, only: Collection[str] | None) -> dict[str, bytes]:
        """Return the members of a row of shard `number` by extension, `only` these if given.

        Some members of a remote shard that is not here are fetched alone. A kept copy that is
        damaged is fetched again.

        Raises:
            FormatError: A member differs from its CRC-32.
        """
        members = {
            extension: member
            for extension, member in zip(self._plan.members, self._members[row], strict=True)
            if only is None or extension in only
        }
        if self._cache is None:
            return self._read_here(row, number, members)
        shard = self._shards[number]
        if only is not None and not self._cache.holds(shard.blob.sha256):
            return self._fetched(row, shard, members, self._cache)
        try:
            return self._cut(row, number, _cut_of(self._mapped[number]), members)
        except FormatError:
            if not self._mapped.again(number):
                raise
        return self._cut(row, number, _cut_of(self._mapped[number]), members)

    def _read_here(self, row: int, number: int, members: Mapping[str, Any]) -> dict[str, bytes]:
        descriptor = self._shards[number].open()
        try:
            return self._cut(
                row, number, lambda begin, size: os.pread(descriptor, size, begin), members
            )
        finally:
            os.close(descriptor)

    def _fetched(
        self, row: int, shard: Shard, members: Mapping[str, Any], cache: BlobCache
    ) -> dict[str, bytes]:
        payloads = {}
        for extension, member in members.items():
            begin, size = int(member["offset"]), int(member["size"])
            check = partial(self._checked, row, shard, extension, int(member["crc32"]))
            payloads[extension] = cache.part(shard.path, begin, begin + size, check)
        return payloads

    def _cut(self, row: int, number: int, cut: Cut, members: Mapping[str, Any]) -> dict[str, bytes]:
        shard = self._shards[number]
        payloads = {}
        for extension, member in members.items():
            payload = cut(int(member["offset"]), int(member["size"]))
            crc32 = int(member["crc32"])
            payloads[extension] = self._checked(row, shard, extension, crc32, payload)
        return payloads

    def _checked(self, row: int, shard: Shard, extension: str, crc32: int, payload: bytes) -> bytes:
        if zlib.crc32(payload) != crc32:
            raise FormatError(
                f"{extension} of row {row} of {self._plan.view_set} does not match its CRC-32",
                code="VS203",
                where=shard.origin,
                fix=shard.repair,
            )
        return payload


def _cut_of(data: NDArray[np.uint8]) -> Cut:
    return lambda begin, size: data[begin : begin + size].tobytes()
