"""A pool that evaluates points of many samples, at one constant tensor shape.

A sample is a coroutine: it asks for points and is sent what they evaluate to, as often as it
likes. Each pass takes points of several samples, as many as fit, so no pass waits for the slowest.
Nothing couples samples: a point evaluates to the same bits in every lane and any company, as long
as the shape is the same. Lanes without a point compute another one once more.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

Start = TypeVar("Start")
End = TypeVar("End")

Points = Generator[Tensor, Tensor, End]  # asks for points [k, ...], is sent values [k, E]


@dataclass(eq=False)
class _Walk(Generic[End]):
    """A coroutine, the points that it waits for and the values that are there so far."""

    points: Points[End]
    waiting: Tensor
    seen: list[Tensor] = field(default_factory=list)


class Lanes(Generic[Start, End]):
    """F lanes, a point in each. All samples must ask for points of the same shape.

    The caller fills and steps, in turns, until the pool is not busy.
    """

    def __init__(
        self,
        *,
        lanes: int,
        evaluate: Callable[[Tensor], Tensor],
        begin: Callable[[Start], Points[End]],
    ) -> None:
        """Make an empty pool.

        Args:
            lanes: F, constant: another number rounds differently.
            evaluate: Values [F, E] of points [F, ...]; row i may only depend on point i.
            begin: Makes the coroutine of a sample that comes in.
        """
        self._lanes = lanes
        self._evaluate = evaluate
        self._begin = begin
        self._walks: list[_Walk[End]] = []
        self._ended: list[End] = []  # those that asked for nothing

    @property
    def free(self) -> int:
        """Lanes for which no sample waits with a point."""
        return max(0, self._lanes - sum(len(walk.waiting) for walk in self._walks))

    @property
    def busy(self) -> int:
        """Samples that have come in and not ended."""
        return len(self._walks) + len(self._ended)

    def fill(self, queue: Iterator[Start]) -> None:
        """Pull samples until every lane has a point, as far as there are samples."""
        while self.free:
            start = next(queue, None)
            if start is None:
                return
            points = self._begin(start)
            try:
                self._walks.append(_Walk(points, next(points)))
            except StopIteration as end:
                self._ended.append(end.value)

    @torch.no_grad()
    def step(self) -> list[End]:
        """Evaluate the points of one pass, of the first samples first; return what has ended."""
        ended, self._ended = self._ended, []
        taken = self._taken()
        if not taken:
            return ended
        points = torch.cat([points for _, points in taken])
        padding = points[-1:].expand(self._lanes - len(points), *points.shape[1:])
        values = self._evaluate(torch.cat([points, padding]))
        first = 0
        for walk, points in taken:
            walk.seen.append(values[first : first + len(points)])
            walk.waiting = walk.waiting[len(points) :]
            first += len(points)
            if not len(walk.waiting):
                try:
                    walk.waiting, walk.seen = walk.points.send(torch.cat(walk.seen)), []
                except StopIteration as end:
                    self._walks.remove(walk)
                    ended.append(end.value)
        return ended

    def _taken(self) -> list[tuple[_Walk[End], Tensor]]:
        """Return the samples of the next pass, each with the points that are evaluated."""
        taken, room = [], self._lanes
        for walk in self._walks:
            if not room:
                break
            points = walk.waiting[:room]
            taken.append((walk, points))
            room -= len(points)
        return taken
