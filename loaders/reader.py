"""Checked reads of cached views: gathers from mapped shards, each member's CRC seen once."""

from __future__ import annotations

import math
import mmap
import os
import threading
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, FormatError
from viewstore.loaders.ranges import RangeReader
from viewstore.store import ViewSet
from viewstore.tar import NPY_BYTES, Strided, pack_npy_header, strided_layout

Verify = Literal["first", "always", "off"]
Buffer = NDArray[np.uint8]

# One map takes whole columns up to here; larger ones are gathered from their chunks.
COLUMN_BYTES = 256 << 20
PER_SAMPLE = frozenset({"latent0", "anchor_shift", "model_step"})


class CachedReader:
    """Reads views of one view set into buffers. Safe to call from several threads."""

    def __init__(
        self,
        view_set: ViewSet,
        *,
        verify: Verify = "first",
        ranged: frozenset[int] = frozenset(),
    ) -> None:
        """Read `view_set`; of remote ones the shards `ranged` by byte ranges."""
        if verify not in ("first", "always", "off"):
            raise ConfigError(f"verify must be first, always or off, got {verify!r}")
        self.view_set = view_set
        self.verify = verify
        self.shape = (view_set.height, view_set.width, view_set.channels)
        members = view_set.plan.members
        self._columns = [i for i, name in enumerate(members) if name not in ("json", "cls")]
        self._strided = view_set.index.strided
        self._seen = np.zeros((len(view_set), len(self._columns)), np.bool_)
        self._maps: dict[int, mmap.mmap] = {}
        self._grids: dict[int, Buffer] = {}
        self._lock = threading.Lock()
        view_set.check_cache()
        self._ranged = ranged
        self._ranges = RangeReader(view_set, ranged) if view_set.remote else None
        if self._strided is not None:
            self._check_layout(self._strided)

    def read(self, rows: NDArray[np.int64], views: NDArray[np.int64], out: list[Buffer]) -> None:
        """Fill the buffers of some slots.

        Args:
            rows: Rows, [B].
            views: View number for each row and slot, [B, n].
            out: For each slot uint8 [B, H, W, C]. Views of an absent shard become black.

        Raises:
            FormatError: A shard is missing or of another length, a CRC does not match, or a
                view does not decode.
        """
        order = np.argsort(rows, kind="stable")
        shards = rows[order] // self.view_set.plan.shard_rows
        bounds = np.flatnonzero(np.diff(shards)) + 1
        ranged = []
        for places in np.split(order, bounds) if len(rows) else []:
            number = int(rows[places[0]] // self.view_set.plan.shard_rows)
            if number not in self.view_set.shards:
                for buffer in out:
                    buffer[places] = 0
            elif self._ranges is not None and self._ranges.takes(number):
                ranged.append(places)
            elif self._strided is not None:
                self._gather(self._grid(number, self._strided), number, rows, views, places, out)
            else:
                self._decode(number, rows, views, places, out)
        if ranged and self._ranges is not None:
            self._read_ranges(self._ranges, rows, views, np.concatenate(ranged), out)

    def prefetch(self, shards: Sequence[int]) -> None:
        """Have the shards that are read next fetched, but for those read by ranges."""
        self.view_set.prefetch([number for number in shards if number not in self._ranged])

    def params(self, name: str, rows: NDArray[np.int64], views: NDArray[np.int64]) -> NDArray[Any]:
        """Return a column for each row and slot, [B, n, ...]; [B, ...] if it is per sample."""
        column = self.view_set.plan.column(name)
        params = self.view_set.params
        if column.row_bytes * len(self.view_set) <= COLUMN_BYTES:
            found = params[name]
            if self.per_view(name):
                return np.asarray(found[rows[:, None], views])
            return np.asarray(found[rows])
        found = params.rows(name, rows)
        if self.per_view(name):
            return np.asarray(found[np.arange(len(rows))[:, None], views])
        return found

    def per_view(self, name: str) -> bool:
        """Whether a column has an entry for each view, or one for the sample."""
        shape = self.view_set.plan.column(name).shape
        return name not in PER_SAMPLE and shape[:1] == (self.view_set.num_views,)

    def close(self) -> None:
        """Forget the maps; they end when the last array on them does."""
        self._grids.clear()
        self._maps.clear()
        if self._ranges is not None:
            self._ranges.close()

    def _read_ranges(
        self,
        ranges: RangeReader,
        rows: NDArray[np.int64],
        views: NDArray[np.int64],
        places: NDArray[np.int64],
        out: list[Buffer],
    ) -> None:
        wanted = views[places] if self._strided is None else np.zeros((len(places), 1), np.int64)
        numbers = np.array(self._columns)[wanted]
        payloads = ranges.read(rows[places], numbers)
        for place, members in zip(places.tolist(), numbers.tolist(), strict=True):
            row = int(rows[place])
            for slot, view in enumerate(views[place].tolist()):
                if self._strided is None:
                    payload = payloads[row, members[slot]]
                    out[slot][place] = self._decoded(row, view, bytes(payload))
                else:
                    payload = payloads[row, members[0]][NPY_BYTES:]
                    pixels = np.frombuffer(payload, np.uint8).reshape(self._strided.shape)
                    out[slot][place] = pixels[view]

    def _decoded(self, row: int, view: int, payload: bytes) -> Buffer:
        number = row // self.view_set.plan.shard_rows
        try:
            pixels = self.view_set.codec.decode(payload)
        except FormatError as error:
            raise self._corrupt(number, row, view, str(error)) from error
        if pixels.shape != self.shape:
            raise self._corrupt(number, row, view, f"has the size {pixels.shape}")
        return pixels

    def _gather(
        self,
        grid: Buffer,
        number: int,
        rows: NDArray[np.int64],
        views: NDArray[np.int64],
        places: NDArray[np.int64],
        out: list[Buffer],
    ) -> None:
        mine = rows[places]
        if self.verify != "off":
            self._check(number, mine, np.zeros((len(mine), 1), np.int64))
        local = mine - number * self.view_set.plan.shard_rows
        for slot, buffer in enumerate(out):
            # Fancy indexing copies the rows; np.take would first copy the whole shard.
            buffer[places] = grid[local, views[places, slot]]

    def _decode(
        self,
        number: int,
        rows: NDArray[np.int64],
        views: NDArray[np.int64],
        places: NDArray[np.int64],
        out: list[Buffer],
    ) -> None:
        data = self._map(number)
        if self.verify != "off":
            self._check(number, rows[places], views[places])
        for place in places.tolist():
            row = int(rows[place])
            for slot, view in enumerate(views[place].tolist()):
                member = self.view_set.members[row, self._columns[view]]
                begin = int(member["offset"])
                payload = data[begin : begin + int(member["size"])]
                out[slot][place] = self._decoded(row, view, payload)

    def _check(self, number: int, rows: NDArray[np.int64], members: NDArray[np.int64]) -> None:
        """Compare the CRC of members, [B, n] numbers for [B] rows, unless they were seen."""
        if self.verify == "first":
            unseen = ~self._seen[rows[:, None], members]
            if not unseen.any():
                return
        else:
            unseen = np.ones(members.shape, np.bool_)
        data = memoryview(self._map(number))
        for place, slot in np.argwhere(unseen).tolist():
            row, member = int(rows[place]), int(members[place, slot])
            entry = self.view_set.members[row, self._columns[member]]
            begin, size = int(entry["offset"]), int(entry["size"])
            found = zlib.crc32(data[begin : begin + size])
            if found != entry["crc32"]:
                expected = f"expected {int(entry['crc32']):08x}, got {found:08x}"
                raise self._corrupt(number, row, member, f"does not match its CRC-32: {expected}")
            self._seen[row, member] = True

    def _check_layout(self, strided: Strided) -> None:
        """Raise FormatError unless the index places raw views where the plan says they lie.

        The gather reads without a bound, so a wrong place must end here.
        """
        plan = self.view_set.plan
        shape = (self.view_set.num_views, *self.shape)
        size = len(pack_npy_header(repr("|u1"), shape)) + math.prod(shape)
        if strided != strided_layout(plan.members, plan.json_bytes, shape):
            raise FormatError(f"index of {plan.view_set} must place arrays of {shape} as its plan")
        views = self.view_set.members[:, self._columns[0]]
        for number, shard in self.view_set.shards.items():
            mine = views[shard.rows.start : shard.rows.stop]
            first = strided.offset - NPY_BYTES
            wanted = first + strided.stride * np.arange(len(shard.rows))
            fits = wanted[-1] + size <= shard.entry.file("views").bytes
            if not fits or (mine["offset"] != wanted).any() or (mine["size"] != size).any():
                raise FormatError(
                    f"index of {plan.view_set} does not place shard {number} as its plan does",
                    fix=self.view_set.finalise,
                )

    def _grid(self, number: int, strided: Strided) -> Buffer:
        """Return the raw views of a shard, uint8 [rows, V, H, W, C], not contiguous."""
        if number not in self._grids:
            data = np.frombuffer(self._map(number), np.uint8)[strided.offset :]
            views, height, width, channels = strided.shape
            line = width * channels
            self._grids[number] = np.lib.stride_tricks.as_strided(
                data,
                (len(self.view_set.shards[number].rows), views, height, width, channels),
                (strided.stride, height * line, line, channels, 1),
                writeable=False,
            )
        return self._grids[number]

    def _map(self, number: int) -> mmap.mmap:
        with self._lock:
            if number not in self._maps:
                self._make_room()
                descriptor = self.view_set.shards[number].open()
                try:
                    self._maps[number] = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
                finally:
                    os.close(descriptor)
            return self._maps[number]

    def _make_room(self) -> None:
        """Let go of the map that is here longest, if an evicted shard's bytes wait for it."""
        if len(self._maps) >= self.view_set.most_open:
            oldest = next(iter(self._maps))
            del self._maps[oldest]
            self._grids.pop(oldest, None)

    def _corrupt(self, number: int, row: int, member: int, what: str) -> FormatError:
        name = self.view_set.plan.members[self._columns[member]]
        return FormatError(
            f"{name} of row {row} of {self.view_set.name}, shard {number}, {what}",
            code="VS203",
            where=self.view_set.shards[number].where,
            why="the file was changed after it was written",
            fix=self.view_set.repair(number),
        )
