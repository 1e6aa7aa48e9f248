"""FFCV 1.0.2: two threads, os_cache, RANDOM order.

The cached views of a sample are fields of one beton. A pipeline is bound to a field when it is
compiled, so the two that are shown are the same for every sample: ffcv cannot choose by sample
without copying all of them. That makes it faster, not slower.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ffcv.fields.basics import IntDecoder
from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder, SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.pipeline.pipeline_spec import PipelineSpec
from ffcv.transforms import RandomHorizontalFlip, ToTensor

from contest.loop import Batches, Job
from contest.workloads import Workload, ratio_of

NAME = "ffcv"
PACKAGES = ("ffcv", "torch", "numpy")


def variants(workload: Workload) -> list[dict[str, Any]]:
    """Return the settings worth trying; the first is the default."""
    base = {"num_workers": 2, "batches_ahead": 3, "order": "RANDOM", "os_cache": True}
    return [base, {**base, "batches_ahead": 2}]


def open_contender(job: Job) -> Ffcv:
    """Return an ffcv loader over a workload."""
    return Ffcv(job)


class Ffcv:
    """A compiled ffcv loader."""

    def __init__(self, job: Job) -> None:
        settings = dict(job.settings)
        order = OrderOption[settings.pop("order")]
        self.loader = Loader(
            str(job.folder / "data.beton"),
            batch_size=job.workload.batch_size,
            order=order,
            seed=0,
            indices=np.arange(job.workload.samples, dtype="uint64"),
            pipelines=pipelines(job.workload),
            drop_last=True,
            **settings,
        )

    def rest(self) -> None:
        """Nothing is made ahead between epochs."""

    def epoch(self) -> Batches:
        for index, *views in self.loader:
            yield [view.numpy() for view in views], index.numpy()[:, 0]


def pipelines(workload: Workload) -> dict[str, Any]:
    """Return a pipeline for each slot, and none for the fields that are not shown."""
    found: dict[str, Any] = {"index": [IntDecoder(), ToTensor()]}
    if workload.kind != "online":
        for view in range(workload.cached):
            transforms = [SimpleRGBImageDecoder(), RandomHorizontalFlip(), ToTensor()]
            found[f"v{view}"] = transforms if view < workload.slots else None
        return found
    found["v0"] = None
    crops = [crop for crop in workload.crops for _ in range(crop.n)]
    for slot, crop in enumerate(crops):
        decoder = RandomResizedCropRGBImageDecoder(
            (crop.side, crop.side), scale=crop.scale, ratio=ratio_of(crop)
        )
        found[f"slot{slot}"] = PipelineSpec(
            "v0", decoder=decoder, transforms=[RandomHorizontalFlip(), ToTensor()]
        )
    return found
