"""From a store and settings to the views of a run: roles, sizes, rows, loader."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.loaders.loader import ViewLoader
from viewstore.loaders.views import Cached, CachedSlots, Online, OnlineSlot, parse_views, resolve
from viewstore.records import digest_of
from viewstore.sources import SourceReader, SourceTable
from viewstore.store import Store, ViewSet
from viewstore.train.config import PretrainConfig
from viewstore.train.pretrain import Feed, check_feed


@dataclass(frozen=True)
class SourceOnly:
    """A source in the place of a store: no view sets, all views are drawn online."""

    table: SourceTable
    view_sets: dict[str, ViewSet] = field(default_factory=dict)

    @property
    def store_id(self) -> str:
        """Digest of the rows and their bytes."""
        table = self.table
        rows = [list(table.keys), table.crc32.tolist(), table.label.tolist()]
        return digest_of({"source": rows})

    @property
    def source(self) -> SourceReader:
        return SourceReader(self.table)


def kept_rows(count: int, holdout: int | None) -> NDArray[np.int64] | None:
    """Return the rows that are trained on, without every `holdout`-th; None means all."""
    if holdout is None:
        return None
    rows = np.arange(count)
    return rows[rows % holdout != 0]


def open_feed(
    store: Store | SourceOnly, config: PretrainConfig, *, num_threads: int | None = None
) -> Feed:
    """Return the views of a run; nothing is read until the loader is asked.

    Raises:
        ConfigError: A view is unknown, or the views are not what the strategy wants.
    """
    views = _sized(parse_views(",".join(config.views), list(store.view_sets)), config.size)
    cached, online = resolve(views, store)
    rows = kept_rows(len(store.table.keys), config.holdout)
    count = len(store.table.keys) if rows is None else len(rows)
    loader = ViewLoader(
        store,
        views=views,
        batch_size=config.batch_size,
        seed=config.seed,
        rows=rows,
        num_threads=num_threads,
        tail="drop",
    )
    feed = Feed(
        loader=loader,
        roles=_roles(cached, online),
        epoch_steps=count // config.batch_size,
        size=_size(cached, online),
        policy=_policy(cached, online),
        store_id=store.store_id,
    )
    check_feed(config, feed)
    return feed


def _sized(views: list[Cached | Online], size: int | None) -> list[Cached | Online]:
    """Return the views with `size` for the online ones; cached views have the size they have."""
    if size is None:
        return views
    return [replace(view, size=size) if isinstance(view, Online) else view for view in views]


def _roles(cached: list[CachedSlots], online: list[OnlineSlot]) -> tuple[str, ...]:
    roles = {each.slot: each.policy.role for each in online}
    for each in cached:
        kinds = set(each.view_set.roles)
        if len(kinds) != 1:
            raise ConfigError(
                f"views of {each.view_set.name} must be of one role to be trained on, "
                f"got {', '.join(sorted(kinds))}",
                fix="name a view set whose views have one role",
            )
        roles |= dict.fromkeys(each.slots, kinds.pop())
    return tuple(roles[slot] for slot in sorted(roles))


def _size(cached: list[CachedSlots], online: list[OnlineSlot]) -> int:
    sizes = [each.size for each in online]
    sizes += [(each.view_set.height, each.view_set.width) for each in cached]
    for height, width in sizes:
        if height != width:
            raise ConfigError(
                f"views must be square to be trained on, got {height}x{width}", fix="give --size"
            )
    return max(height for height, _ in sizes)


def _policy(cached: list[CachedSlots], online: list[OnlineSlot]) -> str:
    """Return the policy of the first expert view: what distances will be calibrated with."""
    names = {each.slot: each.policy.name for each in online}
    for each in cached:
        args = each.view_set.plan.generator["args"]
        names |= dict.fromkeys(each.slots, args.get("policy", ""))
    return next((name for _, name in sorted(names.items()) if name), "")
