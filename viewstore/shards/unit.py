"""The values that pass through a build of shards: units in, samples, rendered views, outcomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ViewStoreError
from viewstore.format.plan import Plan


@dataclass(frozen=True)
class Rendered:
    """The views of one sample.

    Attributes:
        index: The sample's row.
        pixels: uint8 [V, H, W, C]; None where the set stores no pixels and no proof of them.
        params: One row of each column of the plan, in its dtype.
        encoded: Files that views came as and that the codec stores as they are, [V]; None for
            one that is to be encoded. Empty: all are.
    """

    index: int
    pixels: NDArray[np.uint8] | None
    params: Mapping[str, NDArray[Any]]
    encoded: Sequence[bytes | None] = ()


class Rows(Protocol):
    """The samples of a store, by row."""

    def image(self, row: int) -> NDArray[np.uint8]:
        """Return the source image of a row, uint8 [H, W, 3]. Raises FormatError."""

    def size(self, row: int) -> tuple[int, int]:
        """Return height and width of the source image of a row, in pixels."""

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


class SampleViews(Protocol):
    """The views that another view set holds of a sample, through their checksums."""

    @property
    def status(self) -> NDArray[np.uint8]:
        """What became of each view, [V]: values of `Status`."""

    def pixels(self) -> NDArray[np.uint8]:
        """Return its views as a reader sees them, uint8 [V, H, W, 3]; read at the first call."""

    def params(self, name: str) -> NDArray[Any]:
        """Return its row of a params column. Raises ConfigError: there is no such column."""


@dataclass(frozen=True)
class Sample:
    """One sample of a store, as a generator sees it.

    Attributes:
        index: Its row.
        size: Height and width of its source image, in pixels.
        read: Decodes its source image, uint8 [H, W, 3].
        parent: Its views in the view set that these views start from, if there is one.
        inputs: Its views in the other view sets that the generator reads, by role.
        label: Of its source image; -1 if it has none.
    """

    index: int
    size: tuple[int, int]
    read: Callable[[], NDArray[np.uint8]]
    parent: SampleViews | None = None
    inputs: Mapping[str, SampleViews] = field(default_factory=dict)
    label: int = -1

    @classmethod
    def of(cls, index: int, image: NDArray[np.uint8], parent: SampleViews | None = None) -> Sample:
        """Return the sample of a source image that is decoded already."""
        return cls(index, (image.shape[0], image.shape[1]), lambda: image, parent)

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        """Its source image, uint8 [H, W, 3]; decoded at the first touch."""
        return self.read()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of one attempt to build a shard; it crosses processes, so it must pickle.

    Attributes:
        seconds: Time of the attempt.
        num_bytes: Size of the files that it committed.
        failed_rows: Rows that are stored with status 3 or 4.
        error: Why, if the status is "failed" or "stopped".
        retryable: Whether another attempt may help.
        warnings: What the user should know of the worker.
    """

    shard: int
    attempt: str
    status: OutcomeStatus
    seconds: float
    num_bytes: int = 0
    failed_rows: tuple[int, ...] = ()
    error: ViewStoreError | None = None
    retryable: bool = False
    warnings: tuple[str, ...] = ()
