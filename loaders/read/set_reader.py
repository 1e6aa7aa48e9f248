"""Reads one view set from where it lies: a copy in memory, local shards, ranges of remote ones."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from viewstore.files.crc_checks import Verify
from viewstore.loaders.pipeline.buffers import Buffer
from viewstore.loaders.pipeline.clock import Clock
from viewstore.loaders.plan.rows import Rows
from viewstore.loaders.read.encoded import EncodedViews
from viewstore.loaders.read.mirror import mirror_some
from viewstore.loaders.read.one_set import SetReader
from viewstore.loaders.read.ranged import RangedViews
from viewstore.loaders.read.raw import RawViews
from viewstore.loaders.read.shards import OpenShards
from viewstore.loaders.read.stored import Damage, Flips, StoredViews, ViewRequest, by_shard
from viewstore.store.view_set import ViewSet


class ViewSetReader(SetReader):
    """Reads stored views of one view set into buffers. Safe to call from several threads.

    Attributes:
        verify: When CRCs are checked.
        mapped: Whether shards are mapped.
    """

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
        super().__init__(view_set, clock)
        self.verify = verify
        self.mapped = mapped
        self.strided = view_set.index.strided
        view_set.check_cache()
        self._shards = OpenShards(view_set, mapped=mapped)
        self._views: StoredViews
        if self.strided is None:
            self._views = EncodedViews(view_set, self._shards, verify=verify)
        else:
            self._views = RawViews(view_set, self._shards, self.strided, verify=verify)
        self._ranged = RangedViews(self._views, self._shards) if view_set.remote else None

    def read(
        self,
        rows: Rows,
        views: Rows,
        out: Sequence[Buffer],
        flips: Flips | None = None,
        damaged: Damage | None = None,
    ) -> None:
        """Fill the buffers of some slots with views, as `SetReader.read` says.

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
        request = ViewRequest(rows=rows, views=views, out=out, flips=flips, damaged=found)
        from_shards, by_ranges = self._split(rows, out)
        for indices in from_shards:
            self._views.read(request, indices)
        if self._ranged is not None and by_ranges:
            self._ranged.read(request, np.concatenate(by_ranges))
        if found and damaged is None:
            raise found[min(found)]
        if found and damaged is not None:
            _blacken(out, np.array(list(found)))
            damaged.update(found)
        for buffer, flip in zip(out, flips, strict=True):
            if flip is not None and self.strided is not None:
                mirror_some(buffer, flip)
        seconds = time.perf_counter() - began - request.fetch_seconds
        work = "decode_seconds" if self.strided is None else "copy_seconds"
        self.clock.add(fetch_seconds=request.fetch_seconds, **{work: seconds})

    def announce(self, rows: Rows, views: Rows) -> None:
        """Have the operating system load what `read` will touch; same `rows` and `views`."""
        self._views.announce(rows, views)

    def divide_cache(self, view_sets: int, *, ranged: frozenset[int]) -> None:
        """Use the share of the cache that one of so many remote view sets has.

        Shards in `ranged` are not downloaded: their members are read by byte ranges.
        """
        assert self._ranged is not None
        self._shards.divide_cache(view_sets)
        self._ranged.shards = ranged

    @property
    def is_local(self) -> bool:
        """Whether every shard is on this machine now."""
        return all(self.view_set.at_hand(number) for number in self.view_set.shards)

    @property
    def reads_ranges(self) -> bool:  # type: ignore[override]
        """Whether views may be read by ranges of remote shards, each request with its latency."""
        cache = self.view_set.files.cache
        if self._ranged is None or cache is None:
            return False
        return bool(self._ranged.shards) or not cache.keeps

    @property
    def needs_shards(self) -> bool:  # type: ignore[override]
        """Whether it will read whole shards of a remote view set that are not open yet."""
        if self._ranged is None or (self.resident is not None and self.resident.ready):
            return False
        return len(self._shards) + len(self._ranged.shards) < len(self.view_set.shards)

    def prefetch(self, shards: Sequence[int]) -> None:
        """Start to download shards, in this order, but for those that are open or ranged."""
        assert self._ranged is not None
        ranged = self._ranged.shards
        self.view_set.prefetch([k for k in shards if k not in self._shards and k not in ranged])

    @property
    def raw(self) -> RawViews:
        """The raw views, of a view set that has such."""
        assert isinstance(self._views, RawViews)
        return self._views

    def close(self) -> None:
        """Close what is open; maps end when the last array on them does."""
        if self.resident is not None:
            self.resident.close()
        self.resident = None
        self._shards.clear()
        if self._ranged is not None:
            self._ranged.close()

    def _split(self, rows: Rows, out: Sequence[Buffer]) -> tuple[list[Rows], list[Rows]]:
        """Return indices into `rows` to read from shards, and by ranges; absent ones become black.

        Mapped local shards are read in one go, by row. Of remote ones, and of those that take a
        descriptor each, no more is held open than the one that is read.
        """
        if self._ranged is None and self.mapped and self.view_set.complete:
            return [np.argsort(rows, kind="stable")], []
        from_shards: list[Rows] = []
        by_ranges: list[Rows] = []
        for number, indices in by_shard(self.view_set, rows):
            if number not in self.view_set.shards:
                _blacken(out, indices)
            elif self._ranged is not None and self._ranged.reads(number):
                by_ranges.append(indices)
            else:
                from_shards.append(indices)
        return from_shards, by_ranges


def _blacken(out: Sequence[Buffer], indices: Rows) -> None:
    for buffer in out:
        buffer[indices] = 0
