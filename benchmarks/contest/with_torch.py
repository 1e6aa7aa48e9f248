"""torch DataLoader: one gather from a memmap a batch (A, D), or cv2, one decode for all views."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from contest.crops import crop_box, resizer
from contest.loop import Batches, Job
from contest.workloads import Workload, ratio_of

NAME = "torch"
PACKAGES = ("torch", "cv2", "numpy")
Sample = list[np.ndarray[Any, Any]]


def variants(workload: Workload) -> list[dict[str, Any]]:
    """Return the settings worth trying; the first is the default."""
    processes = [{"num_workers": 2, "prefetch_factor": 3}, {"num_workers": 1, "prefetch_factor": 3}]
    if workload.kind == "raw":
        return [*processes, {"num_workers": 0}]
    return [processes[0], {"num_workers": 2, "prefetch_factor": 8}]


def open_contender(job: Job) -> TorchLoader:
    """Return a DataLoader over a workload."""
    return TorchLoader(job)


class TorchLoader:
    """A DataLoader; its workers are kept, but where the page cache must be emptied."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.cores if job.settings["num_workers"] == 0 else 1)
        dataset = Cached(job) if job.workload.kind == "raw" else Images(job)
        workers = job.settings["num_workers"]
        self.loader = DataLoader(
            dataset,
            batch_size=job.workload.batch_size,
            shuffle=True,
            drop_last=True,
            collate_fn=as_is if job.workload.kind == "raw" else stacked,
            persistent_workers=workers > 0 and not job.workload.from_disk,
            worker_init_fn=quiet,
            num_workers=workers,
            prefetch_factor=job.settings["prefetch_factor"] if workers else None,
        )

    def rest(self) -> None:
        """Nothing is made ahead between epochs."""

    def epoch(self) -> Batches:
        for views, index in self.loader:
            yield [view.numpy() for view in views], index.numpy()


def quiet(worker: int) -> None:
    """Keep a worker to its own core."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def as_is(batch: Any) -> Any:  # noqa: ANN401
    """Return a batch that was fetched whole."""
    return batch


def stacked(samples: list[tuple[Sample, int]]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return samples as a batch."""
    slots = zip(*(views for views, _ in samples), strict=True)
    views = [torch.from_numpy(np.stack(slot)) for slot in slots]
    return views, torch.tensor([index for _, index in samples])


class Cached(Dataset[Any]):
    """Raw views of a memmap; a whole batch is gathered at once."""

    def __init__(self, job: Job) -> None:
        self.path, self.samples = job.folder / "views.npy", job.workload.samples
        self.slots = job.workload.slots
        self.views: Any = None

    def __len__(self) -> int:
        return self.samples

    def __getitems__(self, rows: list[int]) -> tuple[list[torch.Tensor], torch.Tensor]:
        if self.views is None:  # each worker maps the file itself
            self.views = np.load(self.path, mmap_mode="r")
            self.rng = np.random.default_rng()
        cached = self.views.shape[1]
        index = np.array(rows)
        chosen = np.argsort(self.rng.random((len(rows), cached)), axis=1)
        views = []
        for slot in range(self.slots):
            pixels = self.views[index, chosen[:, slot]]
            for place in np.flatnonzero(self.rng.random(len(rows)) < 0.5).tolist():
                cv2.flip(pixels[place], 1, pixels[place])
            views.append(torch.from_numpy(pixels))
        return views, torch.from_numpy(index)


class Images(Dataset[Any]):
    """JPEGs: cached views, or images that are decoded once for all their crops."""

    def __init__(self, job: Job) -> None:
        self.path, self.workload = job.folder / "images.bin", job.workload
        self.spans = np.load(job.folder / "spans.npy")
        self.resize = resizer(job)
        self.data: Any = None

    def __len__(self) -> int:
        return self.workload.samples

    def __getitem__(self, row: int) -> tuple[Sample, int]:
        if self.data is None:
            self.data = np.memmap(self.path, np.uint8, "r")
            self.rng = np.random.default_rng()
        images = [
            cv2.imdecode(self.data[begin : begin + size], cv2.IMREAD_COLOR_RGB)
            for begin, size in self.spans[row].tolist()
        ]
        views = images if self.workload.kind == "jpg" else self._crops(images[0])
        return [cv2.flip(view, 1) if self.rng.random() < 0.5 else view for view in views], row

    def _crops(self, image: np.ndarray[Any, Any]) -> Sample:
        views = []
        for crop in self.workload.crops:
            for _ in range(crop.n):
                top, left, h, w = crop_box(self.rng, *image.shape[:2], crop.scale, ratio_of(crop))
                views.append(self.resize(image[top : top + h, left : left + w], crop.side))
        return views
