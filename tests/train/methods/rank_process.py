"""One rank of a job of two: it takes a step of methods and writes gradients and queues.

python rank_process.py OUT, with what torchrun sets in the environment.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from tests.train.methods.scores import PlainNetwork, plain_method, standard_plan
from tests.train.world import SAMPLES, at, make_method, make_views
from viewstore.train.distributed import rank, world_size
from viewstore.train.loop.distributed import joined
from viewstore.train.methods.barlow_twins import BarlowTwinsSettings
from viewstore.train.methods.base import Method, MethodSettings
from viewstore.train.methods.moco_v2 import MoCoV2Settings
from viewstore.train.methods.simclr import SimCLRSettings
from viewstore.train.plan import Row

SETTINGS: dict[str, MethodSettings] = {
    "simclr": SimCLRSettings(),
    "simclr, other": SimCLRSettings(negatives="other"),
    "simclr, pool": SimCLRSettings(),
    "simclr, local": SimCLRSettings(gather="local"),
    "barlow-twins": BarlowTwinsSettings(redundancy_weight=0.3),
    "moco-v2": MoCoV2Settings(queue_size=3 * SAMPLES, symmetric=True),
}


def levels(pixels: Tensor) -> Tensor:
    """Return pixels in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def small(name: str) -> Method:
    """Return the same method on every rank."""
    torch.manual_seed(0)
    return plain_method(SETTINGS[name], PlainNetwork(3 * 4 * 4, 6), levels)


def step(name: str) -> dict[str, list[float]]:
    """Return gradients, scores and the queue of a step on the samples of this rank."""
    method = small(name)
    views = make_views(("expert", "expert"), side=4)
    views = views.parts(world_size())[rank()]
    plan = standard_plan(method, views)
    if "pool" in name:
        pairs = tuple(replace(pair, pool=(1, 0)) for pair in plan.pairs)
        plan = replace(plan, pairs=pairs)
    student, target = method.both(plan, "probe")
    scores = method.score(student, target, plan.pairs[0], plan)

    forward = (
        DistributedDataParallel(method, broadcast_buffers=False) if world_size() > 1 else method
    )
    embedded = forward(plan)
    embedded.loss.backward()
    method.commit([embedded], at())
    gradients = [each.grad for each in method.parameters() if each.grad is not None]
    return {
        "gradients": torch.cat([each.flatten() for each in gradients]).tolist(),
        "scores": (scores.pull + scores.push).tolist(),
        "buffers": [number for each in method.buffers() for number in each.flatten().tolist()],
    }


def keys() -> list[list[list[float]]]:
    """Return the keys of this rank's samples, [rows, B, D], of a network with batch norms."""
    method = make_method(MoCoV2Settings(queue_size=3 * SAMPLES))
    views = make_views(("expert", "expert")).parts(world_size())[rank()]
    found = method.encode(views, [Row(0), Row(1)], net="target", mode="probe")["z"]
    values: list[list[list[float]]] = found.tolist()
    return values


def main(out: Path) -> None:
    """Write what this rank sees to the file RANK.json of the folder `out`."""
    with joined(os.environ, "cpu") as ranks:
        seen: dict[str, Any] = {name: step(name) for name in SETTINGS}
        seen["keys"] = keys()
    (out / f"{ranks.rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
