"""Which slice of a build this process is: as `--shard I/N` says, or the scheduler that started it.

Slice (i, n) has the shards whose number modulo n is i. Pure: the environment is handed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from viewstore.errors import ConfigError

AUTO = "auto"
OURS = "VIEWSTORE_SHARD"
COUNT = "VIEWSTORE_SHARDS"
ARRAY = "SLURM_ARRAY_TASK_"
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
_SLICE = re.compile(r"(\d{1,9})/(\d{1,9})", re.ASCII)

Slice = tuple[int, int]
Values = Mapping[str, str]


class Scheduler(NamedTuple):
    """Variables that say together which slice a process is, and how."""

    names: tuple[str, ...]
    slice_of: Callable[[Values], Slice]


def shards_of(part: Slice, shards: int) -> range:
    """Return which of the shards 0 to `shards` - 1 a slice has."""
    index, count = part
    return range(index, shards, count)


def slices_of(shards: Iterable[int], count: int) -> list[int]:
    """Return which of `count` slices have any of these shards, ascending."""
    return sorted({shard % count for shard in shards})


def parse_slice(text: str, name: str = "--shard") -> Slice:
    """Return (i, n) of "i/n", 0 <= i < n; `name` is what the text was given by."""
    match = _SLICE.fullmatch(text)
    if match is None or not int(match[1]) < int(match[2]):
        raise ConfigError(
            f"{name} must be I/N with 0 <= I < N, got {text[:60]!r}",
            where=f"{name} {text[:60]}",
            fix="give 0/4 for the first of four slices, and 3/4 for the last",
        )
    return int(match[1]), int(match[2])


def slice_by(environment: Values) -> tuple[Slice, str]:
    """Return the slice that the first complete set of variables says, and the set in words.

    A variable that is set and empty counts as none.

    Raises:
        ConfigError: There is no set, half a set before the first whole one, or one that says no
            slice.
    """
    values = {name: text for name, text in environment.items() if text}
    halves: list[tuple[str, ...]] = []
    for names, slice_of in SCHEDULERS:
        given = [name for name in names if name in values]
        if len(given) == len(names):
            for half in halves:  # one whose variables are all of this set, too, is none
                if any(name in values and name not in names for name in half):
                    raise _half(half, values)
            index, count = slice_of(values)
            said = ", ".join(f"{name}={values[name]}" for name in names)
            return (index, count), f"slice {index} of {count}, by {said}"
        if given:
            halves.append(names)
    if halves:
        raise _half(halves[0], values)
    raise ConfigError(
        f"--shard {AUTO} finds no variable that says which slice this is",
        where=f"--shard {AUTO}",
        why="it looks for " + "; ".join(" and ".join(names) for names, _ in SCHEDULERS),
        fix="give --shard I/N, or set VIEWSTORE_SHARD=I/N",
    )


def _half(names: tuple[str, ...], values: Values) -> ConfigError:
    given = [name for name in names if name in values]
    missing = [name for name in names if name not in values]
    are = "is" if len(missing) == 1 else "are"
    return ConfigError(
        f"--shard {AUTO} finds half of what says which slice this is: {' and '.join(missing)} "
        f"{are} not set",
        where=", ".join(f"{name}={values[name]}" for name in given),
        why=f"{' and '.join(names)} say it together",
        fix=f"set {' and '.join(missing)}, or give --shard I/N",
    )


def _ours(values: Values) -> Slice:
    return parse_slice(values[OURS], OURS)


def _slurm(values: Values) -> Slice:
    task, least, most, count = (_number(values, ARRAY + each) for each in ARRAY_FACTS)
    if most - least + 1 != count:
        raise ConfigError(
            f"a Slurm array with gaps does not say which slice a task is: {count} tasks from "
            f"{least} to {most}",
            where=f"{ARRAY}COUNT={count}",
            why="an array of some tasks, submitted again, has another count and other slices",
            fix=f'--shard "${ARRAY}ID/N", where N is the number of slices of the first array',
        )
    return _checked(task - least, count, values, (ARRAY + "ID", ARRAY + "MIN", ARRAY + "COUNT"))


def _indexed(index: str, count: str) -> Scheduler:
    def slice_of(values: Values) -> Slice:
        return _checked(_number(values, index), _number(values, count), values, (index, count))

    return Scheduler((index, count), slice_of)


def _checked(index: int, count: int, values: Values, names: tuple[str, ...]) -> Slice:
    if not 0 <= index < count:
        there = f"they are numbered 0 to {count - 1}" if count else "of 0 there is none"
        raise ConfigError(
            f"there is no slice {index} of {count}: {there}",
            where=", ".join(f"{name}={values[name]}" for name in names),
            fix="set them as the scheduler would, or give --shard I/N",
        )
    return index, count


def _number(values: Values, name: str) -> int:
    if not _NUMBER.fullmatch(values[name]):
        raise ConfigError(
            f"{name} must be a whole number, got {values[name][:60]!r}",
            where=name,
            fix="give --shard I/N",
        )
    return int(values[name])


ARRAY_FACTS = ("ID", "MIN", "MAX", "COUNT")
SCHEDULERS = (  # in this order
    Scheduler((OURS,), _ours),
    Scheduler(tuple(ARRAY + each for each in ARRAY_FACTS), _slurm),
    _indexed("JOB_COMPLETION_INDEX", COUNT),  # a Kubernetes Indexed Job
    _indexed("AWS_BATCH_JOB_ARRAY_INDEX", COUNT),
    _indexed("RANK", "WORLD_SIZE"),  # torchrun
)
