"""What reads one view set: the interface of its readers, and its params columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.format.tar import Strided
from viewstore.loaders.pipeline.buffers import Buffer
from viewstore.loaders.pipeline.clock import Clock
from viewstore.loaders.plan.rows import Rows
from viewstore.loaders.read.raw import RawCopy
from viewstore.loaders.read.stored import Damage, Flips
from viewstore.store.view_set import ViewSet


class SetReader(ABC):
    """Reads views and columns of one view set. Safe to call from several threads.

    Attributes:
        view_set: The view set.
        clock: Takes the seconds.
        shape: Height, width and channels of a view.
        strided: Where raw views lie in each shard; None for others.
        resident: A copy in memory, which is read once it is ready, or None.
        needs_shards: Whether it will read whole shards of a remote view set that are not open yet.
        reads_ranges: Whether views may be read by ranges of remote shards, each request with its
            latency.
    """

    strided: Strided | None = None
    resident: RawCopy | None = None
    needs_shards: bool = False
    reads_ranges: bool = False

    def __init__(self, view_set: ViewSet, clock: Clock | None) -> None:
        """Read `view_set`."""
        self.view_set = view_set
        self.clock = clock or Clock()
        self.shape = (view_set.height, view_set.width, view_set.channels)

    @abstractmethod
    def read(
        self,
        rows: Rows,
        views: Rows,
        out: Sequence[Buffer],
        flips: Flips | None = None,
        damaged: Damage | None = None,
    ) -> None:
        """Fill the buffers of some slots with views.

        Args:
            rows: Rows, [B].
            views: View number for each row and slot, [B, n].
            out: For each slot uint8 [B, H, W, C]. Views of an absent shard become black.
            flips: For each slot which views to mirror, [B], or None.
            damaged: Takes the errors of damaged rows, by their index in `rows`; their views
                become black. None: the first error is raised.

        Raises:
            FormatError: A view is damaged, or an image that it is rendered from.
        """

    def announce(self, rows: Rows, views: Rows) -> None:  # noqa: B027
        """Have the operating system load what `read` will touch; same `rows` and `views`."""

    def prefetch(self, shards: Sequence[int]) -> None:  # noqa: B027
        """Start to download shards, in this order."""

    def close(self) -> None:  # noqa: B027
        """Close what is open."""

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
        """Whether a column is small enough to be in memory as a whole."""
        return name in self.view_set.params.small

    def per_view(self, name: str) -> bool:
        """Whether a column has an entry for each view, or one for the sample."""
        return self.view_set.plan.per_view(name)

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
