"""Params columns: their dtypes, shapes, fill values, and what the column "status" says."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import FormatError

COLUMN_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
DTYPES = ("u1", "u2", "u4", "i4", "i8", "u8", "f2", "f4")

# What a row holds that was never written (docs/format.md 3.2). Other columns take the default of
# their dtype: NaN, the unsigned maximum or the signed minimum.
FILLS: Mapping[str, float] = {
    "status": 0,
    "parent": -2,
    "duplicate": -2,
    "crop_local": -1,
    "target": -2,
    "mix_partner": -2,
    "mix_box": -1,
    "model_step": -1,
    "pair_iou": math.inf,
    "pair_loss": math.inf,
    "jitter_order": 254,
    "ops": 254,
    "ops_args": math.inf,
    "steps": -1,
}

MAX_ROW_BYTES = 1 << 28
Per = Literal["view", "sample", "choice"]  # what a row of a column has entries for
PER: tuple[Per, ...] = ("view", "sample", "choice")


class Status(IntEnum):
    """What became of a view: the values of the column "status"."""

    NEVER_WRITTEN = 0
    OK = 1
    GOAL_NOT_MET = 2  # its view is used like others
    FAILED = 3
    UNREADABLE = 4  # its source image is; the view is black


MADE = (Status.OK, Status.GOAL_NOT_MET)  # views with pixels and params of their own


@dataclass(frozen=True, kw_only=True)
class Column:
    """One params column.

    Attributes:
        name: `[a-z][a-z0-9_]{0,30}`; private columns start with "x_".
        dtype: One of DTYPES, little-endian.
        shape: Shape of one row, for example (V, 4).
        pack: Whether the column lies in the shard's params pack, or in a file of its own.
        views: Of a column per view, those it says something about; None means all.
        per: "view": a row begins with an entry for each view. "sample": it is about the sample.
            "choice": it holds view numbers, u1 (G, m): m of them for each of G groups.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    pack: bool = True
    views: tuple[int, ...] | None = None
    per: Per = "view"

    def __post_init__(self) -> None:
        if not COLUMN_NAME.fullmatch(self.name) or self.name == "members":
            raise FormatError(f"column name must match {COLUMN_NAME.pattern}, got {self.name!r}")
        if self.dtype not in DTYPES:
            raise FormatError(f"column {self.name}: dtype must be one of {DTYPES}")
        if len(self.shape) > 5 or any(not 1 <= extent <= 1 << 20 for extent in self.shape):
            raise FormatError(f"column {self.name}: shape {self.shape} is out of limits")
        if self.row_bytes > MAX_ROW_BYTES:
            raise FormatError(f"column {self.name}: shape {self.shape} is out of limits")
        views = range(self.shape[0] if self.shape else 0)
        if self.views is not None and not set(self.views) <= set(views):
            raise FormatError(f"column {self.name}: views {self.views} are out of limits")
        if self.per not in PER:
            raise FormatError(f"column {self.name} must be per {PER}, got {self.per!r}")
        if self.views is not None and self.per != "view":
            raise FormatError(f"column {self.name}: views go with per view, not {self.per}")
        if self.per == "choice" and (self.dtype != "u1" or len(self.shape) != 2):
            raise FormatError(f"column {self.name}: choices must be u1 (G, m)")

    def check_views(self, views: int) -> None:
        """Raise FormatError unless a set of so many views a sample can have this column."""
        if self.per == "view" and self.shape[:1] != (views,):
            raise FormatError(
                f"column {self.name} must have an entry for each of {views} views, "
                f"got shape {self.shape}"
            )
        if self.per == "choice" and self.shape[1] > views:
            raise FormatError(f"column {self.name} chooses {self.shape[1]} of {views} views")

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        return np.dtype("<" + self.dtype)

    @property
    def fill(self) -> int | float:
        """The value of a row that was never written."""
        if self.name in FILLS:
            return FILLS[self.name]
        if self.dtype.startswith("f"):
            return math.nan
        limits = np.iinfo(self.numpy_dtype)
        return int(limits.min if self.dtype.startswith("i") else limits.max)

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * self.numpy_dtype.itemsize

    def missing(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which values were never written."""
        if math.isnan(self.fill):
            return np.asarray(np.isnan(values))
        return np.asarray(values == self.fill)

    def empty(self, rows: int) -> NDArray[Any]:
        """Return an array of `rows` rows that were never written."""
        return np.full((rows, *self.shape), self.fill, dtype=self.numpy_dtype)
