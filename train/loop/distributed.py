"""The process group of a training: joined where torchrun has started several processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import distributed as dist

from viewstore.errors import ConfigError, UnavailableError
from viewstore.train.distributed import rank, world_size

COUNTS = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
PLACE = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # of torchrun


class Ranks(NamedTuple):
    """The place of this process among those that train together, and its device."""

    rank: int
    world_size: int
    device: torch.device


@contextmanager
def joined(environment: Mapping[str, str], device: str) -> Iterator[Ranks]:
    """Join the processes that torchrun started for one training; leave them after the block.

    One process alone joins nothing. A process group that exists already is taken as it is and
    outlives the block.

    Args:
        environment: os.environ; torch itself reads MASTER_ADDR and MASTER_PORT from there.
        device: A torch device; of several processes on "cuda" each takes the GPU LOCAL_RANK.

    Raises:
        ConfigError: Several processes were started and this one cannot know its place.
        UnavailableError: The processes do not find each other, or cannot exchange tensors.
    """
    if world_size() > 1:
        yield Ranks(rank(), world_size(), _own(environment, torch.device(device)))
        return
    place = _place(environment)
    if place is None:
        yield Ranks(0, 1, torch.device(device))
        return
    own = _own(environment, torch.device(device))
    try:
        _join(*place, own)
        yield Ranks(*place, own)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def check_alone(environment: Mapping[str, str]) -> None:
    """Raise ConfigError if a launcher has started this process beside others that train the same.

    Each would train a model of its own, and all would write them to one place.
    """
    if found := _several(environment):
        raise ConfigError(
            f"training is not distributed, and {found[0]} says that {found[1]} processes train",
            where=found[0],
            why="each would train a model of its own and write it to the same --out",
            fix="start one process, without torchrun, mpirun or srun -n",
        )


def _several(environment: Mapping[str, str]) -> tuple[str, int] | None:
    """Return the variable that says that several processes were started, and how many."""
    for name in COUNTS:
        count = environment.get(name, "")
        if count.isdecimal() and int(count) > 1:
            return name, int(count)
    return None


def _place(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """Return rank and world size; None for one process alone. Raises ConfigError."""
    found = _several(environment)
    if found is None:
        return None
    name, count = found
    lacking = [key for key in PLACE if not environment.get(key)]
    if name != "WORLD_SIZE" or lacking:
        raise ConfigError(
            f"{name} says that {count} processes train, and not which of them this is",
            where=name,
            why="each would train a model of its own and write it to the same --out"
            + (f"; {' and '.join(lacking)} must be set, as torchrun does" if lacking else ""),
            fix="start one process, without mpirun or srun -n, or several with torchrun",
        )
    return _number(environment, "RANK", count), count


def _number(environment: Mapping[str, str], name: str, limit: int) -> int:
    """Return a number below `limit` of the environment. Raises ConfigError."""
    text = environment.get(name, "")
    if not (text.isascii() and text.isdecimal() and int(text) < limit):
        raise ConfigError(
            f"{name} must be a whole number below {limit}, got {text!r}",
            where=name,
            fix="start the processes with torchrun, which sets it",
        )
    return int(text)


def _own(environment: Mapping[str, str], device: torch.device) -> torch.device:
    """Return the device of one of several processes: no two share a GPU. Raises ConfigError."""
    if device.type != "cuda":
        return device
    if device.index is not None:
        raise ConfigError(
            f"device must be cuda where several processes train, got {device}",
            why="each trains on a GPU of its own, the one with the number LOCAL_RANK",
            fix="give --device cuda",
        )
    there = torch.cuda.device_count()
    own = _number(environment, "LOCAL_RANK", sys.maxsize)
    if own >= there:
        raise ConfigError(
            f"process {own} of this machine needs a GPU of its own, and there are {there}",
            where="LOCAL_RANK",
            fix=f"give torchrun --nproc-per-node {there}" if there else "give --device cpu",
        )
    return torch.device("cuda", own)


def _join(rank: int, count: int, device: torch.device) -> None:
    """Form the process group, over gloo for tensors of the CPU and nccl for those of GPUs."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, rank=rank, world_size=count)
    except (RuntimeError, ValueError) as error:
        raise UnavailableError(
            f"the {count} processes of this training cannot talk to each other: {error}",
            where="MASTER_ADDR",
            fix="see that all of them run and reach MASTER_ADDR at MASTER_PORT",
        ) from error
