"""Reads views of a view set from where they are: memory, shards here, ranges of remote shards."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.crc_checks import Verify
from viewstore.loaders.buffers import Buffer
from viewstore.loaders.choose import USABLE
from viewstore.loaders.clock import Clock
from viewstore.loaders.encoded import EncodedViews
from viewstore.loaders.opened import OpenShards
from viewstore.loaders.ranged import RangedViews
from viewstore.loaders.raw import RawViews
from viewstore.loaders.resident import Resident, mirror_some
from viewstore.loaders.shared_copy import SharedResident
from viewstore.loaders.stored import Asked, Damage, Flips, Rows, StoredViews, by_shard
from viewstore.view_set import ViewSet


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
        self.resident: Resident | SharedResident | None = None
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
        if self._ranged is None:
            return False
        return bool(self._ranged.shards) or not self.view_set.files.keeps

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
