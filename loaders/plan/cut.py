"""The cut of an epoch into steps, and of each step into the parts of the ranks."""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.loaders.plan.numbers import whole_number

Tail = Literal["drop", "pad", "keep"]
Positions = NDArray[np.int64]
LAUNCHERS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")  # how many processes each started


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The steps of an epoch, and the part of each step that one rank reads.

    Attributes:
        num_rows: Rows of an epoch, n.
        global_batch: Samples per step over all ranks, G.
        tail: What becomes of the last, short step: "drop" it, "pad" it from the start of the
            epoch with valid = False, or "keep" it short, for evaluation.
        rank, world_size: Ranks cut a step in rank order.
        uneven: Whether the first ranks may take one sample more than the others.

    Raises:
        ConfigError: The settings contradict each other, or leave no step.
    """

    num_rows: int
    global_batch: int
    tail: Tail = "drop"
    rank: int = 0
    world_size: int = 1
    uneven: bool = False

    def __post_init__(self) -> None:
        if self.tail not in ("drop", "pad", "keep"):
            raise ConfigError(f"tail must be drop, pad or keep, got {self.tail!r}")
        if self.global_batch < 1:
            raise ConfigError(f"batch_size must be at least 1, got {self.global_batch}")
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(f"rank must be in [0, {self.world_size}), got {self.rank}")
        if self.global_batch % self.world_size and not self.uneven:
            raise ConfigError(self._uneven_message())
        if self.steps == 0:
            raise ConfigError(
                f"batch_size must be at most the {self.num_rows} rows of an epoch where the "
                f"tail is dropped, got {self.global_batch}",
                where="batch_size",
                fix="give a smaller one, or pass tail='pad'",
            )

    @property
    def steps(self) -> int:
        """Steps per epoch, T, the same on every rank."""
        if self.tail == "drop":
            return self.num_rows // self.global_batch
        return -(-self.num_rows // self.global_batch)

    def step_size(self, step: int) -> int:
        """Return the samples of a step over all ranks, g."""
        if self.tail == "keep":
            return min(self.global_batch, self.num_rows - step * self.global_batch)
        return self.global_batch

    def positions(self, step: int) -> tuple[Positions, NDArray[np.bool_]]:
        """Return the positions of a step that this rank reads, and which are not padding; [B].

        Padding takes the positions at the start of the epoch.
        """
        span = self.span(step)
        raw = np.arange(span.start, span.stop, dtype=np.int64)
        return raw % max(1, self.num_rows), raw < self.num_rows

    def span(self, step: int) -> range:
        """Return the positions of a step that this rank reads; from `num_rows` on, padding."""
        share, extra = divmod(self.step_size(step), self.world_size)
        first = step * self.global_batch + self.rank * share + min(self.rank, extra)
        return range(first, first + share + (self.rank < extra))

    def weight(self, step: int) -> float:
        """Return this rank's weight in the mean of the ranks' gradients; 1 in an even cut."""
        return len(self.span(step)) * self.world_size / self.step_size(step)

    def _uneven_message(self) -> str:
        batch, world = self.global_batch, self.world_size
        worlds = [n for n in range(1, min(batch, 64) + 1) if batch % n == 0]
        below = batch - batch % world
        batches = [str(n) for n in (below, below + world) if n]
        return (
            f"batch_size is over all ranks and must be a multiple of world_size {world}, "
            f"got {batch}; use batch_size {' or '.join(batches)}, or one of the world sizes "
            f"{', '.join(map(str, worlds))}, or pass uneven=True"
        )


def find_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return rank and world size: as given, else RANK and WORLD_SIZE, else torch.distributed.

    Warns where a launcher started several processes and none of the three says so.

    Raises:
        ConfigError: One of the two is given without the other, or is not a number.
    """
    if rank is not None and world_size is not None:
        ranks = whole_number("world_size", world_size, least=1)
        return whole_number("rank", rank, least=0), ranks
    if rank is not None or world_size is not None:
        raise ConfigError(
            "rank and world_size must be given together, "
            f"got rank {rank} and world_size {world_size}"
        )
    given = [os.environ.get("RANK"), os.environ.get("WORLD_SIZE")]
    if given == [None, None]:
        found = distributed_rank()
        if found is None:
            _warn_of_launchers()
        return found or (0, 1)
    values = [int(text) for text in given if text is not None and text.isdecimal()]
    if len(values) != 2:
        raise ConfigError(
            "the environment must have RANK and WORLD_SIZE as numbers, or neither, "
            f"got RANK {given[0]!r} and WORLD_SIZE {given[1]!r}"
        )
    return values[0], values[1]


def local_ranks(world_size: int) -> int:
    """Return the ranks of this host: LOCAL_WORLD_SIZE, else all. Raises ConfigError."""
    text = os.environ.get("LOCAL_WORLD_SIZE", "")
    if not text:
        return world_size
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise ConfigError(
            f"LOCAL_WORLD_SIZE must be the number of ranks of this host, got {text!r}",
            where="LOCAL_WORLD_SIZE",
        )
    return int(text)


def distributed_rank() -> tuple[int, int] | None:
    """Return rank and world size of torch.distributed; None before it was set up."""
    distributed = sys.modules.get("torch.distributed")  # who set it up has imported it
    if distributed and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return None


def check_found_rank(rank: int, world_size: int) -> None:
    """Raise ConfigError if torch.distributed knows another rank than `find_rank` found before."""
    now = distributed_rank()
    if now is not None and now != (rank, world_size):
        raise ConfigError(
            f"the loader reads as rank {rank} of {world_size}, torch.distributed has rank "
            f"{now[0]} of {now[1]}",
            why="it was set up after the loader was made: every rank would read the same rows",
            fix="make the loader after init_process_group, or pass rank= and world_size=",
        )


def _warn_of_launchers() -> None:
    for name in LAUNCHERS:
        tasks = os.environ.get(name, "")
        if tasks.isdecimal() and int(tasks) > 1:
            warnings.warn(
                f"{name} says that this job has {tasks} processes; the loader reads as the only "
                "one. Pass rank= and world_size=, or make it after init_process_group",
                stacklevel=2,
            )
            return
