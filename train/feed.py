"""From a store and settings to the views of a run: roles, sizes, rows, loader."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.format.records import digest_of
from viewstore.loaders.loader import ViewLoader
from viewstore.loaders.plan.asked import Cached, Online, parse_views
from viewstore.loaders.plan.slots import CachedSlots, OnlineSlot, resolve
from viewstore.sources.reader import SourceReader
from viewstore.sources.table import SourceTable
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet
from viewstore.train.config import PretrainConfig
from viewstore.train.pretrain import Feed, check_views


class SourceOnly:
    """The rows of a source where a loader wants a store: no view sets, all views are online."""

    def __init__(self, table: SourceTable) -> None:
        self.table = table
        self.num_samples = len(table.keys)
        self.shard_rows = max(1, self.num_samples)
        self.labels = table.label
        self.view_sets: dict[str, ViewSet] = {}
        self.source = SourceReader(table)
        self.store_id = digest_of(
            {"keys": list(table.keys), "crc32": table.crc32.tolist(), "label": table.label.tolist()}
        )


def store_of_source(table: SourceTable) -> Store:
    """Return what a loader needs of a store, for a source that no store was built from."""
    return cast(Store, SourceOnly(table))


def kept_rows(count: int, holdout: int | None) -> NDArray[np.int64]:
    """Return the rows that are trained on, without every `holdout`-th, from 0 on."""
    rows = np.arange(count, dtype=np.int64)
    return rows if holdout is None else rows[rows % holdout != 0]


@contextmanager
def open_feed(
    store: Store, config: PretrainConfig, *, num_threads: int | None = None
) -> Iterator[Feed]:
    """Give the views of a run to a block; nothing is read until the loader is asked.

    Raises:
        ConfigError: A view is unknown, or the views are not what the strategy wants.
    """
    views = _sized(parse_views(",".join(config.views), list(store.view_sets)), config.size)
    cached, online = resolve(views, store)
    roles = _roles(cached, online)
    rows = kept_rows(store.num_samples, config.holdout)
    check_views(config, roles, len(rows))
    loader = ViewLoader(
        store,
        views=views,
        batch_size=config.batch_size,
        seed=config.seed,
        # A filter is part of the loader's state: without holdout there is none.
        rows=None if config.holdout is None else rows,
        num_threads=num_threads,
    )
    with loader:
        yield Feed(
            loader=loader,
            roles=roles,
            epoch_steps=len(loader),
            size=_size(cached, online),
            policy=_policy(cached, online),
            store_id=store.store_id,
        )


def _sized(views: list[Cached | Online], size: int | None) -> list[Cached | Online]:
    """Return the views with `size` for the online ones; cached views have the size they have."""
    if size is None:
        return views
    return [replace(view, size=size) if isinstance(view, Online) else view for view in views]


def _roles(cached: list[CachedSlots], online: list[OnlineSlot]) -> tuple[str, ...]:
    """Return the role of each slot. Raises ConfigError: a view set has views of several roles."""
    roles = {each.slot: each.policy.role for each in online}
    for each in cached:
        name, (role, *others) = each.view_set.name, sorted(set(each.view_set.roles))
        if others:
            raise ConfigError(
                f"views of {name} must have one role, they are {', '.join([role, *others])}",
                where=f"--views {name}",
                fix="name a view set whose views have one role",
            )
        roles |= dict.fromkeys(each.slots, role)
    return tuple(role for _, role in sorted(roles.items()))


def _size(cached: list[CachedSlots], online: list[OnlineSlot]) -> int:
    sizes = [each.size for each in online]
    sizes += [(each.view_set.height, each.view_set.width) for each in cached]
    for height, width in sizes:
        if height != width:
            raise ConfigError(
                f"views must be square to be trained on, got {height}x{width}", fix="give --size"
            )
    return max(side for side, _ in sizes)


def _policy(cached: list[CachedSlots], online: list[OnlineSlot]) -> str:
    """Return the policy of the first expert view: what distances will be calibrated with."""
    names = {each.slot: each.policy.name for each in online}
    for each in cached:
        for view_set in each.view_sets:
            args = view_set.plan.generator["args"]
            names |= dict.fromkeys(each.slots, args.get("policy", ""))
    return next((name for _, name in sorted(names.items()) if name), "")
