"""Views of remote shards that are not worth a download: their members are read by ranges."""

from __future__ import annotations

import time

from viewstore.loaders.opened import OpenShards
from viewstore.loaders.ranges import RangeReader
from viewstore.loaders.stored import Asked, Rows, StoredViews


class RangedViews:
    """Fills buffers with views of some shards, whose members come by ranges.

    Attributes:
        shards: Read by ranges unless they are here already.
    """

    def __init__(self, views: StoredViews, opened: OpenShards) -> None:
        """Have `views` unpack what came of shards that are not `opened`."""
        self.shards: frozenset[int] = frozenset()
        self._views = views
        self._open = opened
        self._ranges = RangeReader(views.view_set)

    def takes(self, number: int) -> bool:
        """Whether a shard is better read by ranges now: one that is here already is not."""
        if number in self._open:
            return False
        view_set = self._views.view_set
        wanted = number in self.shards or not view_set.files.keeps
        return wanted and not view_set.at_hand(number)

    def read(self, asked: Asked, places: Rows) -> None:
        """Fill some places of the batch; their members are always checked."""
        numbers = self._views.member_numbers(asked.views[places])
        began = time.perf_counter()
        found = self._ranges.read(asked.rows[places], numbers)
        asked.fetch_seconds += time.perf_counter() - began
        for place, members in zip(places.tolist(), numbers.tolist(), strict=True):
            row = int(asked.rows[place])
            if row in found.damaged:
                asked.damaged[place] = found.damaged[row]
                continue
            payloads = [found.payloads[row, member] for member in members]
            self._views.unpack(asked, place, payloads)

    def close(self) -> None:
        """Drop what is under way."""
        self._ranges.close()
