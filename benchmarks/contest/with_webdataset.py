"""WebDataset: the same tars, read in order by shuffled shards through a shuffle buffer."""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np
import torch
import webdataset

from contest.crops import crop_box, resizer
from contest.loop import Batches, Job, tars
from contest.with_torch import quiet
from contest.workloads import Workload, ratio_of

NAME = "webdataset"
PACKAGES = ("webdataset", "torch", "cv2", "numpy")
NPY_HEADER = 128  # of the stored arrays
Sample = dict[str, Any]


def variants(workload: Workload) -> list[dict[str, Any]]:
    """Return the settings worth trying; the first is the default."""
    return [{"num_workers": 2, "shuffle": 1_000}, {"num_workers": 1, "shuffle": 1_000}]


def open_contender(job: Job) -> WebLoader:
    """Return a WebLoader over a workload."""
    return WebLoader(job)


class WebLoader:
    """A pipeline that batches in its workers."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(1)
        workload, workers = job.workload, job.settings["num_workers"]
        urls = tars(job)
        dataset = webdataset.WebDataset(urls, shardshuffle=len(urls), empty_check=False)
        dataset = dataset.shuffle(job.settings["shuffle"])
        self.loader = webdataset.WebLoader(
            dataset.batched(workload.batch_size, collation_fn=Collate(job), partial=True),
            batch_size=None,
            num_workers=workers,
            persistent_workers=not workload.from_disk,
            prefetch_factor=3,
            worker_init_fn=quiet,
        )

    def rest(self) -> None:
        """Nothing is made ahead between epochs."""

    def epoch(self) -> Batches:
        for views, index in self.loader:
            yield [view.numpy() for view in views], index.numpy()


class Collate:
    """Makes a batch of samples as they come from the tar."""

    def __init__(self, job: Job) -> None:
        self.workload = job.workload
        self.resize = resizer(job)
        self.rng: Any = None

    def __call__(self, samples: list[Sample]) -> tuple[list[torch.Tensor], torch.Tensor]:
        if self.rng is None:
            self.rng = np.random.default_rng()
        make = {"raw": self._raw, "jpg": self._jpg, "online": self._online}[self.workload.kind]
        views = [torch.from_numpy(view) for view in make(samples)]
        return views, torch.tensor([number_of(sample) for sample in samples])

    def _raw(self, samples: list[Sample]) -> list[np.ndarray[Any, Any]]:
        cached, side = self.workload.cached, self.workload.side
        shape = (cached, side, side, 3)
        stored = [
            np.frombuffer(sample["views.npy"], np.uint8, offset=NPY_HEADER).reshape(shape)
            for sample in samples
        ]
        chosen = np.argsort(self.rng.random((len(samples), cached)), axis=1).tolist()
        views = []
        for slot in range(self.workload.slots):
            view = np.stack([each[c[slot]] for each, c in zip(stored, chosen, strict=True)])
            for place in np.flatnonzero(self.rng.random(len(samples)) < 0.5).tolist():
                cv2.flip(view[place], 1, view[place])
            views.append(view)
        return views

    def _jpg(self, samples: list[Sample]) -> list[np.ndarray[Any, Any]]:
        slots = range(self.workload.slots)
        return [
            np.stack([self._flip(decoded(sample[f"v{slot}.jpg"])) for sample in samples])
            for slot in slots
        ]

    def _online(self, samples: list[Sample]) -> list[np.ndarray[Any, Any]]:
        crops = [crop for crop in self.workload.crops for _ in range(crop.n)]
        views = [np.empty((len(samples), c.side, c.side, 3), np.uint8) for c in crops]
        for place, sample in enumerate(samples):
            image = decoded(sample["jpg"])
            for crop, out in zip(crops, views, strict=True):
                top, left, h, w = crop_box(self.rng, *image.shape[:2], crop.scale, ratio_of(crop))
                part = self.resize(image[top : top + h, left : left + w], crop.side)
                out[place] = self._flip(part)
        return views

    def _flip(self, view: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return cv2.flip(view, 1) if self.rng.random() < 0.5 else view


def decoded(data: bytes) -> np.ndarray[Any, Any]:
    """Return the pixels of a JPEG."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def number_of(sample: Sample) -> int:
    """Return the number of a sample: its class in a source, its index in a store."""
    if "cls" in sample:
        return int(sample["cls"])
    return int(json.loads(sample["json"])["index"])
