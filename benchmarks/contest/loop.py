"""What a contender is: an opened loader over one workload, iterated epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from contest.workloads import Workload

Views = list[NDArray[np.uint8]]  # one array [B, H, W, 3] for each slot
Batches = Iterator[tuple[Views, NDArray[Any]]]  # with the number of each sample


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a contender is opened with.

    Attributes:
        folder: The data of the workload.
        cores: CPUs that the process may use.
        settings: One of the variants of the contender.
    """

    workload: Workload
    folder: Path
    cores: int
    settings: dict[str, Any] = field(default_factory=dict)


class Contender(Protocol):
    """A loader that is open."""

    def epoch(self) -> Batches:
        """Yield the batches of the next epoch; arrays may be overwritten by the next batch."""

    def rest(self) -> None:
        """Forget what was made ahead: the clock begins to run."""


def tars(job: Job) -> list[str]:
    """Return the tars that hold the encoded views or images of a workload."""
    folder = job.folder / ("tars" if job.workload.kind == "online" else "store/views/views")
    every = sorted(map(str, folder.glob("*.tar")))
    shards = -(-len(every) * job.workload.samples // _samples(job))
    return every[:shards]


def _samples(job: Job) -> int:
    name = "views.npy" if job.workload.kind == "raw" else "spans.npy"
    return len(np.load(job.folder / name, mmap_mode="r"))
