"""Batches that are being made: the plan of their samples, and the memory that threads fill."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from viewstore.loaders.pipeline.buffers import Buffer
from viewstore.loaders.plan.ahead import SamplePlan
from viewstore.loaders.plan.wants import NONE


@dataclass(kw_only=True)
class Draft:
    """Some batches that are being made, one after another.

    Attributes:
        epoch: Their epoch.
        steps: Their steps.
        sizes: Samples of each.
        plan: Their rows, views and draws.
        valid: Which samples are neither padding nor damaged, [B].
        buffers: Memory of each slot, uint8 [B, H, W, C]; [0, H, W, C] of those in `skipped`.
        absent: Slots that the step does not show.
        skipped: Those of them that are not even made: no slot that is shown lies on them.
    """

    epoch: int
    steps: range
    sizes: list[int]
    plan: SamplePlan
    valid: NDArray[np.bool_]
    buffers: list[Buffer]
    absent: frozenset[int] = NONE
    skipped: frozenset[int] = NONE

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows of the store, [B]."""
        return self.plan.rows


def bounds_of(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield begin and end of parts of these sizes that lie one after another."""
    return itertools.pairwise(itertools.accumulate(sizes, initial=0))
