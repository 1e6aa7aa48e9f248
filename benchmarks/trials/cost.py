"""What a step costs under each strategy, beside a plain step: time, forwards, memory.

The ratio of two arms is the median over turns of the ratio of CPU seconds of the same round; that
of clock seconds lies beside it in the JSON. Source of the claims: Pretraining with Hard Views,
table of slowdowns; counts in units of forwards as in its section 4.
"""

from __future__ import annotations

import csv
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trials.picked import pick
from trials.record import Line, Record, verdict
from trials.turns import Turn, take_turns
from trials.world import THREADS, config_of, store_of, train, with_views
from viewstore.store.store import Store, open_store
from viewstore.train.loop.config import PretrainConfig

ENDLESS = 1_000_000  # steps: the turns end a training
GOAL = 1.05
CANDIDATES = ("online:simclr",) * 4
PLAIN = ("online:simclr",) * 2
CACHED = ("cands",) * 2


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train, and the arm that its step is compared with.

    Attributes:
        views: As `--views` has them.
        strategy, given: Name of the strategy, and its settings.
        method, method_given: Likewise of the method.
        over: Name of the arm that it is divided by.
        claim: What is said of that ratio.
        goal: Greatest ratio that is asked for; None: none is.
        attacks: Views whose pixels get a gradient of their own: a backward that costs one forward.
    """

    views: tuple[str, ...]
    strategy: str = "standard"
    given: Mapping[str, Any] = field(default_factory=dict)
    method: str = "simclr"
    method_given: Mapping[str, Any] = field(default_factory=dict)
    over: str = "plain"
    claim: str = ""
    goal: float | None = None
    attacks: int = 0

    def config(self, backbone: str, batch_size: int) -> PretrainConfig:
        """Return its settings."""
        return config_of(
            *self.views,
            strategy=self.strategy,
            given=self.given,
            method=self.method,
            method_given=self.method_given,
            backbone=backbone,
            batch_size=batch_size,
            steps=ENDLESS,
        )


def _moco(claim: str, *, attacks: int = 0, **given: Any) -> Arm:  # noqa: ANN401
    strategy = "hexa" if given else "standard"
    return Arm(
        views=CACHED,
        strategy=strategy,
        given=given,
        method="moco-v2",
        method_given={"queue_size": 4096},
        claim=claim,
        attacks=attacks,
    )


def _hvp(every: int, claim: str) -> Arm:
    given = {"every": every, "log_every": 0}
    return Arm(views=CANDIDATES, strategy="hvp", given=given, claim=claim)


GROUPS: Mapping[str, Mapping[str, Arm]] = {
    "hvp": {
        "plain": Arm(views=PLAIN),
        "hvp every 1": _hvp(1, "1.64 (SimSiam RN50); 1.67 by count"),
        "hvp every 2": _hvp(2, "1.38; 1.33 by count"),
        "hvp every 3": _hvp(3, "1.32; 1.22 by count"),
        "hvp every 4": _hvp(4, "1.29; 1.17 by count"),
        "plain of cached views": Arm(views=CACHED, claim="-"),
        "hvp-cached": Arm(
            views=("cands@hard",) * 2,
            strategy="hvp",
            given={"source": "cached", "log_every": 100_000},
            over="plain of cached views",
            claim="<= 1.05 of plain (goal)",
            goal=GOAL,
        ),
    },
    "views": {
        "plain": Arm(views=PLAIN),
        "A1": Arm(
            views=("online:simclr", "gen"),
            strategy="a1",
            claim="<= 1.05 of plain (goal)",
            goal=GOAL,
        ),
        "A2, third expert view online": Arm(
            views=(*PLAIN, "online:simclr"), strategy="a2", claim="1.5 by count"
        ),
        "A2, generated view cached": Arm(
            views=(*PLAIN, "gen+flip"),
            strategy="a2",
            over="A2, third expert view online",
            claim="<= 1.05 of the online form (goal)",
            goal=GOAL,
        ),
    },
    "dssl": {
        "plain": Arm(views=CACHED),
        "DSSL, heavy views online": Arm(
            views=(*CACHED, "ra16/0", "ra16/1"), strategy="dssl", claim="2 by count"
        ),
        "DSSL, heavy views cached raw": Arm(
            views=(*CACHED, "heavy/0", "heavy/1"),
            strategy="dssl",
            over="DSSL, heavy views online",
            claim="<= 1.05 of the online form (goal)",
            goal=GOAL,
        ),
        "DSSL, heavy views cached as recipes": Arm(
            views=(*CACHED, "recipe/0", "recipe/1"),
            strategy="dssl",
            over="DSSL, heavy views online",
            claim="<= 1.05 of the online form (goal)",
            goal=GOAL,
        ),
        "graded": Arm(
            views=CACHED,
            strategy="graded",
            given={"align_scale": "exact"},
            claim="no forward more",
            goal=GOAL,
        ),
    },
    "hexa": {
        "plain": _moco(""),
        "adv": _moco("2.25 by count", attacks=1, a1=1.0),
        "adv, attack_bn clean": _moco("2 by count", attacks=1, a1=1.0, attack_bn="clean"),
        "cmx": _moco("1.75 by count", a1=0.0, a2=1.0),
        "adv+cmx": _moco("3 by count", attacks=1, a1=1.0, a2=1.0),
    },
}


def prepare(out: Path, source: str, rows: int) -> Store:
    """Build the store that all arms read: candidates, a choice of them, generated and heavy views.

    The choice is drawn by chance: what a step costs does not depend on which views it shows. The
    "generated" view is the source image: no generator of such images is trained here.
    """
    store = store_of(out, source, rows, views=4)
    pick(store, "cands", "hard")
    files = f"{source}:{{key}}.jpg"  # of a tar in the form of WebDataset
    with_views(out, "import", "gen", files=files, role="generated", views=1)
    with_views(out, "heavy", "heavy", of="cands", views=4)
    return with_views(out, "heavy", "recipe", codec="params", of="cands", views=4)


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


def peak_of(store: Path, group: str, name: str, options: Mapping[str, Any]) -> int:
    """Return the peak memory in bytes of this process, which trains a few steps of an arm."""
    torch.set_num_threads(THREADS)
    arm = GROUPS[group][name]
    config = arm.config(options["backbone"], options["batch_size"])
    with tempfile.TemporaryDirectory() as folder:
        config = replace(config, steps=options["steps"])
        train(open_store(store), config, Path(folder), selection=False)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def report_memory(record: Record, options: Mapping[str, Any]) -> None:
    """Measure the peak memory of each arm in a process of its own, beside that of its plain arm."""
    settings = {name: options[name] for name in ("backbone", "batch_size", "steps")}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    script = Path(sys.argv[0]).resolve()
    found: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = prepare(Path(folder) / "store", options["source"], options["rows"])
        for group, arms in GROUPS.items():
            found[group] = {}
            for name in arms:
                command = [sys.executable, script, "peak", store.root, group, name, *flags]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found[group][name] = int(done.stdout)
    record.facts |= {"settings": settings | {"rows": options["rows"]}, "peak_bytes": found}
    for group, arms in GROUPS.items():
        plain = found[group]["plain"]
        for name in arms:
            if name != "plain":
                peak = found[group][name]
                record.lines.append(
                    Line(
                        experiment=f"peak memory of {name}, {options['backbone']}, batch "
                        f"{options['batch_size']}",
                        claim="reported",
                        ours=f"{peak / 2**20:.0f} MiB, {peak / plain:.2f} of plain "
                        f"({plain / 2**20:.0f} MiB), the process with torch",
                        n="1 process",
                        interval="none: one process",
                        steps=options["steps"],
                        verdict="-",
                    )
                )
