"""Views as shards store them: base of raw and encoded views, which finds and checks members."""

from __future__ import annotations

import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import FormatError
from viewstore.files.crc_checks import CrcChecks, Verify
from viewstore.loaders.pipeline.buffers import Buffer
from viewstore.loaders.plan.rows import Rows
from viewstore.loaders.read.shards import OpenShards, ShardFile
from viewstore.store.view_set import ViewSet

Damage = dict[int, FormatError]  # by index in the batch
Flips = Sequence[NDArray[np.bool_] | None]  # for each slot which views to mirror, [B]
Payloads = Iterable[memoryview | bytes]  # of one sample, for each slot


@dataclass(slots=True, kw_only=True)
class ViewRequest:
    """What `ViewSetReader.read` is asked for, passed to what reads some samples of it.

    Attributes:
        rows: Rows, [B].
        views: View number for each row and slot, [B, n].
        out: For each slot uint8 [B, H, W, C].
        flips: For each slot which views to mirror, [B], or None.
        damaged: Takes the errors of damaged rows.
        fetch_seconds: Takes the time until members were fetched and checked.
    """

    rows: Rows
    views: Rows
    out: Sequence[Buffer]
    flips: Flips
    damaged: Damage
    fetch_seconds: float = 0.0


class StoredViews(ABC):
    """Fills buffers with the stored views of one view set."""

    def __init__(self, view_set: ViewSet, shards: OpenShards, *, verify: Verify) -> None:
        self.view_set = view_set
        self.shape = (view_set.height, view_set.width, view_set.channels)
        members = view_set.plan.members
        self._columns = np.array([i for i, name in enumerate(members) if name != "json"])
        self._shards = shards
        self._checks = CrcChecks(len(view_set) * len(self._columns), verify)

    @abstractmethod
    def read(self, request: ViewRequest, indices: Rows) -> None:
        """Fill some samples of the batch, from whole shards."""

    @abstractmethod
    def unpack(self, request: ViewRequest, index: int, payloads: Payloads) -> None:
        """Fill one sample of the batch from the checked payload of each slot's member."""

    def announce(self, rows: Rows, views: Rows) -> None:
        """Have the operating system load the members of views, as far as their shards are open."""
        members = self._members(rows, views)
        for row, entries in zip(rows.tolist(), members, strict=True):
            file = self._shards.find(row // self.view_set.plan.shard_rows)
            if file is not None:
                for entry in entries:
                    file.announce(int(entry["offset"]), int(entry["size"]))

    def member_numbers(self, views: Rows) -> Rows:
        """Return the numbers of the views' members in the plan; raw views share one."""
        return self._columns[views * (len(self._columns) > 1)]

    def _members(self, rows: Rows, views: Rows) -> NDArray[Any]:
        """Return where the views' members lie, MEMBER_DTYPE [B, n]."""
        return np.asarray(self.view_set.members[rows[:, None], self.member_numbers(views)])

    def _open(self, request: ViewRequest, indices: Rows, members: Rows) -> dict[int, ShardFile]:
        """Open the shards of some samples, and compare their `members` [B, n] with their CRCs."""
        began = time.perf_counter()
        rows = request.rows[indices]
        files: dict[int, ShardFile] = {}
        numbers = rows // self.view_set.plan.shard_rows
        for number in np.unique(numbers).tolist():
            try:
                files[number] = self._shards.open(number)
            except FormatError as error:
                request.damaged |= dict.fromkeys(indices[numbers == number].tolist(), error)
        found = self._check(files, rows, members)
        request.damaged |= {int(indices[i]): error for i, error in found.items()}
        request.fetch_seconds += time.perf_counter() - began
        return files

    def _check(self, files: dict[int, ShardFile], rows: Rows, members: Rows) -> Damage:
        """Compare the CRC of members, [B, n] numbers for [B] rows, as far as `verify` asks for it.

        A shard of `files` whose copy in the cache is damaged is replaced by one fetched again.
        Return the first error of each row, by its index in `rows`.
        """
        if self._checks.verify == "off":
            return {}
        bits = rows[:, None] * len(self._columns) + members
        due = self._checks.due(bits)
        if not due.any():
            return {}
        entries = self.view_set.members[rows[:, None], self._columns[members]]
        damaged: Damage = {}
        for i, slot in np.argwhere(due).tolist():
            row, member, entry = int(rows[i]), int(members[i, slot]), entries[i, slot]
            number = row // self.view_set.plan.shard_rows
            if number not in files:
                continue
            found = _crc32(files[number], entry)
            if found != entry["crc32"]:
                try:
                    if self._renew(files, number):
                        found = _crc32(files[number], entry)
                except FormatError as error:
                    damaged.setdefault(i, error)
                    continue
            if found == entry["crc32"]:
                self._checks.passed(int(bits[i, slot]))
                continue
            expected = f"expected {int(entry['crc32']):08x}, got {found:08x}"
            what = f"does not match its CRC-32: {expected}"
            damaged.setdefault(i, self._corrupt(row, member, what))
        return damaged

    def _renew(self, files: dict[int, ShardFile], number: int) -> bool:
        """Replace a shard of `files` by one fetched again; return False: there is no other copy."""
        found = self._shards.renew(number, files[number])
        if found is not None:
            files[number] = found
        return found is not None

    def _corrupt(self, row: int, member: int, what: str) -> FormatError:
        number = row // self.view_set.plan.shard_rows
        name = self.view_set.plan.members[self._columns[member]]
        return FormatError(
            f"{name} of row {row} of {self.view_set.name}, shard {number}, {what}",
            code="VS203",
            where=self.view_set.shards[number].origin,
            why="the file was changed after it was written",
            fix=self.view_set.repair(number),
        )


def _crc32(file: ShardFile, entry: Any) -> int:  # noqa: ANN401
    return zlib.crc32(file.payload(int(entry["offset"]), int(entry["size"])))


def by_shard(view_set: ViewSet, rows: Rows) -> Iterator[tuple[int, Rows]]:
    """Yield the number of each shard of `rows` with the indices of its rows, in row order."""
    shard_rows = view_set.plan.shard_rows
    order = np.argsort(rows, kind="stable")
    bounds = np.flatnonzero(np.diff(rows[order] // shard_rows)) + 1
    for indices in np.split(order, bounds):
        yield int(rows[indices[0]] // shard_rows), indices
