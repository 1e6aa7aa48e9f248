"""Reads views of a view set from where they are: memory, shards here, ranges of remote shards."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.files.crc_checks import Verify
from viewstore.format.columns import MADE
from viewstore.loaders.pipeline.buffers import Buffer
from viewstore.loaders.pipeline.clock import Clock
from viewstore.loaders.plan.mixed import SET_COLUMN, MixedViews
from viewstore.loaders.plan.rows import Rows
from viewstore.loaders.plan.schedule import (
    Missing,
    Pick,
    preference,
    replace_missing,
)
from viewstore.loaders.read.encoded import EncodedViews
from viewstore.loaders.read.mirror import mirror_some
from viewstore.loaders.read.ranged import RangedViews
from viewstore.loaders.read.raw import RawCopy, RawViews
from viewstore.loaders.read.shards import OpenShards
from viewstore.loaders.read.stored import Asked, Damage, Flips, StoredViews, by_shard
from viewstore.store.view_set import ViewSet


class CachedReader:
    """Reads views of one view set into buffers. Safe to call from several threads."""

    def __init__(
        self,
        view_set: ViewSet,
        *,
        verify: Verify = "first",
        mapped: bool = True,
        clock: Clock | None = None,
    ) -> None:
        """Prepare to read `view_set`.

        Args:
            view_set: Where the views lie.
            verify: Check a member's CRC at its "first" touch, "always", or "off".
            mapped: Map the shards; else each view is read by a call, which is faster where the
                set is larger than the memory.
            clock: Takes the seconds of reading.
        """
        self.view_set = view_set
        self.verify = verify
        self.mapped = mapped
        self.clock = clock or Clock()
        self.resident: RawCopy | None = None
        self.shape = (view_set.height, view_set.width, view_set.channels)
        self.strided = view_set.index.strided
        view_set.check_cache()
        self._open = OpenShards(view_set, mapped=mapped)
        self._views: StoredViews
        if self.strided is None:
            self._views = EncodedViews(view_set, self._open, verify=verify)
        else:
            self._views = RawViews(view_set, self._open, self.strided, verify=verify)
        self._ranged = RangedViews(self._views, self._open) if view_set.remote else None

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
        began = time.perf_counter()
        if self.resident is not None and self.resident.ready:
            self.resident.gather(rows, views, out, flips)
            self.clock.add(copy_seconds=time.perf_counter() - began)
            return
        found: Damage = {}
        asked = Asked(rows=rows, views=views, out=out, flips=flips, damaged=found)
        here, ranged = self._parted(rows, out)
        for places in here:
            self._views.read(asked, places)
        if self._ranged is not None and ranged:
            self._ranged.read(asked, np.concatenate(ranged))
        if found and damaged is None:
            raise found[min(found)]
        if found and damaged is not None:
            _blacken(out, np.array(list(found)))
            damaged.update(found)
        for buffer, flip in zip(out, flips, strict=True):
            if flip is not None and self.strided is not None:
                mirror_some(buffer, flip)
        done = time.perf_counter() - began - asked.fetch_seconds
        work = "decode_seconds" if self.strided is None else "copy_seconds"
        self.clock.add(fetch_seconds=asked.fetch_seconds, **{work: done})

    def announce(self, rows: Rows, views: Rows) -> None:
        """Have the system fetch what `read` will touch. Takes what `read` takes."""
        self._views.announce(rows, views)

    def share_cache(self, view_sets: int, *, ranged: frozenset[int]) -> None:
        """Keep no more open than one of so many remote view sets may, and no shard of `ranged`:
        their members are read by ranges.
        """
        assert self._ranged is not None
        self._open.share_cache(view_sets)
        self._ranged.shards = ranged

    @property
    def at_hand(self) -> bool:
        """Whether every shard is on this machine now."""
        return all(self.view_set.at_hand(number) for number in self.view_set.shards)

    @property
    def by_ranges(self) -> bool:
        """Whether views may come by ranges of remote shards, each at a latency of its own."""
        cache = self.view_set.files.cache
        if self._ranged is None or cache is None:
            return False
        return bool(self._ranged.shards) or not cache.keeps

    @property
    def awaits(self) -> bool:
        """Whether it reads shards of a remote view set that it has not opened yet."""
        if self._ranged is None or (self.resident is not None and self.resident.ready):
            return False
        return len(self._open) + len(self._ranged.shards) < len(self.view_set.shards)

    def prefetch(self, shards: Sequence[int]) -> None:
        """Have remote shards fetched, in this order, but for those that are open or ranged."""
        assert self._ranged is not None
        ranged = self._ranged.shards
        self.view_set.prefetch([k for k in shards if k not in self._open and k not in ranged])

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
        return min(MADE) <= found.min and found.max <= max(MADE)

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
        """Return raw views of rows of one shard, as RawViews.stored."""
        assert isinstance(self._views, RawViews)
        return self._views.stored(rows)

    def close(self) -> None:
        """Forget what is open; maps end when the last array on them does."""
        if self.resident is not None:
            self.resident.close()
        self.resident = None
        self._open.clear()
        if self._ranged is not None:
            self._ranged.close()

    def _parted(self, rows: Rows, out: Sequence[Buffer]) -> tuple[list[Rows], list[Rows]]:
        """Return places to read from shards, and by ranges; those of absent shards become black.

        Shards that are here are read in one go, by row; of those that have to come, or that take a
        descriptor each, no more is held open than the one that is read.
        """
        if self._ranged is None and self.mapped and self.view_set.complete:
            return [np.argsort(rows, kind="stable")], []
        here: list[Rows] = []
        ranged: list[Rows] = []
        for number, places in by_shard(self.view_set, rows):
            if number not in self.view_set.shards:
                _blacken(out, places)
            elif self._ranged is not None and self._ranged.takes(number):
                ranged.append(places)
            else:
                here.append(places)
        return here, ranged


def _blacken(out: Sequence[Buffer], places: Rows) -> None:
    for buffer in out:
        buffer[places] = 0


class MixedReader:
    """Reads mixed view sets as CachedReader reads one."""

    strided = None  # what is gathered row by row from one array, these are not

    def __init__(self, views: MixedViews, readers: Sequence[CachedReader]) -> None:
        """Read each set with its reader."""
        self.view_set = views
        self.readers = list(readers)
        self.shape = self.readers[0].shape
        self.clock = self.readers[0].clock

    def read(
        self,
        rows: Rows,
        views: Rows,
        out: Sequence[Buffer],
        flips: Sequence[NDArray[np.bool_] | None] | None = None,
        damaged: Damage | None = None,
    ) -> None:
        """Fill the buffers of some slots, as CachedReader.read."""
        copy_seconds = 0.0
        mirrored = np.zeros(views.shape, np.bool_)
        for slot, flip in enumerate(flips or ()):
            if flip is not None:
                mirrored[:, slot] = flip
        for number, places, slots, local in self.by_set(views):
            reader = self.readers[number]
            pixels = np.empty((len(places), *reader.shape), np.uint8)
            found: Damage | None = None if damaged is None else {}
            flip = mirrored[places, slots] if flips else None
            reader.read(rows[places], local, [pixels], [flip], found)
            began = time.perf_counter()
            for slot, buffer in enumerate(out):
                here = slots == slot
                buffer[places[here]] = pixels[here]
            copy_seconds += time.perf_counter() - began
            if damaged is not None and found:
                damaged.update({int(places[place]): error for place, error in found.items()})
        self.clock.add(copy_seconds=copy_seconds)

    def announce(self, rows: Rows, views: Rows) -> None:
        """Have the system fetch what `read` will touch."""
        for number, places, _, local in self.by_set(views):
            self.readers[number].announce(rows[places], local)

    def params(self, name: str, rows: Rows, views: Rows) -> NDArray[Any]:
        """Return a column for each row and slot, [B, n, ...]; what a set has not is its fill."""
        if name == SET_COLUMN:
            return self.numbers(views).astype(np.uint8)
        form = self.view_set.form(name)
        values = form.empty(views.size).reshape(*views.shape, *form.shape)
        for number, places, slots, local in self.by_set(views):
            reader = self.readers[number]
            if name in reader.view_set.params:
                found = reader.params(name, rows[places], local)
                values[places, slots] = found[:, 0] if reader.per_view(name) else found
        return values

    def in_memory(self, name: str) -> bool:
        """Whether a column is small enough to be read whole, in every set that has it."""
        having = (each for each in self.readers if name in each.view_set.params)
        return all(each.in_memory(name) for each in having)

    def per_view(self, name: str) -> bool:
        """Return True: the rows of a batch are of several sets, so no column is per sample."""
        return True

    def constant(self, name: str, value: int) -> bool:
        """Whether a small column of integers has one value everywhere, or is not there."""
        return all(each.constant(name, value) for each in self.readers)

    @property
    def all_usable(self) -> bool:
        """Whether every view was made, so that none has to be replaced."""
        return all(each.all_usable for each in self.readers)

    def numbers(self, views: Rows) -> Rows:
        """Return the number of the set that each view belongs to."""
        return np.asarray(np.searchsorted(self.view_set.starts, views, side="right") - 1)

    def by_set(self, views: Rows) -> list[tuple[int, Rows, Rows, Rows]]:
        """Return for each set its number, and the places, slots and views of it, [k, 1]."""
        numbers = self.numbers(views)
        found = []
        for number in range(len(self.readers)):
            places, slots = np.nonzero(numbers == number)
            local = views[places, slots] - self.view_set.starts[number]
            found.append((number, places, slots, local[:, None]))
        return found

    def close(self) -> None:
        """Forget the maps."""
        for reader in self.readers:
            reader.close()


AnyReader = CachedReader | MixedReader


def reader_of(view_set: ViewSet | MixedViews, make: Callable[[ViewSet], CachedReader]) -> AnyReader:
    """Return what reads a view set, or several as one, each with the reader that `make` gives."""
    if isinstance(view_set, MixedViews):
        return MixedReader(view_set, [make(each) for each in view_set.view_sets])
    return make(view_set)


def parts_of(reader: AnyReader) -> list[CachedReader]:
    """Return the readers of single view sets."""
    return reader.readers if isinstance(reader, MixedReader) else [reader]


def shown_views(
    reader: AnyReader,
    rows: Rows,
    *,
    seed: int,
    epoch: int,
    slots: Sequence[int],
    pick: Pick,
    missing: Missing,
) -> Rows:
    """Return the view that each row shows in each slot, [B, n].

    Raises:
        FormatError: A view that would be shown was not made, and `missing` is "raise", or no
            view of its sample was.
    """

    def of(one: CachedReader, asked: NDArray[np.bool_] | None) -> Rows:
        cached = one.view_set.num_views
        order = preference(seed, epoch, rows, cached=cached, wanted=len(slots), pick=pick)
        every = np.broadcast_to(np.arange(cached), (len(rows), cached))
        return replace_missing(
            order[:, : len(slots)],
            order,
            one.params("status", rows, every),
            rows,
            name=one.view_set.name,
            missing=missing,
            asked=asked,
        )

    if isinstance(reader, CachedReader):
        return of(reader, None)
    chosen = reader.view_set.chosen(seed, epoch, rows, slots)
    shown = np.empty(chosen.shape, np.int64)
    for number, (one, start) in enumerate(
        zip(reader.readers, reader.view_set.starts.tolist(), strict=True)
    ):
        asked = chosen == number
        shown[asked] = start + of(one, asked)[asked]
    return shown


def by_set(
    reader: AnyReader,
    views: Rows,
    values: Callable[[CachedReader, Rows, Rows], NDArray[Any]],
) -> NDArray[Any]:
    """Return values [B, ...] of views [B], of `values`(reader, places, views) for each set."""
    if isinstance(reader, CachedReader):
        return values(reader, np.arange(len(views)), views)
    parts = [
        (places, values(reader.readers[number], places, local[:, 0]))
        for number, places, _, local in reader.by_set(views[:, None])
    ]
    found = np.empty((len(views), *parts[0][1].shape[1:]), parts[0][1].dtype)
    for places, mine in parts:
        found[places] = mine
    return found


def numbers_within(reader: AnyReader, views: Rows) -> Rows:
    """Return views as their own set numbers them."""
    if isinstance(reader, CachedReader):
        return views
    return views - reader.view_set.starts[reader.numbers(views)]
