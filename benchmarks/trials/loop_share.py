"""What the loop itself costs: the share of a step that is neither forward, backward nor optimizer.

The profiler of Python's own library counts what the loop calls in the training thread, as it is,
with a line of metrics.csv for every step. The wait for the very first batch, in which the loader
starts, is not of a step: it lies beside the shares in the JSON.
"""

from __future__ import annotations

import cProfile
import csv
import pstats
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trials.record import Line, Record
from trials.world import THREADS, config_of, store_of, train
from viewstore.store.store import Store

GOAL, WAIT_GOAL = 0.05, 0.02
LOOP = ("pretrain.py", "_train")
# The visible lines of the loop, by the file and function that they call.
PARTS: Mapping[tuple[str, str], str] = {
    ("module.py", "_wrapped_call_impl"): "forward",
    ("scaling.py", "backward"): "backward",
    ("scaling.py", "step"): "optimizer",
    ("optimizer.py", "zero_grad"): "optimizer",
    ("meter.py", "waiting"): "waiting for the loader",
    ("views.py", "views_of"): "views",
    ("base.py", "annotate"): "views",
    ("views.py", "parts"): "views",
    ("base.py", "plan"): "plan",
    ("optim.py", "apply"): "learning rate",
    ("watch.py", "step"): "watch: losses, logs, progress, checkpoint",
    ("base.py", "gradients_ready"): "commit",
    ("base.py", "commit"): "commit",
}
WORK = ("forward", "backward", "optimizer")


def parts_of(profile: cProfile.Profile) -> dict[str, float]:
    """Return the seconds of each part of the loop; "the loop's own lines" are the rest of it."""
    stats: Any = pstats.Stats(profile)
    (loop,) = [key for key in stats.stats if (Path(key[0]).name, key[2]) == LOOP]
    found: dict[str, float] = defaultdict(float)
    for key, (*_, callers) in stats.stats.items():
        if loop in callers:
            name = PARTS.get((Path(key[0]).name, key[2]), "the loop's own lines")
            found[name] += callers[loop][3]
    found["the loop's own lines"] += stats.stats[loop][2]  # it frees the graph of a step, too
    return dict(found)


def measure(store: Store, *, backbone: str, batch_size: int, steps: int) -> dict[str, Any]:
    """Return the seconds of a step by part, and what the run's log says of waiting."""
    config = config_of(
        "online:simclr",
        "online:simclr",
        backbone=backbone,
        batch_size=batch_size,
        steps=steps,
    )
    profile = cProfile.Profile()
    with tempfile.TemporaryDirectory() as folder:
        profile.enable()
        try:
            train(store, config, Path(folder), log=("csv",), log_every=1)
        finally:
            profile.disable()
        with (Path(folder) / "metrics.csv").open() as file:
            logged = list(csv.DictReader(file))
    seconds = {name: spent / steps for name, spent in parts_of(profile).items()}
    waits = [float(line["wait_share"]) * float(line["step_seconds"]) for line in logged]
    whole = [float(line["step_seconds"]) for line in logged]
    seconds["waiting for the loader"] -= waits[0] / steps
    return {
        "seconds_per_step": seconds,
        "share": 1 - sum(seconds[name] for name in WORK) / sum(seconds.values()),
        "first_wait_seconds": waits[0],
        "wait_share": sum(waits[1:]) / sum(whole[1:]),
    }


def report(record: Record, options: Mapping[str, Any]) -> None:
    """Profile a training of each backbone, and say what its loop costs."""
    torch.set_num_threads(THREADS)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        store = store_of(Path(folder) / "store", options["source"], options["rows"], views=1)
        for word in options["runs"]:
            backbone, steps = word.split(":")
            found[backbone] = measure(
                store, backbone=backbone, batch_size=options["batch_size"], steps=int(steps)
            )
            each = found[backbone]
            ours = 1000 * each["share"] * sum(each["seconds_per_step"].values())
            size = f"{backbone}, batch {options['batch_size']}"
            for name, key, goal in (
                ("share of a step outside forward, backward, optimizer", "share", GOAL),
                (
                    "share of waiting for the loader, after the first step",
                    "wait_share",
                    WAIT_GOAL,
                ),
            ):
                more = f" ({ours:.0f} ms a step)" if key == "share" else ""
                record.lines.append(
                    Line(
                        experiment=f"{name}: {size}",
                        claim=f"<= {goal:.0%} (goal)",
                        ours=f"{each[key]:.2%}{more}",
                        n="1 run",
                        interval="none: one run",
                        steps=int(steps),
                        verdict="yes" if each[key] <= goal else "no",
                    )
                )
    record.facts |= {"runs": found}
