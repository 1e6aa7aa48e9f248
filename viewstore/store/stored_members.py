"""Reads the members of rows out of the shards of a view set, each compared with its CRC-32."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import FormatError
from viewstore.files.blob_cache import BlobCache
from viewstore.format.plan import Plan
from viewstore.store.mapped_shards import MappedShards
from viewstore.store.shard import Shard


class StoredMembers:
    """The members of rows: mapped, or fetched as ranges of a remote shard; threads share it."""

    def __init__(
        self,
        plan: Plan,
        members: NDArray[Any],
        shards: Mapping[int, Shard],
        mapped: MappedShards,
        cache: BlobCache | None,
    ) -> None:
        """Read members of `plan` where the table `members` [N, M] says that they lie.

        `cache` brings remote shards; None: they lie here.
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
        if only is not None and self._cache is not None:
            shard = self._shards[number]
            if not self._cache.holds(shard.blob.sha256):
                return self._fetched(row, shard, members, self._cache)
        data = self._mapped[number]
        try:
            return self._cut(row, number, data, members)
        except FormatError:
            if not self._mapped.again(number):
                raise
        return self._cut(row, number, self._mapped[number], members)

    def _fetched(
        self, row: int, shard: Shard, members: Mapping[str, Any], cache: BlobCache
    ) -> dict[str, bytes]:
        payloads = {}
        for extension, member in members.items():
            begin, size = int(member["offset"]), int(member["size"])
            check = partial(self._checked, row, shard, extension, int(member["crc32"]))
            payloads[extension] = cache.part(shard.path, begin, begin + size, check)
        return payloads

    def _cut(
        self, row: int, number: int, data: NDArray[np.uint8], members: Mapping[str, Any]
    ) -> dict[str, bytes]:
        payloads = {}
        for extension, member in members.items():
            begin, size = int(member["offset"]), int(member["size"])
            payload = data[begin : begin + size].tobytes()
            shard, crc32 = self._shards[number], int(member["crc32"])
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
