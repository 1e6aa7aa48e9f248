"""Params of views that are imported: a CSV or Parquet table with a line for each view."""

from __future__ import annotations

import contextlib
import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, counted
from viewstore.format.columns import COLUMN_NAME, Column
from viewstore.store.flat import package

# Columns of docs/format.md 3.1 that a table may have, with the dtype and the extents of a view.
STANDARD: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "crop_box": ("f4", (4,)),
    "flip": ("u1", ()),
    "gray": ("u1", ()),
    "jitter": ("f4", (4,)),
    "jitter_order": ("u1", (4,)),
    "blur": ("f4", ()),
    "solarize": ("u2", ()),
    "distance": ("f4", ()),
    "mean_pair_distance": ("f4", ()),
    "min_pair_distance": ("f4", ()),
    "seed": ("u8", ()),
    "steps": ("i4", ()),
    "converged": ("u1", ()),
    "loss0": ("f4", ()),
    "loss": ("f4", ()),
    "clipped": ("f4", ()),
}
ADDRESS = ("key", "view")
# What `export --format parquet` says besides; of a parent there is none.
PASSED_OVER = ("row", "label", "status", "image", "parent")
NOT_OURS = ("latent", "latent0")  # of a network, which there is none of
MOST_EXACT = 1 << 24  # whole numbers up to here are exact in float32
WHOLE = re.compile(r"[+-]?\d{1,20}")
NAMED = 3

Values = Sequence[str] | NDArray[Any]


def read_params(
    path: Path, keys: Sequence[str], there: NDArray[np.bool_]
) -> dict[str, NDArray[Any]]:
    """Return the columns of a table by name, each [N, V, ...], filled where a view has no file.

    A column that format.md 3.1 knows has the dtype it has there. Another one becomes `x_<name>`:
    int64 if all of its values are whole numbers, else float32.

    Args:
        path: A `.csv` with a line of names, or a `.parquet`: `key`, `view`, then numbers.
        keys: Of the rows, in their order.
        there: Which views have a file, [N, V].

    Raises:
        ConfigError: No such table; a line for one of these views is missing or stands twice; a
            value that is no number of its column.
        UnavailableError: It is Parquet, and pyarrow is not installed.
    """
    if not path.is_file():
        raise _refused(path, "there is no such file")
    table = _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)
    for name in ADDRESS:
        if name not in table:
            raise _refused(path, f"it has no column {name!r}, but {', '.join(table) or 'none'}")
    lines = _lines(path, table["key"], table["view"], keys, there)
    found: dict[str, NDArray[Any]] = {}
    for name, values in table.items():
        if name in ADDRESS or name in PASSED_OVER:
            continue
        own = name if name in STANDARD else _own_name(path, name)
        if own in found:
            raise _refused(path, f"two of its columns would be {own}")
        found[own] = _column(path, name, own, values, lines)
    return found


def _refused(path: Path, why: str) -> ConfigError:
    return ConfigError(
        "params cannot be taken from this table",
        code="VS105",
        where=str(path),
        why=why,
        fix="it must have a line for each view: key, view (from 0), then numbers",
    )


def _csv(path: Path) -> dict[str, Values]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file, strict=True) if line]
    except (csv.Error, UnicodeDecodeError) as error:
        raise _refused(path, f"it is no CSV in UTF-8: {error}") from error
    names, *rows = lines or [[]]
    if len(set(names)) != len(names):
        raise _refused(path, "two of its columns have one name")
    for number, row in enumerate(rows, 2):
        if len(row) != len(names):
            raise _refused(path, f"line {number} must have {len(names)} values, got {len(row)}")
    return dict(zip(names, zip(*rows, strict=True) if rows else [()] * len(names), strict=True))


def _parquet(path: Path) -> dict[str, Values]:
    parquet = package("pyarrow.parquet")
    try:
        names = parquet.read_schema(path).names
        wanted = [name for name in names if name not in PASSED_OVER]
        table = parquet.read_table(path, columns=wanted)
        columns = {name: table[name].combine_chunks() for name in table.column_names}
        return {name: _values(path, name, column) for name, column in columns.items()}
    except ConfigError:
        raise
    except Exception as error:  # a foreign parser on hostile bytes may raise anything
        raise _refused(path, f"it cannot be read as Parquet: {error}") from error


def _values(path: Path, name: str, column: Any) -> Values:  # noqa: ANN401
    """Return a column of Parquet: numbers [n], lists [n, extent] or the keys; null is NaN."""
    arrow, compute = package("pyarrow"), package("pyarrow.compute")
    if arrow.types.is_list(column.type) or arrow.types.is_fixed_size_list(column.type):
        numbers = column.flatten()
        extent = len(numbers) // max(len(column), 1)
        lengths = compute.list_value_length(column).unique().to_pylist()
        if lengths not in ([], [extent]):
            raise _refused(path, f"column {name} has lists of several lengths")
        found: NDArray[Any] = numbers.to_numpy(zero_copy_only=False).reshape(len(column), extent)
        return found
    if name == "key":
        keys: list[str] = column.cast(arrow.string()).to_pylist()
        return keys
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _lines(
    path: Path, names: Values, views: Values, keys: Sequence[str], there: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return the line of each view, [N, V], -1 for those without a file; others are passed over."""
    rows = {key: row for row, key in enumerate(keys)}
    lines = np.full(there.shape, -1, np.int64)
    numbers = _numbers(path, "view", views)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise _refused(path, "view must be a whole number")
    unknown = []
    for line, (name, view) in enumerate(zip(names, numbers.tolist(), strict=True)):
        row = rows.get(name)
        if row is None:
            unknown.append(name)
        if row is None or not 0 <= view < there.shape[1] or not there[row, view]:
            continue
        if lines[row, view] >= 0:
            raise _refused(path, f"it has two lines for {name} view {view}")
        lines[row, view] = line
    absent = np.argwhere(there & (lines < 0))
    if len(absent):
        first = ", ".join(f"{keys[row]} view {view}" for row, view in absent[:NAMED].tolist())
        others = f"; {counted(len(unknown), 'line')} of it is of no sample here, first "
        others = f"{others}{unknown[0]!r}" if unknown else ""
        raise _refused(path, f"it has no line for {len(absent)} views, first {first}{others}")
    return lines


def _own_name(path: Path, name: str) -> str:
    own = re.sub(r"[^a-z0-9_]", "_", name.lower())
    own = own if own.startswith("x_") else f"x_{own}"
    if name in NOT_OURS or not COLUMN_NAME.fullmatch(own):
        raise _refused(path, f"column {name!r} cannot be a column of params")
    return own


def _column(
    path: Path, name: str, own: str, values: Values, lines: NDArray[np.int64]
) -> NDArray[Any]:
    """Return a column [N, V, ...] of the values at `lines`, in the dtype it is kept in."""
    numbers = _numbers(path, name, values)
    there = lines >= 0
    taken = numbers[lines[there]]
    dtype, extents = STANDARD.get(own, ("i8" if numbers.dtype.kind in "iub" else "f4", None))
    if extents is not None and taken.shape[1:] != extents:
        raise _refused(path, f"{name} must have {list(extents)} numbers, got {taken.shape[1:]}")
    column = Column(name=own, dtype=dtype, shape=taken.shape[1:])
    may_lack = own.startswith("x_") and dtype == "f4"
    fits = _fit(taken, column.numpy_dtype, may_lack=may_lack)
    if not fits.all():
        bad = taken[~fits].reshape(-1)[0] if taken.ndim == 1 else taken[~fits][0]
        raise _refused(path, f"{name} must be numbers of type {dtype}, got {bad}")
    whole = np.full((*lines.shape, *column.shape), column.fill, column.numpy_dtype)
    whole[there] = taken.astype(column.numpy_dtype)
    return whole


def _fit(values: NDArray[Any], dtype: np.dtype[Any], *, may_lack: bool) -> NDArray[np.bool_]:
    """Return which values a dtype can hold: whole ones within its range, or finite ones."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            fits = np.isfinite(values.astype(dtype))
        return np.asarray(fits | np.isnan(values) if may_lack else fits)
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            whole = np.isfinite(values) & (values == np.floor(values))
        values = np.where(whole, values, -1)
        limits = np.iinfo(dtype)
        return np.asarray(whole & (values >= limits.min) & (values <= float(limits.max)))
    limits = np.iinfo(dtype)
    return np.asarray([limits.min <= int(each) <= limits.max for each in values.ravel()]).reshape(
        values.shape
    )


def _numbers(path: Path, name: str, values: Values) -> NDArray[Any]:
    """Return values as integers if all of them are whole numbers, else as float64, "" as NaN."""
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "iufb":
            raise _refused(path, f"{name} must be numbers, got {values.dtype}")
        return values.astype(np.uint8) if values.dtype.kind == "b" else values
    if all(map(WHOLE.fullmatch, values)):
        return _whole(path, name, values)
    if all(WHOLE.fullmatch(text) for text in values if text.strip()) and any(values):
        # Whole numbers too large for float64 would come out as others.
        large = [text for text in values if text.strip() and abs(int(text)) > MOST_EXACT]
        if large:
            raise _refused(
                path, f"{name} has numbers such as {large[0]}, and lines without one: give all"
            )
    try:
        return np.array([float(text) if text.strip() else np.nan for text in values])
    except ValueError as error:
        raise _refused(path, f"{name} must be numbers: {error}") from error


def _whole(path: Path, name: str, values: Iterable[str]) -> NDArray[Any]:
    """Return whole numbers as int64; as uint64 if one is 2^63 or more."""
    numbers = [int(text) for text in values]
    for dtype in (np.int64, np.uint64):
        with contextlib.suppress(OverflowError):
            return np.array(numbers, dtype)
    raise _refused(path, f"{name} must be numbers of at most 64 bits")
