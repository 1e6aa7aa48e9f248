"""What the laws of the order are put to: the plan of a rank, ours and three naive ones.

A plan says which rows a rank reads from a state on, and the state after each step.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from viewstore.loaders.plan.ahead import SamplePlan, StepPlanner
from viewstore.loaders.plan.cut import Cut, Tail
from viewstore.loaders.plan.order import Order
from viewstore.loaders.plan.state import State

Start = dict[str, Any]
Steps = Iterator[tuple[Start, list[int]]]


class Plan(Protocol):
    """Plans an epoch after another."""

    def start(self, seed: int, epoch: int) -> Start:
        """Return the state before the first step of an epoch."""

    def run(self, state: Start, rank: int, world_size: int) -> Steps:
        """Yield for each step up to the end of the epoch the state after it, and its rows."""


def _rows_alone(rows: NDArray[np.int64], epoch: int) -> SamplePlan:
    return SamplePlan(rows=rows, views=[], online=[], then=[])


@dataclass(frozen=True, kw_only=True)
class OurPlan:
    """The parts that plan a loader's steps, put together as in the loader."""

    num_rows: int
    global_batch: int
    shuffle: str = "global"
    tail: Tail = "keep"
    shard_rows: int = 64
    selected: tuple[int, ...] | None = None

    def start(self, seed: int, epoch: int) -> Start:
        return State(
            store="0" * 32,
            order=f"1:{self.shuffle}",
            seed=seed,
            epoch=epoch,
            step=0,
            G=self.global_batch,
            tail=self.tail,
            rows=None,
            views="0" * 16,
        ).to_json()

    def run(self, state: Start, rank: int, world_size: int) -> Steps:
        here = State.from_json(state)
        cut = Cut(
            num_rows=self.num_rows,
            global_batch=self.global_batch,
            tail=self.tail,
            rank=rank,
            world_size=world_size,
            uneven=True,
        )
        order = Order(
            shuffle=self.shuffle,
            num_rows=self.num_rows,
            seed=here.seed,
            shard_rows=self.shard_rows,
        )
        selected = None if self.selected is None else np.array(self.selected)
        planner = StepPlanner(order, cut, selected, _rows_alone, drawn_slots=1)
        for step in range(here.step, cut.steps):
            rows, valid = (
                planner.steps(here.epoch, range(step, step + 1)).rows,
                cut.positions(step)[1],
            )
            after = here.at(here.epoch, step + 1, steps=cut.steps)
            yield after.to_json(), rows[valid].tolist()


@dataclass(frozen=True, kw_only=True)
class AddedSeed:
    """Naive: the generator of an epoch is seeded with seed + epoch. All else is right."""

    num_rows: int
    global_batch: int

    def start(self, seed: int, epoch: int) -> Start:
        return {"seed": seed, "epoch": epoch, "step": 0}

    def run(self, state: Start, rank: int, world_size: int) -> Steps:
        generator = np.random.default_rng(state["seed"] + state["epoch"])
        rows = generator.permutation(self.num_rows).tolist()
        for step in range(state["step"], -(-self.num_rows // self.global_batch)):
            batch = rows[step * self.global_batch : (step + 1) * self.global_batch]
            yield {**state, "step": step + 1}, np.array_split(batch, world_size)[rank].tolist()


@dataclass(frozen=True, kw_only=True)
class ShuffleBuffer:
    """Naive: rows stream through a buffer, of which a state knows only how much was read."""

    num_rows: int
    global_batch: int
    buffer: int = 64

    def start(self, seed: int, epoch: int) -> Start:
        return {"seed": seed, "epoch": epoch, "read": 0}

    def run(self, state: Start, rank: int, world_size: int) -> Steps:
        chance = random.Random(f"{state['seed']},{state['epoch']}")
        read, held, batch = state["read"], list[int](), list[int]()
        while read < self.num_rows or held:
            while read < self.num_rows and len(held) < self.buffer:
                held.append(read)
                read += 1
            batch.append(held.pop(chance.randrange(len(held))))
            if len(batch) == self.global_batch or not held:
                yield {**state, "read": read}, np.array_split(batch, world_size)[rank].tolist()
                batch = []


@dataclass(frozen=True, kw_only=True)
class PerWorker:
    """Naive: each rank goes through its own part of the rows, and its state counts in it."""

    num_rows: int
    global_batch: int

    def start(self, seed: int, epoch: int) -> Start:
        return {"seed": seed, "epoch": epoch, "done": 0}

    def run(self, state: Start, rank: int, world_size: int) -> Steps:
        mine = list(range(self.num_rows))[rank::world_size]
        random.Random(f"{state['seed']},{state['epoch']}").shuffle(mine)
        size = max(1, self.global_batch // world_size)
        places = range(state["done"], len(mine), size)
        for begin, end in pairwise([*places, len(mine)]):
            yield {**state, "done": end}, mine[begin:end]
