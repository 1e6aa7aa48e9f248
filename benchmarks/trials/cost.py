"""What a step costs under each strategy, beside a plain step: time and forwards.

The ratio of two arms is the median over rounds of the ratio of CPU seconds of one round; that of
clock seconds lies beside it in the JSON. Source of the claims: Pretraining with Hard Views, table
of slowdowns; counts are in units of forwards.
"""

from __future__ import annotations

import csv
import statistics
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trials.arms import GROUPS, Arm, prepare
from trials.record import Line, Record, verdict
from trials.turns import Turn, take_turns
from trials.world import THREADS, train
from viewstore.store.store import Store


def measure(
    store: Store,
    arms: Mapping[str, Arm],
    *,
    backbone: str,
    batch_size: int,
    steps: int,
    rounds: int,
) -> dict[str, Any]:
    """Return what the steps of each arm took, and what its log counted."""
    with tempfile.TemporaryDirectory() as folder:
        outs = {name: Path(folder) / str(place) for place, name in enumerate(arms)}

        def training(name: str) -> Callable[[Callable[[], bool]], object]:
            run = partial(
                train,
                store,
                arms[name].config(backbone, batch_size),
                outs[name],
                log=("csv",),
                log_every=steps,
                selection=False,
            )
            return lambda stop: run(stop=stop)

        turns = take_turns({name: training(name) for name in arms}, steps=steps, rounds=rounds)
        return {name: _found(turns[name], steps, outs[name]) for name in arms}


def _found(turns: list[Turn], steps: int, out: Path) -> dict[str, Any]:
    with (out / "metrics.csv").open() as file:
        logged = list(csv.DictReader(file))[1:]  # without the round that warms up
    return {
        "seconds_per_step": [turn.seconds / steps for turn in turns],
        "cpu_seconds_per_step": [turn.cpu_seconds / steps for turn in turns],
        "forwards": statistics.fmean(float(line["forwards"]) for line in logged),
        "backwards": statistics.fmean(float(line["backwards"]) for line in logged),
    }


def ratios(found: Mapping[str, Any], name: str, over: str, key: str) -> list[float]:
    """Return the ratio of two arms in each round."""
    return [a / b for a, b in zip(found[name][key], found[over][key], strict=True)]


def units(found: Mapping[str, Any], arm: Arm) -> float:
    """Return the cost of a step by count, in forwards; a backward is two, to pixels alone one."""
    return float(found["forwards"] + 2 * found["backwards"] + arm.attacks)


def report(record: Record, options: Mapping[str, Any]) -> None:
    """Measure one group of arms, and say how their steps compare."""
    group = options["group"]
    arms = {name: GROUPS[group][name] for name in options["only"] or GROUPS[group]}
    torch.set_num_threads(THREADS)
    settings = {name: options[name] for name in ("backbone", "batch_size", "steps", "rounds")}
    with tempfile.TemporaryDirectory() as folder:
        store = prepare(Path(folder) / "store", options["source"], options["rows"])
        found = measure(store, arms, **settings)
    record.facts |= {"settings": settings | {"rows": options["rows"]}, "arms": found}
    for name, arm in arms.items():
        if name == arm.over:
            continue
        cpu = ratios(found, name, arm.over, "cpu_seconds_per_step")
        clock = ratios(found, name, arm.over, "seconds_per_step")
        low, high = interval_of_median(cpu)
        middle = statistics.median(cpu)
        counted = units(found[name], arm) / units(found[arm.over], arms[arm.over])
        record.lines.append(
            Line(
                experiment=f"step of {name} over {arm.over}, {options['backbone']}",
                claim=arm.claim,
                ours=f"{middle:.3f} of CPU ({statistics.median(clock):.3f} by the clock; "
                f"{counted:.2f} by count)",
                n=f"{len(cpu)} rounds",
                interval=f"{low:.3f}-{high:.3f}, of the median",
                steps=options["steps"] * options["rounds"],
                verdict="-" if arm.goal is None else verdict((low, high), 0, arm.goal),
            )
        )


def interval_of_median(values: list[float]) -> tuple[float, float]:
    """Return an interval of the median, by order statistics: at least 95 % from 6 values on.

    Of so few values it is the least and the greatest.
    """
    ordered, count = sorted(values), len(values)
    tail, place = 0.0, 0
    for below in range(count):
        tail += _binomial(count, below)
        if tail > 0.025:
            break
        place = below + 1
    place = max(place - 1, 0)
    return ordered[place], ordered[count - 1 - place]


def _binomial(count: int, below: int) -> float:
    ways = 1.0
    for each in range(below):
        ways = ways * (count - each) / (each + 1)
    return float(ways * 0.5**count)
