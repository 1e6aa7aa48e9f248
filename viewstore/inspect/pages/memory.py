"""What the pages of some stores keep in memory for later requests: bounded, shared by threads."""

from __future__ import annotations

from typing import Any

from viewstore.inspect.query import SECONDS, Result
from viewstore.store.kept import Kept
from viewstore.store.params import Columns

RESULTS, FACTS = 32, 256
THUMBNAIL_BYTES, COLUMN_BYTES = 64 << 20, 1 << 30


class Memory:
    """Results of queries, thumbnails, set-wide facts and columns.

    Attributes:
        results: By the id of the query.
        thumbnails: By what is in them.
        facts: By what they are of, the root of a view set among it: they are computed once.
        columns: Of all stores.
        query_seconds: How long a query may take.
    """

    def __init__(self) -> None:
        self.results: Kept[Result] = Kept(RESULTS)
        self.thumbnails: Kept[bytes] = Kept(THUMBNAIL_BYTES, len)
        self.facts: Kept[Any] = Kept(FACTS)
        self.columns: Columns = Kept(COLUMN_BYTES, lambda column: column.nbytes)
        self.query_seconds = SECONDS
