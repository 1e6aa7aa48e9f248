"""One shard as files: the tar and the params pack, written row by row, and read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from viewstore.format.plan import Plan


@dataclass(frozen=True)
class Rendered:
    """The views of one sample.

    Attributes:
        index: The sample's row.
        pixels: uint8 [V, H, W, C].
        params: One row of each column of the plan, in its dtype.
    """

    index: int
    pixels: NDArray[np.uint8]
    params: Mapping[str, NDArray[Any]]


class Rows(Protocol):
    """The samples of a store."""

    def image(self, row: int) -> NDArray[np.uint8]:
        """Return the source image of a row, uint8 [H, W, 3]. Raises FormatError."""

    def key(self, row: int) -> str:
        """Return the key of a row."""

    def label(self, row: int) -> int:
        """Return the label of a row, -1 if it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Rows [first, first + num_samples) of one view set, which are one shard."""

    view_set: str
    shard: int
    first: int
    num_samples: int


def units(plan: Plan, shards: Sequence[int]) -> list[Unit]:
    """Return the units of work for `shards` of a plan."""
    ranges = {shard: plan.shard_range(shard) for shard in shards}
    return [
        Unit(view_set=plan.view_set, shard=shard, first=rows.start, num_samples=len(rows))
        for shard, rows in ranges.items()
    ]


OutcomeStatus = Literal["committed", "already", "lost_race", "failed", "stopped"]


@dataclass(frozen=True)
class Sample:
    """One source image: its row, and its pixels as uint8 [H, W, 3]."""

    index: int
    image: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one attempt came to; built-in types only, because it crosses processes.

    Attributes:
        failures: Rows that were kept with status 3 or 4.
        error: Keyword facts of a ViewStoreError, if the status is "failed" or "stopped".
        again: Whether another attempt may help.
    """

    shard: int
    attempt: str
    status: OutcomeStatus
    seconds: float
    num_bytes: int = 0
    failures: int = 0
    error: dict[str, str | None] | None = None
    again: bool = False


class Watch(Protocol):
    """What a running builder tells its engine, and hears from it."""

    def rendered(self) -> None:
        """Count one sample."""

    def check(self) -> None:
        """Raise StoppedError if the unit must not go on."""
