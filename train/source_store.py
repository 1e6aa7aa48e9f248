"""A source in place of a store, for loaders of views that are all rendered online."""

from __future__ import annotations

from typing import cast

from viewstore.errors import ConfigError
from viewstore.files.local import LOCAL
from viewstore.format.records import digest_of
from viewstore.sources.reader import SourceReader
from viewstore.sources.table import SourceTable
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet


class SourceOnly:
    """What a loader needs of a store, for a source: it has no view sets, all views are online."""

    def __init__(self, table: SourceTable) -> None:
        self.table = self.source_table = table
        self.num_samples = len(table.keys)
        self.shard_rows = max(1, self.num_samples)
        self.labels = table.label
        self.view_sets: dict[str, ViewSet] = {}
        self.names: list[str] = []
        self.location = "the images"
        self.source = SourceReader(table)
        self.files = LOCAL
        self.store_id = digest_of(
            {"keys": list(table.keys), "crc32": table.crc32.tolist(), "label": table.label.tolist()}
        )

    def view_set(self, name: str) -> ViewSet:
        """Raise ConfigError: there are no view sets."""
        raise ConfigError(
            f"there is no view set {name!r}: images alone have none",
            code="VS102",
            where=f"--views cached:{name}",
            fix="name online policies in --views, or give a store instead of --source",
        )


def store_of_source(table: SourceTable) -> Store:
    """Return what a loader needs of a store, for a source that no store was built from."""
    return cast(Store, SourceOnly(table))
