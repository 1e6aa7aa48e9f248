"""What a loader is made of, so that another process can make the same one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from viewstore.errors import ConfigError
from viewstore.files.blob_cache import FileSettings
from viewstore.loaders.batches.store_views import StoreOrPath, opened
from viewstore.loaders.loader import ViewLoader
from viewstore.loaders.plan.asked import AnyViews
from viewstore.loaders.plan.cut import check_found_rank, find_rank
from viewstore.loaders.settings import LoaderSettings
from viewstore.store.store import Store, open_store


class Recipe:
    """Stores, views and settings of a loader, from which each process makes its own.

    The rank is found once: worker processes do not know theirs. Pickled, it has the locations of
    the stores, which are opened again.
    """

    def __init__(
        self, store: StoreOrPath | Sequence[StoreOrPath], views: AnyViews, settings: LoaderSettings
    ) -> None:
        """Take the arguments of ViewLoader; no loader is made yet."""
        rank, world_size = find_rank(settings.rank, settings.world_size)
        self._stores, self._several = opened(store)
        self._views = views
        self._settings = replace(settings, rank=rank, world_size=world_size)
        self._found_rank = (rank, world_size) if settings.rank is None else None
        self._pid = os.getpid()
        self._loader: ViewLoader | None = None
        self._shown: tuple[Any, ...] | None = None  # once it was made

    @property
    def loader(self) -> ViewLoader:
        """The loader of this process, made at its first use.

        Raises:
            ConfigError: torch.distributed was set up since with another rank than was found, or a
                store was changed since this was pickled.
        """
        self._check_rank()
        if self._loader is None or self._pid != os.getpid():
            self._loader, self._pid = self.make(), os.getpid()
            self._check_same(self._loader)
        return self._loader

    def make(self, **changes: Any) -> ViewLoader:  # noqa: ANN401
        """Return a new loader, with some settings changed."""
        stores = self._stores if self._several else self._stores[0]
        settings: dict[str, Any] = vars(replace(self._settings, **changes))
        return ViewLoader(stores, self._views, **settings)

    def _check_same(self, loader: ViewLoader) -> None:
        """Raise ConfigError unless `loader` shows what this one showed before it was pickled."""
        shown = _shown(loader)
        if self._shown not in (None, shown):
            places = ", ".join(store.location for store in self._stores)
            raise ConfigError(
                f"store {places} was changed while it was read: a worker process finds other "
                "rows or view sets in it",
                fix="begin anew with the changed store",
            )
        self._shown = shown

    def _check_rank(self) -> None:
        if self._found_rank is not None:
            check_found_rank(*self._found_rank)

    def __getstate__(self) -> dict[str, Any]:
        self._check_rank()  # a spawned worker process will not know
        locations = [(s.location, _file_settings(s), s.store_id, s.moved_to) for s in self._stores]
        return {**self.__dict__, "_stores": locations, "_loader": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # The id says which store was sent; what must be the same is compared by `loader`.
        self._stores = [
            open_store(place, source=moved_to, **settings)
            for place, settings, _, moved_to in state["_stores"]
        ]


def _shown(loader: ViewLoader) -> tuple[Any, ...]:
    """Return what says which rows and view sets a loader shows."""
    state = loader.state_dict()
    return state["store"], state["rows"], state["views"]


def _file_settings(store: Store) -> FileSettings:
    return {} if store.files.cache is None else store.files.cache.settings
