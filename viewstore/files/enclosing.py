"""The store that a folder, or a folder of a bucket, lies in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from viewstore.errors import FormatError, RemoteError
from viewstore.files.bucket import Bucket
from viewstore.files.disk import read_limited
from viewstore.files.local import is_url, local_path
from viewstore.format.paths import StorePaths
from viewstore.format.records import LARGE_BYTES, has_its_digest

ROWS = StorePaths(Path()).sources_record  # the first record that a store has


def enclosing_store(place: Path | str) -> str | None:
    """Return the path or URL of the nearest store above `place`, by its record of the rows.

    What may not be read there counts as no store: rights often end at a folder.
    """
    if is_url(place):
        above = _above_url(str(place).rstrip("/"))
    else:
        above = map(str, local_path(place).resolve().parents)
    for outer in above:
        with contextlib.suppress(OSError, FormatError, RemoteError):
            if has_its_digest(_rows(outer)):
                return outer
    return None


def _above_url(url: str) -> Iterator[str]:
    """Yield the URLs of the folders above that of a store, up to the bucket."""
    scheme, _, path = url.partition("://")
    while "/" in path:
        path = path.rpartition("/")[0]
        yield f"{scheme}://{path}"


def _rows(store: str) -> bytes:
    """Return the record of the rows of a store. Raises an error of its place: there is none."""
    if is_url(store):
        return Bucket(store).get(str(ROWS), LARGE_BYTES)
    return read_limited(Path(store) / ROWS, LARGE_BYTES)
