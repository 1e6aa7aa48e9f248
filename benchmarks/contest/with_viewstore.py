"""Our own loader, over the store that all the other formats were made from."""

from __future__ import annotations

from typing import Any

import numpy as np

import viewstore
from contest.loop import Batches, Job
from contest.workloads import VIEW_SET, Crops, Workload, ratio_of
from viewstore.images.policies import Policy
from viewstore.images.resize import Filter
from viewstore.loaders import Cached, Online, ViewLoader

NAME = "viewstore"
PACKAGES = ("viewstore", "torch", "numpy")


def variants(workload: Workload) -> list[dict[str, Any]]:
    """Return the settings worth trying; the first is the default."""
    base: dict[str, Any] = {"verify": "first", "prefetch": 3}
    if workload.from_disk:
        return [{**base, "resident": False}]
    return [base, {**base, "prefetch": 2}]


def open_contender(job: Job) -> Ours:
    """Return our loader over a workload."""
    return Ours(job)


class Ours:
    """A ViewLoader with a thread for each core."""

    def __init__(self, job: Job) -> None:
        workload = job.workload
        settings = dict(job.settings)
        filter: Filter = settings.pop("filter", "area")
        views = [crop_views(crop, filter) for crop in workload.crops]
        self.loader = ViewLoader(
            viewstore.open(job.folder / "store"),
            views=views or [Cached(VIEW_SET, n=workload.slots, then="flip")],
            batch_size=workload.batch_size,
            rows=np.arange(workload.samples),
            num_threads=job.cores,
            **settings,
        )

    def rest(self) -> None:
        self.loader.seek(self.loader.epoch, self.loader.step)

    def epoch(self) -> Batches:
        for batch in self.loader:
            yield [v.pixels.permute(0, 2, 3, 1).numpy() for v in batch.views], batch.index.numpy()


def crop_views(crop: Crops, filter: Filter = "area") -> Online:
    """Return slots of crops and flips, without any colours."""
    policy = Policy(
        name="bench",
        scale=crop.scale,
        ratio=ratio_of(crop),
        flip=0.5,
        gray=0.0,
        solarize=0.0,
        jitter=(0.0, 0.0, 0.0, 0.0),
        jitter_probability=0.0,
        blur=0.0,
    )
    return Online(policy, n=crop.n, size=crop.side, filter=filter)
