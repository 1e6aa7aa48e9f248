"""Opens a store, checks its records, and gives its rows, labels and view sets to users."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, FormatError, counted, quoted
from viewstore.files.cache_settings import CacheSettings
from viewstore.files.fetch import Retry
from viewstore.files.local import LOCAL, Files, is_url, local_path
from viewstore.files.remedy import remedy_at
from viewstore.files.remote import RemoteFiles
from viewstore.format.manifest import Manifest
from viewstore.format.paths import StorePaths
from viewstore.format.plan import MAX_DEPTH, SOURCE, Plan
from viewstore.sources.again import located, moved_source
from viewstore.sources.reader import SourceReader
from viewstore.sources.record import read_sources
from viewstore.sources.table import SourceTable
from viewstore.store.advice import STORE_FOLDER, unfinished
from viewstore.store.committed import (
    committed_shards,
    no_store,
    no_view_set,
    read_manifest,
    read_plan,
    remote_manifest,
    shards_there,
    unfinished_view_set,
    view_sets,
)
from viewstore.store.html import html_of
from viewstore.store.keys import Keys
from viewstore.store.params import Columns
from viewstore.store.view_set import ViewSet


class ViewSets(dict[str, ViewSet]):
    """The view sets of a store by name."""

    def __init__(
        self, found: Mapping[str, ViewSet], location: str, unfinished: Mapping[str, str]
    ) -> None:
        """Take the view sets of the store at `location`, and how far the unfinished ones are."""
        super().__init__(found)
        self._location = location
        self._unfinished = unfinished

    def __missing__(self, name: object) -> ViewSet:
        """Raise ConfigError: it is not finished, or there is none; the nearest is named."""
        if name in self._unfinished:
            raise unfinished_view_set(str(name), self._unfinished[str(name)], self._location)
        fix = f"viewstore inspect {quoted(self._location)}"
        raise no_view_set(str(name), self, self._location, fix=fix)

    def __reduce__(self) -> tuple[Any, ...]:
        return (ViewSets, (dict(self), self._location, self._unfinished))


class Store:
    """A store: its rows, and its view sets by name."""

    def __init__(
        self,
        paths: StorePaths,
        manifest: Manifest,
        files: Files = LOCAL,
        *,
        moved_to: str | None = None,
    ) -> None:
        """Read the records of a store; `moved_to` is where its source images lie now."""
        self.moved_to = moved_to
        self.paths = paths
        self.files = files
        self.manifest = manifest
        self.table: SourceTable
        self.table, self.shard_rows, sources_id = read_sources(paths, files)
        if sources_id != manifest.sources_id:
            raise FormatError(
                "sources are not the ones the manifest names",
                where=files.where(paths.sources_record),
            )

    def __repr__(self) -> str:
        samples = counted(self.num_samples, "sample")
        return f"Store({self.location!r}, {samples}, {list(self.view_sets)})"

    def _repr_html_(self) -> str | None:
        return html_of(self)

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, row: object) -> Any:  # noqa: ANN401
        """Raise ConfigError: what a row of a store is must be said."""
        name = _last_made_from(self) if self.view_sets else "simclr"
        raise ConfigError(
            f"a store has several things of a row, got store[{row!r}]",
            fix=f"store.view_sets[{name!r}][row] for its views, store.source.image(row) for its "
            "image, store.keys[row] for its key",
        )

    @property
    def location(self) -> str:
        """Path or URL of the store."""
        return self.files.where(self.paths.root)

    @property
    def remote(self) -> bool:
        """Whether it lies elsewhere: its shards are downloaded before they are read."""
        return self.files.cache is not None

    @property
    def name(self) -> str:
        """Last part of the path or URL."""
        path = self.paths.root.resolve() if self.files.cache is None else Path(self.location)
        return path.name

    @property
    def root(self) -> Path:
        """The folder of the store. Raises ConfigError: it is remote, and has none."""
        if self.remote:
            raise ConfigError(f"store {self.location} is remote: it has no folder here")
        return self.paths.root

    @property
    def store_id(self) -> str:
        """Digest of the sources and of every shard: equal ids, equal bytes."""
        return self.manifest.store_id

    @property
    def num_samples(self) -> int:
        return len(self.table.keys)

    @cached_property
    def keys(self) -> Keys:
        """The key of each row."""
        order = self.table.key_order
        assert order is not None, "tables of stores have it"
        return Keys(self.table.keys, order)

    @property
    def labels(self) -> NDArray[np.int32]:
        """int32 [N]; -1 where a sample has none."""
        return self.table.label

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(self.table.label_names)

    @cached_property
    def source_table(self) -> SourceTable:
        """The rows, where their source images lie on this machine.

        Raises:
            ConfigError: What `open` or the environment names is another source.
        """
        place = moved_source() if self.moved_to is None else self.moved_to
        return self.table if place is None else located(self.table, place)

    @cached_property
    def source(self) -> SourceReader:
        """Reads the source images; raises on use if they cannot be reached."""
        return SourceReader(self.source_table)

    @cached_property
    def view_sets(self) -> Mapping[str, ViewSet]:
        """The view sets of the newest manifest by name, without those that are `gone`."""
        found: dict[str, ViewSet] = {}
        for name, entry in self.manifest.view_sets.items():
            if name not in self.gone:
                paths = self.paths.view_set(name)
                found[name] = ViewSet(paths, entry, self.files, source=self.source, others=found)
        return ViewSets(found, self.location, self.unfinished)

    def keep_columns(self, memory: Columns) -> None:
        """Keep whole columns of params in a bounded memory, which other stores may share.

        Without, each column that was asked for stays in memory as long as the store.
        """
        for view_set in self.view_sets.values():
            view_set.keep_columns(memory)

    @property
    def unfinished(self) -> Mapping[str, str]:
        """How far the view sets are now whose first build has not ended: "2 of 9 shards are there".

        Those of a remote store are not known: they cannot be listed there.
        """
        found: dict[str, str] = {}
        names = [] if self.remote else view_sets(self.paths)
        for name in names:
            if name not in self.manifest.view_sets:
                # A damaged plan is told by verify; it must not keep others from being read.
                with contextlib.suppress(FormatError, OSError):
                    found[name] = _there(self.paths, name)
        return found

    @property
    def names(self) -> list[str]:
        """Names of all view sets, of those too whose build has not ended."""
        return [*self.view_sets, *self.unfinished]

    @cached_property
    def gone(self) -> tuple[str, ...]:
        """Names of view sets that the manifest names and whose folder is gone from this disk."""
        names = () if self.remote else tuple(self.manifest.view_sets)
        return tuple(
            name for name in names if not self.files.exists(self.paths.view_set(name).plan)
        )

    def columns_of(self, name: str) -> tuple[str, ...]:
        """Return the columns sets that describe the views of `name`, or of the images: "source".

        Those are what a loader may join to it. One that is about another columns set describes
        the views that this one does.
        """
        plan_id = self.manifest.sources_id if name == SOURCE else self.view_set(name).plan.id
        return tuple(
            sorted(
                other.name
                for other in self.view_sets.values()
                if other.kind == "columns" and (name, plan_id) in self._described(other.plan)
            )
        )

    def _described(self, plan: Plan) -> Iterator[tuple[str, str]]:
        """Yield name and plan id of what a columns set describes, of columns sets in turn."""
        for _ in range(MAX_DEPTH):
            if plan.kind != "columns" or plan.parent is None:
                return
            name, plan_id = plan.parent["view_set"], plan.parent["plan_id"]
            yield name, plan_id
            above = self.view_sets.get(name)
            if above is None or above.plan.id != plan_id:
                return
            plan = above.plan

    def view_set(self, name: str) -> ViewSet:
        """Return a view set by name.

        Raises:
            ConfigError: There is none; the nearest is named.
            FormatError: It is gone from disk.
        """
        if name in self.gone:
            raise FormatError(
                f"view set {name!r} is gone from disk",
                code="VS203",
                where=str(self.paths.view_set(name).root),
                why="the manifest names it",
                fix=remedy_at(
                    self.location,
                    f"build it again, or take it out: viewstore rm {quoted(self.location)} {name}",
                ),
            )
        return self.view_sets[name]

    def urls(self, view_set: str) -> list[str]:
        """Return the shard files of a view set, for stock readers of WebDataset."""
        return self.view_set(view_set).urls()


def open_store(
    path: str | Path,
    *,
    cache: CacheSettings | None = None,
    retry: Retry | None = None,
    source: str | Path | None = None,
) -> Store:
    """Return the store at `path`, its records checked.

    Args:
        path: A folder, or a URL: s3://, gs://, az://, http(s)://, or what fsspec knows.
        cache: Directory and size of the cache of downloads; None: as the environment says.
        retry: How often and how long remote reads are tried.
        source: Where the source images lie now, if they were moved. Names and sizes are compared
            here, the CRC of each image when it is read. None: where VIEWSTORE_SOURCE says, or
            where they were.

    Raises:
        ConfigError: There is no store at `path`, or no build in it has ended yet; or `source` is
            another one than the store was begun with.
        FormatError: A record is damaged or of another format version.
        RemoteError: The remote store did not answer.
        UnavailableError: The package that reads such URLs is not installed.
    """
    moved_to = None if source is None else str(source)
    if is_url(path):
        cache = cache or CacheSettings.from_environment()
        store = _open_remote(str(path), cache, retry or Retry(), moved_to)
    else:
        store = _open_here(path, moved_to)
    if moved_to is not None:
        store.source_table  # noqa: B018  # compared now
    return store


def _open_here(path: str | Path, moved_to: str | None) -> Store:
    paths = StorePaths(local_path(path))
    if not paths.root.is_dir():
        raise no_store(
            path,
            why="the folder does not exist" if not paths.root.exists() else "it is not a folder",
            fix=f"viewstore build --generator w-search --out {path}"
            if not paths.root.exists()
            else STORE_FOLDER,
        )
    manifest = read_manifest(paths)
    if manifest is None:
        why, fix = unfinished(paths)
        raise ConfigError(
            f"{path} has no manifest.json", code="VS202", where=str(path), why=why, fix=fix
        )
    return Store(paths, manifest, moved_to=moved_to)


def _there(paths: StorePaths, name: str) -> str:
    """Return how much of a view set is built, in words. Raises FormatError: its plan is damaged."""
    view_set = paths.view_set(name)
    return shards_there(len(committed_shards(view_set)), read_plan(view_set))


def _open_remote(url: str, cache: CacheSettings, retry: Retry, moved_to: str | None) -> Store:
    files = RemoteFiles(url, cache=cache, retry=retry)
    paths = StorePaths(Path())
    manifest = remote_manifest(paths, files)
    while True:
        try:
            store = Store(paths, manifest, files, moved_to=moved_to)
            for view_set in store.view_sets.values():
                view_set.index  # noqa: B018  # a finalise that just ran shows here
            return store
        except FormatError:
            newest = remote_manifest(paths, files)
            if newest == manifest:
                raise
            manifest = newest


def chosen_view_set(store: Store, name: str | None, *, purpose: str) -> ViewSet:
    """Return view set `name`; without a name, the only one.

    Args:
        store: An open store.
        name: Its name, or None.
        purpose: What it is chosen for, as a verb: "export".

    Raises:
        ConfigError: There is no such view set, or none is named and there are several; one that
            no other starts from is proposed.
    """
    if name is not None:
        return store.view_set(name)
    names = sorted(store.view_sets)
    if len(names) == 1:
        return store.view_sets[names[0]]
    raise ConfigError(
        f"which view set to {purpose} must be said, the store has {', '.join(names) or 'none'}",
        where=store.location,
        fix=f"add --view-set {_last_made_from(store)}" if names else None,
    )


def _last_made_from(store: Store) -> str:
    """Return the first name among the view sets that no other one starts from."""
    parents = [each.plan.parent for each in store.view_sets.values()]
    started_from = {parent["view_set"] for parent in parents if parent is not None}
    return min(set(store.view_sets) - started_from or store.view_sets)
