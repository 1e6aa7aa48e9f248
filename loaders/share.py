"""One store's share of a loader: its rows, its views, and what reads and renders them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from viewstore.crc_checks import Verify
from viewstore.errors import ConfigError
from viewstore.loaders.buffers import BufferPool
from viewstore.loaders.choose import Missing
from viewstore.loaders.clock import Clock
from viewstore.loaders.compose import Mirrored
from viewstore.loaders.maker import BatchMaker, OnCorrupt, Photometric
from viewstore.loaders.mix import AnyReader, MixedViews, mirrored_by_view, parts_of, reader_of
from viewstore.loaders.order import Cut, Order, RowOrder
from viewstore.loaders.ranges import ranged_shards
from viewstore.loaders.reader import CachedReader
from viewstore.loaders.selection import kept_rows
from viewstore.loaders.state import State
from viewstore.loaders.transform import OnlineViews
from viewstore.loaders.views import CachedSlots, OnlineSlot, Views, parse_views, resolve
from viewstore.sources import SourceReader
from viewstore.store import Store
from viewstore.view_set import ViewSet

MakeReader = Callable[[ViewSet], CachedReader]


class Common(TypedDict):
    """What the makers of all stores share; the meaning is that of BatchMaker."""

    cut: Cut
    missing: Missing
    on_corrupt: OnCorrupt
    announces: bool
    photometric: Photometric
    pool: BufferPool
    state: State
    clock: Clock


@dataclass(frozen=True, kw_only=True)
class StoreShare:
    """What a loader shows of one store.

    Attributes:
        store: The store.
        kept: The rows it goes through, ascending; None: all.
        source: Reads the images of the online slots.
        cached, online: The slots.
        readers: What reads each cached group.
        mirrored: Says for each cached group which views show their box from right to left.
    """

    store: Store
    kept: NDArray[np.int64] | None
    source: SourceReader
    cached: Sequence[CachedSlots]
    online: Sequence[OnlineSlot]
    readers: Sequence[AnyReader]
    mirrored: Sequence[Mirrored | None]

    @classmethod
    def of(
        cls,
        store: Store,
        views: str | Views,
        *,
        rows: ArrayLike | None,
        where: str | None,
        verify: Verify,
        make: MakeReader,
    ) -> StoreShare:
        """Return the share of `store` for `views`. Raises ConfigError: they do not fit it."""
        if isinstance(views, str):
            views = parse_views(views, list(store.view_sets))
        cached, online = resolve(views, store)
        shown = [each.name for group in cached for each in group.view_sets]
        return cls(
            store=store,
            kept=kept_rows(store, rows, where, shown),
            source=SourceReader(store.table, verify=verify),
            cached=cached,
            online=online,
            readers=[reader_of(group.view_set, make) for group in cached],
            mirrored=[
                mirrored_by_view(store, group.view_set) if any(group.then) else None
                for group in cached
            ],
        )

    @property
    def num_rows(self) -> int:
        """Rows it goes through."""
        return self.store.num_samples if self.kept is None else len(self.kept)

    def flipped_readers(self) -> list[tuple[CachedReader, bool]]:
        """Return the readers of single view sets, and whether flips of their views are asked."""
        pairs = zip(self.cached, self.readers, strict=True)
        return [(one, any(group.then)) for group, reader in pairs for one in parts_of(reader)]

    @property
    def roles(self) -> tuple[str, ...]:
        """Role of each slot's views."""
        roles = {slot.slot: slot.policy.role for slot in self.online}
        for group in self.cached:
            roles |= dict(zip(group.slots, group.roles, strict=True))
        return tuple(roles[slot] for slot in range(len(roles)))

    def maker(self, *, seed: int, order: RowOrder, scaled: bool, common: Common) -> BatchMaker:
        """Return what makes its batches."""
        table = self.store.table
        return BatchMaker(
            order=order,
            kept=self.kept,
            seed=seed,
            cached=list(zip(self.cached, self.readers, strict=True)),
            mirrored=list(self.mirrored),
            online=OnlineViews(
                self.online,
                self.source,
                table.height,
                table.width,
                scaled=scaled,
                clock=common["clock"],
            ),
            labels=self.store.labels,
            **common,
        )

    def close(self) -> None:
        """Forget what is mapped."""
        for reader in self.readers:
            reader.close()


def shares_of(
    stores: Sequence[Store],
    views: str | Views,
    *,
    rows: Any,  # noqa: ANN401
    where: str | None,
    verify: Verify,
    make: MakeReader,
) -> list[StoreShare]:
    """Return the share of each store; `rows` are those of each, or None.

    Raises:
        ConfigError: There is no store, the views do not fit one, or there are rows for another
            number of stores.
    """
    if not stores:
        raise ConfigError("there must be at least one store")
    rows = [None] * len(stores) if rows is None else list(rows)
    if len(rows) != len(stores):
        raise ConfigError(f"rows must be one for each of {len(stores)} stores, got {len(rows)}")
    return [
        StoreShare.of(store, views, rows=mine, where=where, verify=verify, make=make)
        for store, mine in zip(stores, rows, strict=True)
    ]


def share_caches(
    shares: Sequence[StoreShare],
    order: Order,
    *,
    world_size: int,
    rates: Sequence[float] | None,
) -> None:
    """Share the cache between remote view sets, and have shards read by ranges where it is better.

    `rates` are as ViewLoader has them.
    """
    sharing = sum(one.view_set.remote for share in shares for one, _ in share.flipped_readers())
    for share, rate in zip(shares, rates or [1.0], strict=True):
        for group, reader in zip(share.cached, share.readers, strict=True):
            weights = group.view_set.weights if isinstance(group.view_set, MixedViews) else (1.0,)
            for one, weight in zip(parts_of(reader), weights, strict=True):
                if not one.view_set.remote:
                    continue
                ranged = ranged_shards(
                    one.view_set,
                    order,
                    share.kept,
                    slots=weight * len(group.slots),
                    world_size=world_size,
                    rate=rate,
                    sharing=sharing,
                )
                one.share_cache(sharing, ranged=ranged)
