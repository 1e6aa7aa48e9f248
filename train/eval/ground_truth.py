"""What is to be found for each query of retrieval, and the JSON file that says so.

`read_ground_truth` checks the file against a source; docs/evaluation.md describes its form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, FormatError, nearest
from viewstore.files.disk import read_limited
from viewstore.sources.table import SourceTable

FILE_BYTES = 1 << 28
LISTS = ("easy", "hard", "junk")


@dataclass(frozen=True, kw_only=True)
class Query:
    """One query.

    Attributes:
        row: Its row of the source.
        box: What of it is searched for, (top, left, height, width) in whole pixels.
        lists: Places in the database by "easy", "hard" and "junk", int64 each.
    """

    row: int
    box: tuple[int, int, int, int]
    lists: Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """What is searched for in what.

    Attributes:
        database: Rows of the source that are searched, int64 [D].
        queries: The queries.
    """

    database: NDArray[np.int64]
    queries: tuple[Query, ...]


def read_ground_truth(path: Path, table: SourceTable) -> GroundTruth:
    """Return the ground truth in a JSON file about the images of a source.

    Raises:
        ConfigError: There is no such file, or a key in it is not one of the source.
        FormatError: It is not of the form that docs/evaluation.md describes.
    """
    try:
        record = json.loads(read_limited(path, FILE_BYTES))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no ground truth at {path}", where=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path.name} must be JSON: {error}", where=str(path)) from error
    try:
        return _ground_truth(record, table)
    except (ConfigError, FormatError) as error:
        raise error.located(str(path)) from error


def _ground_truth(record: object, table: SourceTable) -> GroundTruth:
    if not isinstance(record, dict) or not isinstance(record.get("queries"), list):
        raise _malformed("it must be an object with a list of queries")
    if unknown := sorted(set(record) - {"queries", "database"}):
        raise _malformed(f"it has {unknown[0]!r}, only queries and database are known")
    rows = {key: row for row, key in enumerate(table.keys)}
    asked = [
        _row(each.get("key") if isinstance(each, dict) else None, rows)
        for each in record["queries"]
    ]
    if not asked or len(set(asked)) < len(asked):
        raise _malformed("there must be queries, each of an image of its own")
    if "database" in record:
        database = _rows(record["database"], rows, "database")
    else:
        database = np.setdiff1d(np.arange(len(table.keys)), asked)
    if not len(database):
        raise _malformed("the database must have an image")
    places = {int(row): place for place, row in enumerate(database)}
    queries = tuple(
        _query(each, row, rows, places, table)
        for each, row in zip(record["queries"], asked, strict=True)
    )
    return GroundTruth(database=database, queries=queries)


def _query(
    record: dict[str, Any],
    row: int,
    rows: Mapping[str, int],
    places: Mapping[int, int],
    table: SourceTable,
) -> Query:
    key = table.keys[row]
    if set(record) != {"key", "box", *LISTS}:
        raise _malformed(f"query {key} must have key, box, {', '.join(LISTS)}")
    lists = {}
    for name in LISTS:
        found = _rows(record[name], rows, name).tolist()
        if outside := [each for each in found if each not in places]:
            raise _malformed(f"{table.keys[outside[0]]} of query {key} is not in the database")
        lists[name] = np.array([places[each] for each in found], np.int64)
    if len(np.unique(np.concatenate(list(lists.values())))) < sum(map(len, lists.values())):
        raise _malformed(f"an image of query {key} stands in two of {', '.join(LISTS)}")
    height, width = int(table.height[row]), int(table.width[row])
    return Query(row=row, box=_box(record["box"], height, width, key), lists=lists)


def _box(box: object, height: int, width: int, key: str) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of left, top, right and bottom; None is all of it."""
    if box is None:
        return 0, 0, height, width
    if (
        not isinstance(box, list)
        or len(box) != 4
        or not all(type(each) in (int, float) and abs(each) < 1 << 31 for each in box)
    ):
        raise _malformed(f"the box of query {key} must be left, top, right, bottom, or null")
    left, top, right, bottom = (round(each) for each in box)
    left, top = max(left, 0), max(top, 0)
    right, bottom = min(right, width), min(bottom, height)
    if left >= right or top >= bottom:
        raise _malformed(f"the box of query {key} must lie in its image, {width} x {height}")
    return top, left, bottom - top, right - left


def _rows(keys: object, rows: Mapping[str, int], what: str) -> NDArray[np.int64]:
    """Return the rows of a list of keys, ascending."""
    if not isinstance(keys, list):
        raise _malformed(f"{what} must be a list of keys")
    return np.unique(np.array([_row(key, rows) for key in keys], np.int64))


def _row(key: object, rows: Mapping[str, int]) -> int:
    if not isinstance(key, str):
        raise _malformed("keys must be texts")
    if key not in rows:
        hint = nearest(key[:80], list(rows)[:1000])
        raise ConfigError(f"the source has no image {key[:80]!r}; {hint}", code="VS104")
    return rows[key]


def _malformed(why: str) -> FormatError:
    return FormatError(
        "the ground truth cannot be used", why=why, fix="docs/evaluation.md describes its form"
    )
