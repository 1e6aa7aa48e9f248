"""The stores that pages show, and what they keep in memory for later: bounded, thread-safe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from viewstore.inspect.augmentation import Replays
from viewstore.inspect.query import SECONDS, Result
from viewstore.store.kept import Kept
from viewstore.store.params import Columns
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

OpenStore = Callable[[], Store]
ReplaysOf = Callable[[Store, ViewSet], Replays | None]
RESULTS, FACTS = 32, 256
THUMBNAIL_BYTES, COLUMN_BYTES = 64 << 20, 1 << 30


def no_replays(store: Store, view_set: ViewSet) -> None:
    """Return that nothing draws the params of a view set anew."""


class Memory:
    """The stores that pages show, and results of queries, thumbnails, set-wide facts and columns.

    Attributes:
        stores: What gives the newest generation of each, open, by name.
        replays: Gives what draws the params of a view set anew; None where nothing does.
        results: By the id of the query.
        thumbnails: By what is in them.
        facts: By what they are of, the root of a view set among it: they are computed once.
        columns: Of all stores.
        query_seconds: How long a query may take.
    """

    def __init__(self, stores: Mapping[str, OpenStore], replays: ReplaysOf = no_replays) -> None:
        self.stores, self.replays = stores, replays
        self.results: Kept[Result] = Kept(RESULTS)
        self.thumbnails: Kept[bytes] = Kept(THUMBNAIL_BYTES, len)
        self.facts: Kept[Any] = Kept(FACTS)
        self.columns: Columns = Kept(COLUMN_BYTES, lambda column: column.nbytes)
        self.query_seconds = SECONDS
