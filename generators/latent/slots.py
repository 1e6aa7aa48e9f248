"""A pool of slots that optimises one sample in each, at one constant tensor shape.

A sample that is done leaves at once and the next one takes its slot. Nothing couples slots: the
loss is summed, each slot has its own Adam state and step counter, and slots that have run out of
samples keep computing, because a batch of another size would round differently.
Source of the updates: Adam, arXiv:1412.6980, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Job = TypeVar("Job")

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class Objective(Protocol):
    """What is minimised; slot i may only depend on latents[i] and targets[...][i]."""

    def __call__(self, latents: Tensor, targets: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return the loss of each slot [P] and what its judge decides by [P, ...], float32.

        `latents`: float32 [P, n, L, D]; `targets`: those of the samples, stacked.
        """


@dataclass(frozen=True, eq=False)
class AdamState:
    """Where the optimisation of one sample is, for going on in another pool.

    Attributes:
        steps: Updates made so far.
        mean, square: Moving averages of the gradient and of its square, [n, L, D].
        first: What the objective measured before the first update.
    """

    steps: int
    mean: Tensor
    square: Tensor
    first: NDArray[np.float32]

    @classmethod
    def new(cls, latents: Tensor, first: NDArray[np.float32]) -> AdamState:
        """Return the state before the first update of latents that were judged elsewhere."""
        still = torch.zeros_like(latents)
        return cls(steps=0, mean=still, square=still, first=first)


@dataclass(frozen=True, eq=False)
class Start(Generic[Job]):
    """A sample on its way into a slot.

    Attributes:
        job: The caller's own; handed to the judge and back.
        latents: Where to start, float32 [n, L, D].
        target: The sample's part of each of the objective's targets.
        state: State to go on with. Its latents were judged already, so they are updated
            before they are judged again.
    """

    job: Job
    latents: Tensor
    target: tuple[Tensor, ...]
    state: AdamState | None = None


@dataclass(frozen=True, eq=False)
class Finished(Generic[Job]):
    """A sample that left its slot.

    Attributes:
        start: As it came in.
        latents: Those that were evaluated and judged last, not updated ones; float32 [n, L, D].
        last: What the objective measured of them.
        reached: Whether the judge accepted; not after `max_steps`, or if `last` is not finite.
        state: Adam's state at these latents.
    """

    start: Start[Job]
    latents: Tensor
    last: NDArray[np.float32]
    reached: bool
    state: AdamState


@dataclass(eq=False)
class _Slot(Generic[Job]):
    start: Start[Job]
    steps: int
    first: NDArray[np.float32] | None
    judged_before: bool


class SlotPool(Generic[Job]):
    """P slots of n views each. All samples must bring tensors of the same shapes.

    The caller fills free slots and steps, in turns, until no slot is busy.
    """

    def __init__(
        self,
        *,
        slots: int,
        lr: float,
        max_steps: int,
        objective: Objective,
        judge: Callable[[Job, NDArray[np.float32]], bool],
    ) -> None:
        """Make an empty pool.

        Args:
            slots: P, constant: another number rounds differently.
            lr: Of Adam.
            max_steps: Updates after which a sample leaves its slot in any case; 0 judges the
                latents that it brings.
            objective: What is minimised.
            judge: Whether a sample may leave, given what the objective measured of it.
        """
        self._slots: list[_Slot[Job] | None] = [None] * slots
        self._lr = lr
        self._max_steps = max_steps
        self._objective = objective
        self._judge = judge
        self._latents = torch.empty(0)
        self._mean = torch.empty(0)
        self._square = torch.empty(0)
        self._targets: tuple[Tensor, ...] = ()

    @property
    def free(self) -> int:
        """Slots without a sample."""
        return self._slots.count(None)

    @property
    def busy(self) -> int:
        """Slots with a sample."""
        return len(self._slots) - self.free

    def fill(self, queue: Iterator[Start[Job]]) -> None:
        """Pull as many samples as there are free slots."""
        for start in islice(queue, self.free):
            self._put(self._slots.index(None), start)

    def step(self) -> list[Finished[Job]]:
        """Evaluate every slot, take out those that are done, and update the others."""
        if not self._max_steps:  # what is evaluated may then have no gradient
            with torch.no_grad():
                _, measured = self._objective(self._latents, self._targets)
            return self._leave(measured.cpu().numpy())
        with torch.enable_grad():
            latents = self._latents.requires_grad_()
            loss, measured = self._objective(latents, self._targets)
            (gradient,) = torch.autograd.grad(loss.sum(), latents)
        self._latents = latents.detach()
        finished = self._leave(measured.detach().cpu().numpy())
        self._update(gradient)
        return finished

    def _put(self, slot: int, start: Start[Job]) -> None:
        if not len(self._latents):
            self._allocate(start)
        state = start.state
        self._latents[slot] = start.latents
        for all_slots, one in zip(self._targets, start.target, strict=True):
            all_slots[slot] = one
        self._mean[slot] = 0 if state is None else state.mean
        self._square[slot] = 0 if state is None else state.square
        self._slots[slot] = _Slot(
            start=start,
            steps=0 if state is None else state.steps,
            first=None if state is None else state.first,
            judged_before=state is not None,
        )

    def _allocate(self, start: Start[Job]) -> None:
        """Give every slot the first sample: idle slots compute something harmless."""
        slots = len(self._slots)
        self._latents = start.latents.expand(slots, *start.latents.shape).clone()
        self._mean = torch.zeros_like(self._latents)
        self._square = torch.zeros_like(self._latents)
        self._targets = tuple(one.expand(slots, *one.shape).clone() for one in start.target)

    def _leave(self, measured: NDArray[np.float32]) -> list[Finished[Job]]:
        finished = []
        for number, (slot, values) in enumerate(zip(self._slots, measured, strict=True)):
            if slot is None:
                continue
            first = values.copy() if slot.first is None else slot.first
            slot.first = first
            finite = bool(np.isfinite(values).all())
            reached = finite and not slot.judged_before and self._judge(slot.start.job, values)
            slot.judged_before = False
            if reached or not finite or slot.steps >= self._max_steps:
                state = AdamState(
                    steps=slot.steps,
                    mean=self._mean[number].clone(),
                    square=self._square[number].clone(),
                    first=first,
                )
                latents, last = self._latents[number].clone(), values.copy()
                finished.append(
                    Finished(
                        start=slot.start, latents=latents, last=last, reached=reached, state=state
                    )
                )
                self._slots[number] = None
        return finished

    def _update(self, gradient: Tensor) -> None:
        """Make one Adam step in each busy slot, corrected for the slot's own age."""
        rate = np.zeros(len(self._slots))
        root = np.ones(len(self._slots))
        for number, slot in enumerate(self._slots):
            if slot is not None:
                slot.steps += 1
                rate[number] = self._lr / (1 - BETA1**slot.steps)
                root[number] = (1 - BETA2**slot.steps) ** 0.5
        self._mean.lerp_(gradient, 1 - BETA1)
        self._square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        spread = self._square.sqrt().div_(self._per_slot(root)).add_(EPSILON)
        self._latents.addcdiv_(self._mean * self._per_slot(rate), spread, value=-1)

    def _per_slot(self, values: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(values).to(self._latents).view(-1, 1, 1, 1)
