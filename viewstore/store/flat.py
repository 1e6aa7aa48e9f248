"""The params of a view set as a flat Arrow table, one line for each view: for pandas and SQL."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, UnavailableError
from viewstore.format.columns import Column

if TYPE_CHECKING:
    import pyarrow as pa

ReadRows = Callable[[str, NDArray[np.int64]], NDArray[Any]]
LINE = ("row", "view", "key", "label")  # the columns that say what a line is about


class Samples(NamedTuple):
    """What the lines of a view set are about: keys [N], labels int32 [N], views a sample."""

    keys: Sequence[str]
    labels: NDArray[np.int32]
    views: int


def package(name: str) -> Any:  # noqa: ANN401
    """Return a module of a package of the extra `tables`.

    Raises:
        UnavailableError: The package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnavailableError(
            f"tables of params need the package {name.partition('.')[0]}",
            why=str(error),
            fix="pip install 'viewstore[tables]'",
        ) from error


def flat_table(
    read: ReadRows, samples: Samples, columns: Sequence[Column], rows: NDArray[np.int64]
) -> pa.Table:
    """Return the table of some rows: V lines a row, in the order of (row, view).

    `row` int64, `view` int32, `key` string and `label` int64 (-1: none) come first. A column of a
    shape is a list of fixed size, of several extents lists of lists; one with a value for the
    sample alone stands on each of its lines. Values and dtypes are those that are stored;
    `read`(name, rows) returns them, [B, *shape].

    Raises:
        ConfigError: A params column has the name of one of the first four.
        UnavailableError: pyarrow is not installed.
    """
    arrow = package("pyarrow")
    views = samples.views
    keys = arrow.array([samples.keys[row] for row in rows.tolist()], arrow.string())
    lines = {
        "row": arrow.array(np.repeat(rows, views), arrow.int64()),
        "view": arrow.array(np.tile(np.arange(views, dtype=np.int32), len(rows))),
        "key": keys.take(arrow.array(np.repeat(np.arange(len(rows)), views))),
        "label": arrow.array(np.repeat(samples.labels[rows].astype(np.int64), views)),
    }
    for column in columns:
        if column.name in LINE:
            raise ConfigError(f"column {column.name!r} would stand twice in a table of views")
        values = read(column.name, rows)
        if column.per == "view":
            values = values.reshape(-1, *column.shape[1:])
        else:
            values = np.repeat(values, views, axis=0)
        lines[column.name] = _nested(arrow, values)
    return arrow.table(lines)


def _nested(arrow: Any, values: NDArray[Any]) -> pa.Array:  # noqa: ANN401
    """Return values [n, ...] as an array of n numbers or lists."""
    array = arrow.array(values.reshape(-1))
    for extent in reversed(values.shape[1:]):
        array = arrow.FixedSizeListArray.from_arrays(array, extent)
    return array
