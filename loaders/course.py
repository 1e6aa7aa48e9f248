"""The batches of a pipeline from a place on, epoch after epoch, as they are asked for."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING

from viewstore.loaders.pipeline import Pipeline, Step

if TYPE_CHECKING:
    from viewstore.loaders.batch import Batch


class Course:
    """Goes on beyond the end of an epoch: the first batches of the next one are ready then.

    Epochs that are no longer than what is made ahead end it: one would be made in vain, if no
    other is asked for.
    """

    def __init__(self, pipeline: Pipeline, *, steps: int, ahead: int) -> None:
        """Begin nothing; an epoch has `steps` steps, of which `ahead` are made ahead."""
        self._pipeline = pipeline
        self._steps = steps
        self._goes_on = steps > ahead
        self._run: Generator[Batch] | None = None

    def next(self, epoch: int, step: int) -> Batch:
        """Return the batch of a place: that behind the last one, unless the course was dropped."""
        run = self._run or self._pipeline.run(self._places(epoch, step))
        self._run = None  # an error, or an interrupt, ends it
        batch = next(run)
        if self._goes_on or step + 1 < self._steps:
            self._run = run
        return batch

    def drop(self) -> None:
        """Drop what was made ahead."""
        if self._run is not None:
            self._run.close()
            self._run = None

    def _places(self, epoch: int, step: int) -> Iterator[Step]:
        """Yield a place and those behind it."""
        epochs: Iterable[int] = itertools.count(epoch) if self._goes_on else [epoch]
        for now in epochs:
            yield from zip(itertools.repeat(now), range(step, self._steps), strict=False)
            step = 0
