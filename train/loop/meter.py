"""What the steps of a run cost and gave, between two lines of its log."""

from __future__ import annotations

import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Meter:
    """Sums over steps until they are read; nothing waits for a GPU before that."""

    def __init__(
        self, device: torch.device, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Begin; `device` is where the network is, `clock` returns seconds."""
        self._device, self._clock = device, clock
        self._begin()

    def _begin(self) -> None:
        self._steps = self._views = self._forwards = self._backwards = 0
        self._waited = 0.0
        self._facts: dict[str, list[Tensor | float]] = defaultdict(list)
        self._started = self._clock()

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield batches; the time until each is there counts as waiting for the loader."""
        pulled = iter(batches)
        while True:
            before = self._clock()
            try:
                batch = next(pulled)
            except StopIteration:
                return
            finally:
                self._waited += self._clock() - before
            yield batch

    def add(
        self, *, views: int, forwards: int, backwards: int, facts: Mapping[str, Tensor | float]
    ) -> None:
        """Count a step.

        Args:
            views: Number of images that were trained on.
            forwards: Of one view each, through a whole network.
            backwards: Likewise.
            facts: Scalars by name, such as "loss"; a step may lack some.
        """
        self._steps += 1
        self._views += views
        self._forwards += forwards
        self._backwards += backwards
        for name, value in facts.items():
            self._facts[name].append(value.detach() if isinstance(value, Tensor) else value)

    def read(self) -> dict[str, float]:
        """Return the means over the steps since the last reading, and begin anew.

        Facts are means over the steps that had them. Beside them there are `views_per_second`;
        `step_seconds`, `forwards` and `backwards` of a step; `wait_share`, the share of the time
        that went to waiting for the loader; and `peak_memory` in bytes, since the run began: of
        the GPU, else of the process.
        """
        found = {name: _mean(values) for name, values in self._facts.items()}
        seconds = max(self._clock() - self._started, 1e-9)
        steps = max(self._steps, 1)
        found |= {
            "views_per_second": self._views / seconds,
            "step_seconds": seconds / steps,
            "wait_share": self._waited / seconds,
            "forwards": self._forwards / steps,
            "backwards": self._backwards / steps,
            "peak_memory": peak_memory(self._device),
        }
        self._begin()
        return found


def _mean(values: list[Tensor | float]) -> float:
    tensors = [torch.as_tensor(value, dtype=torch.float64) for value in values]
    return float(torch.stack([each.cpu() for each in tensors]).mean())


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that torch had on a GPU, or that this process had in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
