"""Checked reads of cached views: gathers from mapped shards, each member's CRC seen once."""

from __future__ import annotations

import math
import mmap
import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, FormatError
from viewstore.loaders.buffers import Buffer
from viewstore.loaders.choose import USABLE
from viewstore.loaders.resident import LARGE_VIEW_BYTES, Resident, mirror_some
from viewstore.store import ViewSet
from viewstore.tar import NPY_BYTES, Strided, pack_npy_header, strided_layout

Verify = Literal["first", "always", "off"]
Rows = NDArray[np.int64]
Damage = dict[int, FormatError]  # by place in the batch

# A process may have 65 530 maps, and some thousand open files.
MAPS_KEPT = 16_384
FILES_KEPT = 128


class CachedReader:
    """Reads views of one view set into buffers. Safe to call from several threads."""

    def __init__(self, view_set: ViewSet, *, verify: Verify = "first", mapped: bool = True) -> None:
        """Prepare to read `view_set`.

        Args:
            view_set: Where the views lie.
            verify: Check a member's CRC at its "first" touch, "always", or "off".
            mapped: Map the shards; else each view is read by a call, which is faster where the
                set is larger than the memory.
        """
        if verify not in ("first", "always", "off"):
            raise ConfigError(f"verify must be first, always or off, got {verify!r}")
        self.view_set = view_set
        self.verify = verify
        self.mapped = mapped
        self.resident: Resident | None = None
        self.shape = (view_set.height, view_set.width, view_set.channels)
        members = view_set.plan.members
        self._columns = np.array(
            [i for i, name in enumerate(members) if name not in ("json", "cls")]
        )
        self.strided = view_set.index.strided
        count = len(view_set) * len(self._columns)
        self._seen = np.zeros(-(-count // 8) if verify == "first" else 0, np.uint8)  # bits
        self._files: dict[int, _File] = {}
        self._opening: dict[int, threading.Lock] = {}
        self._lock = threading.Lock()
        if self.strided is not None:
            self._check_layout(self.strided)

    def read(
        self,
        rows: Rows,
        views: Rows,
        out: Sequence[Buffer],
        flips: Sequence[NDArray[np.bool_] | None] | None = None,
        damaged: Damage | None = None,
    ) -> None:
        """Fill the buffers of some slots.

        Args:
            rows: Rows, [B].
            views: View number for each row and slot, [B, n].
            out: For each slot uint8 [B, H, W, C]. Views of an absent shard become black.
            flips: For each slot which views to mirror, [B], or None.
            damaged: Where to put the errors of damaged rows, whose views become black. None
                raises the first one.

        Raises:
            FormatError: A shard is missing or of another length, a CRC does not match, or a
                view does not decode.
        """
        flips = flips or [None] * len(out)
        if self.resident is not None and self.resident.ready:
            self.resident.gather(rows, views, out, flips)
            return
        found: Damage = {}
        for number, places in self._by_shard(rows):
            if number not in self.view_set.shards:
                _blacken(out, places)
            elif self.strided is not None:
                self._gather(self.strided, number, rows, views, places, out, found)
            else:
                self._decode(number, rows, views, places, out, found)
        if found and damaged is None:
            raise found[min(found)]
        if found and damaged is not None:
            _blacken(out, np.array(list(found)))
            damaged.update(found)
        for buffer, flip in zip(out, flips, strict=True):
            if flip is not None:
                mirror_some(buffer, flip)

    def announce(self, rows: Rows, views: Rows) -> None:
        """Have the system fetch what `read` will touch. Takes what `read` takes."""
        members = self._members(rows, views)
        for row, places in zip(rows.tolist(), members, strict=True):
            file = self._files.get(row // self.view_set.plan.shard_rows)
            if file is not None and file.map is not None:
                for place in places:
                    file.announce(int(place["offset"]), int(place["size"]))

    def params(self, name: str, rows: Rows, views: Rows) -> NDArray[Any]:
        """Return a column for each row and slot, [B, n, ...]; [B, ...] if it is per sample."""
        params = self.view_set.params
        if self.in_memory(name) and self.per_view(name):
            return np.asarray(params[name][rows[:, None], views])
        found = params.take(name, rows)
        if self.per_view(name):
            return np.asarray(found[np.arange(len(rows))[:, None], views])
        return found

    def in_memory(self, name: str) -> bool:
        """Whether a column is small enough to be kept whole."""
        return name in self.view_set.params.small

    def per_view(self, name: str) -> bool:
        """Whether a column has an entry for each view, or one for the sample."""
        return self.view_set.plan.per_view(name)

    @property
    def all_usable(self) -> bool:
        """Whether every view was made, so that none has to be replaced."""
        found = self.view_set.stats.get("status")
        if found is None or found.fill or found.min is None or found.max is None:
            return False
        return min(USABLE) <= found.min and found.max <= max(USABLE)

    def constant(self, name: str, value: int) -> bool:
        """Whether a column of integers is known to have one value everywhere, or is not there."""
        if name not in self.view_set.params:
            return True
        found = self.view_set.stats.get(name)
        if found is None:
            return False
        if not found.count:
            return value == self.view_set.plan.column(name).fill
        return not found.fill and found.min == found.max == value

    def shard_of(self, row: int) -> range:
        """Return the rows of the shard that holds `row`."""
        return self.view_set.plan.shard_range(row // self.view_set.plan.shard_rows)

    def stored(self, rows: range) -> Buffer:
        """Return raw views of rows of one shard, uint8 [rows, V, H, W, C], checked, not copied.

        Raises:
            FormatError: The shard is missing or of another length, or a CRC does not match.
        """
        assert self.strided is not None
        number = rows.start // self.view_set.plan.shard_rows
        file = self._file(number)
        numbers = np.arange(rows.start, rows.stop)
        found = self._check(number, file, numbers, np.zeros((len(rows), 1), np.int64))
        if found:
            raise found[min(found)]
        first = self.shard_of(rows.start).start
        return file.grid(self.strided)[rows.start - first : rows.stop - first]

    def close(self) -> None:
        """Forget the maps; they end when the last array on them does."""
        self.resident = None
        self._files.clear()

    def _by_shard(self, rows: Rows) -> Iterator[tuple[int, Rows]]:
        """Yield each shard with the places of its rows, by row."""
        shard_rows = self.view_set.plan.shard_rows
        order = np.argsort(rows, kind="stable")
        bounds = np.flatnonzero(np.diff(rows[order] // shard_rows)) + 1
        for places in np.split(order, bounds) if len(rows) else []:
            yield int(rows[places[0]] // shard_rows), places

    def _gather(
        self,
        strided: Strided,
        number: int,
        rows: Rows,
        views: Rows,
        places: Rows,
        out: Sequence[Buffer],
        damaged: Damage,
    ) -> None:
        mine = rows[places]
        try:
            file = self._file(number)
        except FormatError as error:
            damaged |= dict.fromkeys(places.tolist(), error)
            return
        found = self._check(number, file, mine, np.zeros((len(mine), 1), np.int64))
        damaged |= {int(places[place]): error for place, error in found.items()}
        local = mine - self.shard_of(int(mine[0])).start
        if file.map is None:
            for slot, buffer in enumerate(out):
                starts = strided.offset + local * strided.stride
                starts = starts + views[places, slot] * math.prod(self.shape)
                for place, start in zip(places.tolist(), starts.tolist(), strict=True):
                    file.read_into(buffer[place], start)
            return
        grid = file.grid(strided)
        for slot, buffer in enumerate(out):
            shown = views[places, slot]
            if math.prod(self.shape) < LARGE_VIEW_BYTES:
                # Fancy indexing copies the rows; np.take would first copy the whole shard.
                buffer[places] = grid[local, shown]
                continue
            triples = zip(places.tolist(), local.tolist(), shown.tolist(), strict=True)
            for place, row, view in triples:
                buffer[place] = grid[row, view]

    def _decode(
        self,
        number: int,
        rows: Rows,
        views: Rows,
        places: Rows,
        out: Sequence[Buffer],
        damaged: Damage,
    ) -> None:
        mine = rows[places]
        try:
            file = self._file(number)
        except FormatError as error:
            damaged |= dict.fromkeys(places.tolist(), error)
            return
        found = self._check(number, file, mine, views[places])
        damaged |= {int(places[place]): error for place, error in found.items()}
        members = self._members(mine, views[places])
        begins, sizes = members["offset"].tolist(), members["size"].tolist()
        decode = self.view_set.codec.decode
        for i, place in enumerate(places.tolist()):
            if place in damaged:
                continue
            for slot, buffer in enumerate(out):
                target = buffer[place]
                try:
                    pixels = decode(file.payload(begins[i][slot], sizes[i][slot]), into=target)
                except (FormatError, ConfigError) as error:
                    view = int(views[place, slot])
                    damaged[place] = self._corrupt(number, int(mine[i]), view, str(error))
                    break
                if pixels.shape != self.shape:
                    view, what = int(views[place, slot]), f"has the size {pixels.shape}"
                    damaged[place] = self._corrupt(number, int(mine[i]), view, what)
                    break

    def _members(self, rows: Rows, views: Rows) -> NDArray[Any]:
        """Return the places of the views' members, MEMBER_DTYPE [B, n]; raw views share one."""
        columns = self._columns[views * (len(self._columns) > 1)]
        return np.asarray(self.view_set.members[rows[:, None], columns])

    def _check(self, number: int, file: _File, rows: Rows, members: Rows) -> Damage:
        """Compare the CRC of members, [B, n] numbers for [B] rows, unless they were seen.

        Return the first error of each row, by its place in `rows`.
        """
        if self.verify == "off":
            return {}
        unseen = np.ones(members.shape, np.bool_)
        if self.verify == "first":
            bits = rows[:, None] * len(self._columns) + members
            unseen = self._seen[bits >> 3] >> (bits & 7).astype(np.uint8) & 1 == 0
            if not unseen.any():
                return {}
        entries = self.view_set.members[rows[:, None], self._columns[members]]
        damaged: Damage = {}
        for place, slot in np.argwhere(unseen).tolist():
            row, member, entry = int(rows[place]), int(members[place, slot]), entries[place, slot]
            found = zlib.crc32(file.payload(int(entry["offset"]), int(entry["size"])))
            if found == entry["crc32"]:
                if self.verify == "first":
                    bit = row * len(self._columns) + member
                    # Of two threads that set bits of a byte one may be lost: it is checked again.
                    self._seen[bit >> 3] |= 1 << (bit & 7)
                continue
            expected = f"expected {int(entry['crc32']):08x}, got {found:08x}"
            what = f"does not match its CRC-32: {expected}"
            damaged.setdefault(place, self._corrupt(number, row, member, what))
        return damaged

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
                    fix=f"viewstore finalise {self.view_set.paths.root.parents[1]}",
                )

    def _file(self, number: int) -> _File:
        file = self._files.get(number)
        if file is not None:
            return file
        with self._lock:
            opening = self._opening.setdefault(number, threading.Lock())
        with opening:  # opening may fetch the shard; meanwhile others may be opened
            file = self._files.get(number)
            if file is None:
                shard = self.view_set.shards[number]
                file = _File(shard.open(), len(shard.rows), mapped=self.mapped)
                with self._lock:
                    while len(self._files) >= (MAPS_KEPT if self.mapped else FILES_KEPT):
                        del self._files[next(iter(self._files))]
                    self._files[number] = file
        return file

    def _corrupt(self, number: int, row: int, member: int, what: str) -> FormatError:
        name = self.view_set.plan.members[self._columns[member]]
        return FormatError(
            f"{name} of row {row} of {self.view_set.name}, shard {number}, {what}",
            code="VS203",
            where=str(self.view_set.shards[number].path),
            why="the file was changed after it was written",
            fix=f"viewstore verify {self.view_set.paths.root.parents[1]} --repair "
            f"--view-set {self.view_set.name} --only {number}",
        )


class _File:
    """An open shard, mapped or read by calls."""

    def __init__(self, descriptor: int, rows: int, *, mapped: bool) -> None:
        """Take over `descriptor`, the file of a shard of `rows` rows."""
        self._rows = rows
        self._descriptor: int | None = None
        self.map: mmap.mmap | None = None
        self._grid: Buffer | None = None
        if not mapped:
            self._descriptor = descriptor
            return
        try:
            self.map = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
        self._bytes = memoryview(self.map)

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def payload(self, begin: int, size: int) -> memoryview | bytes:
        """Return bytes of the file."""
        if self._descriptor is not None:
            return os.pread(self._descriptor, size, begin)
        return self._bytes[begin : begin + size]

    def read_into(self, target: Buffer, begin: int) -> None:
        """Fill an array with the bytes from `begin` on."""
        assert self._descriptor is not None
        if os.preadv(self._descriptor, [target.reshape(-1).data], begin) != target.size:
            raise FormatError("a shard became shorter while it was read", code="VS203")

    def announce(self, begin: int, size: int) -> None:
        """Have the system fetch some bytes."""
        first = begin - begin % mmap.PAGESIZE
        assert self.map is not None
        self.map.madvise(mmap.MADV_WILLNEED, first, begin + size - first)

    def grid(self, strided: Strided) -> Buffer:
        """Return the raw views of the shard, uint8 [rows, V, H, W, C], not contiguous."""
        if self._grid is None:
            assert self.map is not None
            data = np.frombuffer(self.map, np.uint8)[strided.offset :]
            views, height, width, channels = strided.shape
            line = width * channels
            self._grid = np.lib.stride_tricks.as_strided(
                data,
                (self._rows, views, height, width, channels),
                (strided.stride, height * line, line, channels, 1),
                writeable=False,
            )
        return self._grid


def _blacken(out: Sequence[Buffer], places: Rows) -> None:
    for buffer in out:
        buffer[places] = 0
