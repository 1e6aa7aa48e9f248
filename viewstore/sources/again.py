"""A source that was read before: found again where it lies now, its rows compared.

What decides is the rows: keys, sizes, CRCs. Where the bytes lie may change.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from viewstore.errors import ConfigError, FormatError
from viewstore.images.decode import probe
from viewstore.sources.kinds import kind_of
from viewstore.sources.open import absolute, open_source
from viewstore.sources.table import (
    SOURCE_VARIABLE,
    OnError,
    Part,
    SourceKind,
    SourceTable,
    refuse,
)

SHOWN = 3
FACTS = ("size", "crc32", "height", "width")  # of an image file


@dataclass(frozen=True, kw_only=True)
class FoundAgain:
    """Rows that were found again.

    Attributes:
        table: The same rows, where they lie now.
        changed: Rows of which size or CRC-32 are others now.
        left_out: Keys that the source has now and had not when the rows were fixed.
    """

    table: SourceTable
    changed: tuple[int, ...] = ()
    left_out: tuple[str, ...] = ()


def moved_source() -> str | None:
    """Return where the environment says that the source of a store lies on this machine."""
    return os.environ.get(SOURCE_VARIABLE) or None


def located(table: SourceTable, place: str) -> SourceTable:
    """Return the rows of a table in a source that was moved to `place`.

    Names and sizes are compared; whoever reads a row compares its CRC.

    Raises:
        ConfigError: It is another source.
    """
    found = find_again(table, place, on_error="skip")
    if found.changed:
        raise other_source(
            f"{images_named(table, found.changed)} changed in {place}",
            fix="give the place where the images of the first build are; or build again with "
            "--source, if files of which there are no views yet were mended",
        )
    return found.table


def find_again(
    table: SourceTable,
    spec: str,
    *,
    since: int | None = None,
    limit: int | None = None,
    on_error: OnError = "fail",
) -> FoundAgain:
    """Find the rows of a table in the source `spec`, and read no more of it than is needed.

    Args:
        table: Rows of a store.
        spec: A source, spelled as `open_source` takes it.
        since: Time in ns at which the rows were recorded. A file of the recorded size that was
            changed before is not read again. None: the size alone decides, and whoever reads
            a row compares its CRC.
        limit: Only the first rows by key are meant.
        on_error: At a file that is read again and is no image, and at images that are new: "fail"
            ends, "skip" keeps what was recorded, and leaves new ones out.

    Raises:
        ConfigError: Another source: a row is gone, a row or a label is another; or there is none.
        FormatError: An image cannot be read.
    """
    kind = kind_of(spec)
    files = [] if kind is None or not _exists(kind, spec) else kind.files(spec)
    if since is not None and files != _places(table):
        since = 0  # a name and a size do not make it the same file
    parts = _parts_at(table, files, since)
    whole = limit in (None, len(table.keys))
    if parts is None or kind is None or (kind.keys is None and not whole):
        found = open_source(spec, limit=limit, on_error=on_error)
        left_out = _compare_keys(table.keys, found.table.keys, limit, on_error)
        return replace(match_rows(table, found.table), left_out=left_out)
    here = replace(table, parts=parts, spelling=absolute(spec, kind))
    if kind.keys is None:
        return FoundAgain(table=here)
    keys = kind.keys(spec)
    keys = (_known_or_new(here, keys, since) if whole else keys)[:limit]
    left_out = _compare_keys(table.keys, keys, limit, on_error)
    return replace(_looked_at(here, since, on_error), left_out=left_out)


def _places(table: SourceTable) -> list[str]:
    return list(dict.fromkeys(part.uri for part in table.parts))


def _exists(kind: SourceKind, spec: str) -> bool:
    return all(file == spec or Path(file).exists() for file in kind.files(spec))


def _parts_at(
    table: SourceTable, files: Sequence[str], since: int | None
) -> tuple[Part, ...] | None:
    """Return the parts of a table at `files`; None unless these are as they were recorded."""
    places = _places(table)
    if len(files) != len(places):
        return None
    now = dict(zip(places, files, strict=True))
    for part in table.parts:
        path = Path(now[part.uri])
        if path.is_absolute() != Path(part.uri).is_absolute():
            return None  # one is a name of a source, not of a file
        if not path.is_absolute():  # as it always was, whatever has its name in this folder
            continue
        if (part.kind == "dir") != path.is_dir():
            return None
        if path.is_file() and not _untouched(path, part.bytes, since):
            return None
        if not path.exists() and now[part.uri] != part.uri:
            return None
    return tuple(replace(part, uri=now[part.uri]) for part in table.parts)


def _untouched(path: Path, size: int | None, since: int | None) -> bool:
    status = path.stat()
    last = max(status.st_mtime_ns, status.st_ctime_ns)
    return status.st_size == size and (since is None or last < since)


def _known_or_new(table: SourceTable, keys: Sequence[str], since: int | None) -> list[str]:
    """Return the keys without those of files that were there before, and are no rows.

    A limit left them out, or nobody could read them.
    """
    known = set(table.keys)
    folder = Path(table.parts[0].uri)

    def is_new(key: str) -> bool:
        status = (folder / key).lstat()
        return since is not None and max(status.st_mtime_ns, status.st_ctime_ns) >= since

    return [key for key in keys if key in known or is_new(key)]


def _looked_at(table: SourceTable, since: int | None, on_error: OnError) -> FoundAgain:
    """Look at each row of a folder; read those whose file was touched."""
    facts: dict[str, Any] = {name: getattr(table, name).copy() for name in FACTS}
    changed = []
    for row, key in enumerate(table.keys):
        path = Path(table.parts[0].uri) / key
        if _untouched(path, int(table.size[row]), since):
            continue
        try:
            data = path.read_bytes()
            height, width, _ = probe(data)
        except (FormatError, OSError) as error:
            refuse(str(path), key, error, on_error, [])
            continue
        if (len(data), zlib.crc32(data)) != (int(table.size[row]), int(table.crc32[row])):
            changed.append(row)
            values = (len(data), zlib.crc32(data), height, width)
            for name, value in zip(FACTS, values, strict=True):
                facts[name][row] = value
    return FoundAgain(table=replace(table, **facts), changed=tuple(changed))


def _compare_keys(
    stored: Sequence[str], found: Sequence[str], limit: int | None, on_error: OnError
) -> tuple[str, ...]:
    """Return the keys that are new and left out. Raises ConfigError: other rows."""
    there = set(found)
    gone = [key for key in stored if key not in there]
    if limit is not None and len(found) != len(stored) and (limit < len(stored) or not gone):
        raise other_limit(len(stored), limit)
    if gone:
        raise other_source(f"{_some(gone)} of the rows {_are(gone)} not there")
    known = set(stored)
    new = tuple(key for key in found if key not in known)
    if new and on_error == "fail":
        fix = f"give --limit {len(stored)} if that was given, or name another --out"
        raise other_source(new_images(new), fix=fix)
    return new


def match_rows(table: SourceTable, found: SourceTable) -> FoundAgain:
    """Return the rows of `table` with the places and bytes that `found` has for their keys.

    Raises:
        ConfigError: A key is not there, or has another label.
    """
    _compare_keys(table.keys, found.keys, None, "skip")
    rows = {key: row for row, key in enumerate(found.keys)}
    at = np.array([rows[key] for key in table.keys])
    relabelled = np.flatnonzero(table.label != found.label[at]).tolist()
    if relabelled:
        raise other_source(f"the labels of {images_named(table, relabelled)} are others")
    if table.label_names != found.label_names:
        before, after = (", ".join(names) or "none" for names in _names(table, found))
        raise other_source(f"label names were {before}, are {after}")
    fields = ("part", "offset", *FACTS)
    columns: dict[str, Any] = {name: getattr(found, name)[at] for name in fields}
    here = replace(table, parts=found.parts, spelling=found.spelling, **columns)
    changed = np.flatnonzero((table.size != here.size) | (table.crc32 != here.crc32))
    return FoundAgain(table=here, changed=tuple(changed.tolist()))


def _names(*tables: SourceTable) -> Iterator[tuple[str, ...]]:
    return (tuple(table.label_names[:10]) for table in tables)


def other_source(what: str, *, fix: str | None = None) -> ConfigError:
    """Return the error for a source whose rows are not those of the store."""
    return ConfigError(
        f"the store was begun with another source: {what}",
        code="VS103",
        why="all view sets of a store have the same rows",
        fix=fix or "give the source of the first build, or another --out",
    )


def other_limit(was: int, limit: int) -> ConfigError:
    """Return the error for another number of rows than a store has."""
    return ConfigError(
        f"the store was begun with other settings: limit was {was}, is {limit}",
        code="VS103",
        why="all view sets of a store have the same rows",
        fix=f"leave --limit out to go on with {was} rows, or build into another --out",
    )


def images_named(table: SourceTable, rows: Iterable[int]) -> str:
    """Return rows for people: how many, and the keys of the first ones."""
    return _some([table.keys[row] for row in rows])


def new_images(keys: Sequence[str]) -> str:
    """Return a sentence about images that are no rows of a store."""
    return f"{_some(keys)} {_are(keys)} new"


def _some(keys: Sequence[str]) -> str:
    shown = ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")
    return f"{len(keys)} image{'s' if len(keys) > 1 else ''} ({shown})"


def _are(keys: Sequence[str]) -> str:
    return "are" if len(keys) > 1 else "is"
