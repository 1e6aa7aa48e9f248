"""Reads members of remote shards by byte ranges, where a whole shard is not worth a download."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import FormatError
from viewstore.loaders.plan.order import Order
from viewstore.loaders.plan.rows import Rows
from viewstore.loaders.read.shards import OpenShards
from viewstore.loaders.read.stored import StoredViews, ViewRequest
from viewstore.store.view_set import ViewSet

GAP_BYTES = 1 << 20  # to fetch so much in vain costs less than another request
READ_BYTES = 16 << 20
LEAST_USED_SHARE = 0.25  # of a shard, for its download to be worth it
REQUESTS = 8  # at one time

Member = tuple[int, int]  # row, number of the member in the plan


@dataclass(frozen=True)
class Span:
    """Where a member lies in its shard, and its checksum."""

    member: Member
    start: int
    size: int
    crc32: int

    @property
    def stop(self) -> int:
        return self.start + self.size


def join_spans(spans: Iterable[Span]) -> list[list[Span]]:
    """Return spans in groups to read at once: gaps of at most 1 MiB, at most 16 MiB together."""
    groups: list[list[Span]] = []
    for span in sorted(spans, key=lambda span: span.start):
        near = groups and span.start - groups[-1][-1].stop <= GAP_BYTES
        if near and span.stop - groups[-1][0].start <= READ_BYTES:
            groups[-1].append(span)
        else:
            groups.append([span])
    return groups


def ranged_shards(
    view_set: ViewSet,
    order: Order,
    selected: NDArray[np.int64] | None,
    *,
    slots: float,
    world_size: int,
    rate: float = 1.0,
    remote_sets: int = 1,
) -> frozenset[int]:
    """Return the numbers of the shards to read by ranges: those not worth their download, or all.

    A shard is downloaded whole if this machine uses a quarter of it each epoch, and if the shards
    that are in use together fit the cache.

    Args:
        view_set: The view set; a local one has no such shards.
        order: The order of the epochs.
        selected: The rows of a filter, or None.
        slots: Views of a sample that are shown, on average.
        world_size: Ranks of the job; each uses its share of every shard.
        rate: Share of the rows that an epoch goes through.
        remote_sets: View sets that are read through the cache together.
    """
    cache = view_set.files.cache
    if cache is None:
        return frozenset()
    raw = view_set.index.strided is not None  # its views are one member
    share = min(1.0, slots if raw else slots / view_set.num_views)
    share *= min(1.0, rate) * min(1.0, cache.ranks / world_size)
    used = np.full(view_set.plan.shards, share)
    if selected is not None:
        rows = np.bincount(selected // view_set.plan.shard_rows, minlength=view_set.plan.shards)
        sizes = [len(view_set.plan.shard_range(number)) for number in range(len(rows))]
        used *= rows / np.array(sizes)
    numbers = [number for number in view_set.shards if used[number] > 0]
    whole = [number for number in numbers if used[number] >= LEAST_USED_SHARE]
    sizes_in_use = [view_set.shards[number].blob.bytes for number in whole]
    if order.shards_at_once is not None:
        sizes_in_use = sorted(sizes_in_use)[-order.shards_at_once :]
    if sum(sizes_in_use) > cache.limit_bytes // remote_sets:
        whole = []
    return frozenset(view_set.shards) - frozenset(whole)


@dataclass
class Fetched:
    """Members that were fetched: their payloads, and the first error of each damaged row."""

    payloads: dict[Member, memoryview] = field(default_factory=dict)
    damaged: dict[int, FormatError] = field(default_factory=dict)

    def add(self, other: Fetched) -> None:
        """Add what was fetched of other members."""
        self.payloads |= other.payloads
        self.damaged = other.damaged | self.damaged


class RangeReader:
    """Fetches members of a remote view set by ranges, and checks each against its CRC."""

    def __init__(self, view_set: ViewSet) -> None:
        assert view_set.files.cache is not None, "views of this machine are read without ranges"
        self._view_set = view_set
        self._cache = view_set.files.cache
        self._pool = ThreadPoolExecutor(REQUESTS, thread_name_prefix="viewstore-range")

    def read(self, rows: NDArray[np.int64], members: NDArray[np.int64]) -> Fetched:
        """Fetch members, [B, n] numbers for [B] rows.

        A row is damaged if a member of it differs from its CRC however often it is fetched.

        Raises:
            RemoteError: The remote store did not deliver them.
        """
        by_shard: dict[int, dict[Member, Span]] = {}
        for row, numbers in zip(rows.tolist(), members.tolist(), strict=True):
            spans = by_shard.setdefault(row // self._view_set.plan.shard_rows, {})
            for number in numbers:
                entry = self._view_set.members[row, number]
                spans[row, number] = Span((row, number), *map(int, entry.item()))
        jobs = [
            (shard, group)
            for shard, spans in by_shard.items()
            for group in join_spans(spans.values())
        ]
        fetched = Fetched()
        for found in self._pool.map(lambda job: self._fetch(*job), jobs):
            fetched.add(found)
        return fetched

    def close(self) -> None:
        """Drop what is under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _fetch(self, shard: int, spans: Sequence[Span]) -> Fetched:
        try:
            return Fetched(self._payloads(shard, spans))
        except FormatError as error:
            if len(spans) == 1:
                return Fetched(damaged={spans[0].member[0]: error})
        fetched = Fetched()
        for span in spans:  # one damaged member must not spoil the others
            fetched.add(self._fetch(shard, [span]))
        return fetched

    def _payloads(self, shard: int, spans: Sequence[Span]) -> dict[Member, memoryview]:
        file = self._view_set.shards[shard]
        start, stop = spans[0].start, max(span.stop for span in spans)

        def check(raw: bytes) -> dict[Member, memoryview]:
            view = memoryview(raw)
            found = {s.member: view[s.start - start : s.stop - start] for s in spans}
            for span in spans:
                crc32 = zlib.crc32(found[span.member])
                if crc32 != span.crc32:
                    row, number = span.member
                    raise FormatError(
                        f"{self._view_set.plan.members[number]} of row {row} of "
                        f"{self._view_set.name}, shard {shard}, does not match its CRC-32: "
                        f"expected {span.crc32:08x}, got {crc32:08x}",
                        code="VS203",
                        fix=self._view_set.repair(shard),
                    )
            return found

        return self._cache.part(file.path, start, stop, check)


class RangedViews:
    """Fills buffers with views whose members are fetched by ranges.

    Attributes:
        shards: Numbers of the shards to read by ranges, unless they are on this machine already.
    """

    def __init__(self, views: StoredViews, open_shards: OpenShards) -> None:
        """Have `views` unpack what was fetched of shards that are not in `open_shards`."""
        self.shards: frozenset[int] = frozenset()
        self._views = views
        self._open_shards = open_shards
        self._ranges = RangeReader(views.view_set)

    def reads(self, number: int) -> bool:
        """Whether a shard is read by ranges now: one that is on this machine is not."""
        if number in self._open_shards:
            return False
        view_set = self._views.view_set
        cache = view_set.files.cache
        wanted = number in self.shards or (cache is not None and not cache.keeps)
        return wanted and not view_set.at_hand(number)

    def read(self, request: ViewRequest, indices: Rows) -> None:
        """Fill some samples of the batch; their members are always checked."""
        numbers = self._views.member_numbers(request.views[indices])
        began = time.perf_counter()
        fetched = self._ranges.read(request.rows[indices], numbers)
        request.fetch_seconds += time.perf_counter() - began
        for index, members in zip(indices.tolist(), numbers.tolist(), strict=True):
            row = int(request.rows[index])
            if row in fetched.damaged:
                request.damaged[index] = fetched.damaged[row]
                continue
            payloads = [fetched.payloads[row, member] for member in members]
            self._views.unpack(request, index, payloads)

    def close(self) -> None:
        """Drop what is under way."""
        self._ranges.close()
