"""Reads the chunks of params columns out of the blobs that carry them, as remote stores need it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from viewstore.errors import FormatError
from viewstore.files.local import Files, checked_blob, matching
from viewstore.format.columns import Column
from viewstore.store.shard import Shard


def read_chunk(
    files: Files, root: Path, shard: Shard, column: Column, *, alone: bool = False
) -> memoryview:
    """Return the chunk of a column of a shard of the view set at `root`.

    One that lies in a pack with others is fetched alone where the cache would not keep the pack,
    or where the caller wants nothing else of it, and says so by `alone`.

    Raises:
        FormatError: It has other bytes than its shard says.
        RemoteError: The server did not give it.
    """
    entry = shard.entry
    packed = entry.columns.get(column.name)
    blob = entry.file("params" if packed else f"column:{column.name}")
    begin, size, sha256 = packed or (0, blob.bytes, blob.sha256)
    path, check = root / blob.name, partial(matching, size=size, sha256=sha256)
    cache = files.cache
    try:
        if packed and not (
            cache is None or cache.holds(blob.sha256) or (cache.keeps and not alone)
        ):
            return memoryview(cache.part(path, begin, begin + size, check))
        return checked_blob(
            files,
            path,
            blob.bytes,
            blob.sha256,
            lambda data: memoryview(check(data[begin : begin + size])),
        )
    except FormatError as error:
        raise FormatError(
            f"column {column.name} of shard {entry.shard} of {root.name} is damaged",
            code="VS203",
            where=error.where,
            why=error.why or str(error),
            fix=shard.repair,
        ) from error
