"""What a loader is made of, so that another process can make the same one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal, TypedDict, Unpack

import torch
from numpy.typing import ArrayLike

from viewstore.errors import ConfigError
from viewstore.files.blob_cache import FileSettings
from viewstore.files.crc_checks import Verify
from viewstore.loaders.batches.maker import OnCorrupt, Photometric
from viewstore.loaders.loader import ViewLoader
from viewstore.loaders.plan.asked import Views
from viewstore.loaders.plan.cut import Tail, find_rank
from viewstore.loaders.plan.schedule import Missing
from viewstore.store.store import Store, open_store


class Settings(TypedDict, total=False):
    """The settings of a ViewLoader by name; what is left out has the loader's default."""

    batch_size: int
    seed: int
    shuffle: str
    rates: Sequence[float] | None
    rows: ArrayLike | Sequence[ArrayLike | None] | None
    where: str | None
    rank: int | None
    world_size: int | None
    uneven: bool
    num_threads: int | None
    prefetch: int
    verify: Verify
    missing: Missing
    tail: Tail
    on_corrupt: OnCorrupt
    resident: bool | Literal["auto"]
    reuse: bool
    scaled_decode: bool
    pin: bool
    device: str | torch.device
    photometric: Photometric


class Recipe:
    """Stores, views and settings. Its rank is found once: worker processes do not know theirs.

    Across a process boundary it carries the places of the stores, not what is open of them.
    """

    def __init__(
        self, store: Store | Sequence[Store], views: str | Views, settings: Settings
    ) -> None:
        rank, world_size = find_rank(settings.get("rank"), settings.get("world_size"))
        self._several = isinstance(store, Sequence)
        self._stores = list(store) if isinstance(store, Sequence) else [store]
        self._views = views
        self._settings: Settings = {**settings, "rank": rank, "world_size": world_size}
        self._pid = os.getpid()
        self._loader: ViewLoader | None = None

    @property
    def loader(self) -> ViewLoader:
        """The loader of this process, made at its first use."""
        if self._loader is None or self._pid != os.getpid():
            self._loader, self._pid = self.make(), os.getpid()
        return self._loader

    def make(self, **changes: Unpack[Settings]) -> ViewLoader:
        """Return a new loader, with other settings where they are given."""
        stores = self._stores if self._several else self._stores[0]
        settings: Settings = {**self._settings, **changes}
        return ViewLoader(stores, self._views, **settings)

    def __getstate__(self) -> dict[str, Any]:
        places = [(s.location, _file_settings(s), s.store_id) for s in self._stores]
        return {**self.__dict__, "_stores": places, "_loader": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._stores = [_reopened(*place) for place in state["_stores"]]


def _file_settings(store: Store) -> FileSettings:
    return {} if store.files.cache is None else store.files.cache.settings


def _reopened(place: str, settings: FileSettings, store_id: str) -> Store:
    store = open_store(place, **settings)
    if store.store_id != store_id:
        raise ConfigError(
            f"store {place} was changed while it was read; it has another id in a worker process",
            fix="begin anew with the changed store",
        )
    return store
