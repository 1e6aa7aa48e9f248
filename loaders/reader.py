"""Checked reads of cached views: gathers from mapped shards, each member's CRC seen once."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, FormatError
from viewstore.loaders.buffers import Buffer
from viewstore.loaders.choose import USABLE
from viewstore.loaders.opened import OpenShards, ShardFile
from viewstore.loaders.ranges import RangeReader
from viewstore.loaders.resident import LARGE_VIEW_BYTES, Resident, mirror_some
from viewstore.loaders.shared_copy import SharedResident
from viewstore.tar import NPY_BYTES, Strided, pack_npy_header, strided_layout
from viewstore.view_set import ViewSet

Verify = Literal["first", "always", "off"]
Rows = NDArray[np.int64]
Damage = dict[int, FormatError]  # by place in the batch
Flips = Sequence[NDArray[np.bool_] | None]  # for each slot which views to mirror, [B]


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
        self.resident: Resident | SharedResident | None = None
        self.shape = (view_set.height, view_set.width, view_set.channels)
        members = view_set.plan.members
        self._columns = np.array(
            [i for i, name in enumerate(members) if name not in ("json", "cls")]
        )
        self.strided = view_set.index.strided
        count = len(view_set) * len(self._columns)
        self._seen = np.zeros(-(-count // 8) if verify == "first" else 0, np.uint8)  # bits
        view_set.check_cache()
        self._open = OpenShards(view_set, mapped=mapped)
        self._ranged: frozenset[int] = frozenset()
        self._ranges = RangeReader(view_set) if view_set.remote else None
        if self.strided is not None:
            self._check_layout(self.strided)

    def read(
        self,
        rows: Rows,
        views: Rows,
        out: Sequence[Buffer],
        flips: Flips | None = None,
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
        if not len(rows):
            return
        flips = flips or [None] * len(out)
        if self.resident is not None and self.resident.ready:
            self.resident.gather(rows, views, out, flips)
            return
        found: Damage = {}
        ranged: list[Rows] = []
        for number, places in self._by_shard(rows):
            if number not in self.view_set.shards:
                _blacken(out, places)
            elif self._takes_ranges(number):
                ranged.append(places)
            elif self.strided is not None:
                self._gather(self.strided, number, rows, views, places, out, found)
            else:
                self._decode(number, rows, views, places, out, flips, found)
        if ranged:
            self._read_ranges(rows, views, np.concatenate(ranged), out, flips, found)
        if found and damaged is None:
            raise found[min(found)]
        if found and damaged is not None:
            _blacken(out, np.array(list(found)))
            damaged.update(found)
        for buffer, flip in zip(out, flips, strict=True):
            if flip is not None and self.strided is not None:
                mirror_some(buffer, flip)

    def announce(self, rows: Rows, views: Rows) -> None:
        """Have the system fetch what `read` will touch. Takes what `read` takes."""
        members = self._members(rows, views)
        for row, places in zip(rows.tolist(), members, strict=True):
            file = self._open.find(row // self.view_set.plan.shard_rows)
            if file is not None:
                for place in places:
                    file.announce(int(place["offset"]), int(place["size"]))

    def share_cache(self, view_sets: int, *, ranged: frozenset[int]) -> None:
        """Keep no more open than one of so many remote view sets may, and no shard of `ranged`:
        their members are read by ranges.
        """
        self._open.share_cache(view_sets)
        self._ranged = ranged

    @property
    def at_hand(self) -> bool:
        """Whether every shard is on this machine now."""
        return all(self.view_set.at_hand(number) for number in self.view_set.shards)

    @property
    def awaits(self) -> bool:
        """Whether it reads shards of a remote view set that it has not opened yet."""
        if not self.view_set.remote or (self.resident is not None and self.resident.ready):
            return False
        return len(self._open) + len(self._ranged) < len(self.view_set.shards)

    def prefetch(self, shards: Sequence[int]) -> None:
        """Have remote shards fetched, in this order, but for those that are open or ranged."""
        wanted = (k for k in shards if k not in self._open and k not in self._ranged)
        self.view_set.prefetch(list(wanted))

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
        file = self._open.open(number)
        numbers = np.arange(rows.start, rows.stop)
        found = self._check(number, file, numbers, np.zeros((len(rows), 1), np.int64))
        if found:
            raise found[min(found)]
        first = self.shard_of(rows.start).start
        return file.grid(self.strided)[rows.start - first : rows.stop - first]

    def close(self) -> None:
        """Forget what is open; maps end when the last array on them does."""
        if self.resident is not None:
            self.resident.close()
        self.resident = None
        self._open.clear()
        if self._ranges is not None:
            self._ranges.close()

    def _by_shard(self, rows: Rows) -> Iterator[tuple[int, Rows]]:
        """Yield each shard with the places of its rows, by row."""
        shard_rows = self.view_set.plan.shard_rows
        order = np.argsort(rows, kind="stable")
        bounds = np.flatnonzero(np.diff(rows[order] // shard_rows)) + 1
        for places in np.split(order, bounds):
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
        file = self._opened(number, mine, np.zeros((len(mine), 1), np.int64), places, damaged)
        if file is None:
            return
        local = mine - self.shard_of(int(mine[0])).start
        if not file.mapped:
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
        flips: Flips,
        damaged: Damage,
    ) -> None:
        mine = rows[places]
        file = self._opened(number, mine, views[places], places, damaged)
        if file is None:
            return
        members = self._members(mine, views[places])
        begins, sizes = members["offset"].tolist(), members["size"].tolist()
        for i, place in enumerate(places.tolist()):
            if place not in damaged:
                payloads = map(file.payload, begins[i], sizes[i])
                self._decode_row(int(mine[i]), views, place, payloads, out, flips, damaged)

    def _decode_row(
        self,
        row: int,
        views: Rows,
        place: int,
        payloads: Iterable[memoryview | bytes],
        out: Sequence[Buffer],
        flips: Flips,
        damaged: Damage,
    ) -> None:
        """Decode the views of one place in the batch, each of a payload of its own."""
        decode = self.view_set.codec.decode
        for slot, (buffer, flip, payload) in enumerate(zip(out, flips, payloads, strict=True)):
            target = buffer[place]
            try:
                pixels = decode(payload, into=target)
                if pixels.shape == self.shape:
                    if flip is not None and flip[place]:  # while the view is still in the cache
                        cv2.flip(target, 1, dst=target)
                    continue
                what = f"has the size {pixels.shape}"
            except (FormatError, ConfigError) as error:
                what = str(error)
            number, view = row // self.view_set.plan.shard_rows, int(views[place, slot])
            damaged[place] = self._corrupt(number, row, view, what)
            return

    def _takes_ranges(self, number: int) -> bool:
        """Whether a shard is better read by ranges now: one that is here already is not."""
        if self._ranges is None or number in self._open:
            return False
        wanted = number in self._ranged or not self.view_set.files.keeps
        return wanted and not self.view_set.at_hand(number)

    def _read_ranges(
        self,
        rows: Rows,
        views: Rows,
        places: Rows,
        out: Sequence[Buffer],
        flips: Flips,
        damaged: Damage,
    ) -> None:
        """Read places of the batch by ranges; they are always checked."""
        assert self._ranges is not None
        numbers = self._columns[views[places] * (len(self._columns) > 1)]
        found = self._ranges.read(rows[places], numbers)
        for place, members in zip(places.tolist(), numbers.tolist(), strict=True):
            row = int(rows[place])
            if row in found.damaged:
                damaged[place] = found.damaged[row]
                continue
            payloads = [found.payloads[row, member] for member in members]
            if self.strided is None:
                self._decode_row(row, views, place, payloads, out, flips, damaged)
                continue
            pixels = np.frombuffer(payloads[0][NPY_BYTES:], np.uint8).reshape(self.strided.shape)
            for buffer, view in zip(out, views[place].tolist(), strict=True):
                buffer[place] = pixels[view]

    def _members(self, rows: Rows, views: Rows) -> NDArray[Any]:
        """Return the places of the views' members, MEMBER_DTYPE [B, n]; raw views share one."""
        columns = self._columns[views * (len(self._columns) > 1)]
        return np.asarray(self.view_set.members[rows[:, None], columns])

    def _opened(
        self, number: int, rows: Rows, members: Rows, places: Rows, damaged: Damage
    ) -> ShardFile | None:
        """Open a shard and check the members of `rows`; None if it cannot be opened."""
        try:
            file = self._open.open(number)
        except FormatError as error:
            damaged |= dict.fromkeys(places.tolist(), error)
            return None
        found = self._check(number, file, rows, members)
        damaged |= {int(places[place]): error for place, error in found.items()}
        return file

    def _check(self, number: int, file: ShardFile, rows: Rows, members: Rows) -> Damage:
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
                    fix=self.view_set.finalise,
                )

    def _corrupt(self, number: int, row: int, member: int, what: str) -> FormatError:
        name = self.view_set.plan.members[self._columns[member]]
        return FormatError(
            f"{name} of row {row} of {self.view_set.name}, shard {number}, {what}",
            code="VS203",
            where=self.view_set.shards[number].where,
            why="the file was changed after it was written",
            fix=self.view_set.repair(number),
        )


def _blacken(out: Sequence[Buffer], places: Rows) -> None:
    for buffer in out:
        buffer[places] = 0
