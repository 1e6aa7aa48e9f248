"""What the machine gives: copies (A, D) or decodes and resizes on all cores, no loader.

No order is drawn, nothing flipped; every epoch shows other views of a sample, as the contenders
do. Buffers are used again. From disk the limit is one file read from its beginning to its end.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray

from contest.crops import antialiased, crop_box
from contest.loop import Batches, Job, Views
from contest.workloads import Workload, ratio_of
from viewstore.images.resize import cut

NAME = "limit"
PACKAGES = ("torch", "cv2", "simplejpeg", "numpy", "viewstore")
AHEAD = 4


def variants(workload: Workload) -> list[dict[str, Any]]:
    """Return the settings worth trying; the first is the default."""
    return (
        [{"gather": "numpy.take"}, {"gather": "index_select"}] if workload.kind == "raw" else [{}]
    )


def open_contender(job: Job) -> Limit:
    """Return the limit of a workload."""
    return Limit(job)


class Limit:
    """Fills batches on all cores, a batch for each thread at a time."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        self.workload = job.workload
        size = job.workload.batch_size
        fill = _fill_raw if job.workload.kind == "raw" else _fill_images
        self.fill = (_fill_from_disk if job.workload.from_disk else fill)(job)
        buffers = [_buffers(job.workload, size) for _ in range(AHEAD + job.cores)]
        self.buffers = itertools.cycle(buffers)
        self.epochs = itertools.count()
        self.order = np.random.default_rng(0)
        self.pool = ThreadPoolExecutor(job.cores)

    def rest(self) -> None:
        """Nothing is made ahead between epochs."""

    def epoch(self) -> Batches:
        size = self.workload.batch_size
        samples = self.workload.samples
        shuffled = (
            np.arange(samples) if self.workload.from_disk else self.order.permutation(samples)
        )
        rows = shuffled.reshape(-1, size)
        number = next(self.epochs)
        ahead: deque[Any] = deque()
        for batch, views in zip(rows, self.buffers, strict=False):
            ahead.append((self.pool.submit(self.fill, batch, views, number), views, batch))
            if len(ahead) >= AHEAD:
                yield from _finished(ahead)
        while ahead:
            yield from _finished(ahead)


def _buffers(workload: Workload, size: int) -> Views:
    if workload.from_disk:  # as the file has them, the views of a sample side by side
        together = np.zeros((size, workload.cached, workload.side, workload.side, 3), np.uint8)
        return [together[:, slot] for slot in range(workload.slots)]
    return [np.zeros((size, side, side, 3), np.uint8) for side in workload.sides]


def _finished(ahead: deque[Any]) -> Iterator[tuple[Views, NDArray[Any]]]:
    future, views, rows = ahead.popleft()
    future.result()
    yield views, rows


Fill = Callable[[NDArray[Any], Views, int], None]


def _fill_raw(job: Job) -> Fill:
    """Return what copies views of each sample from one contiguous array in memory.

    They are others in each epoch: the same few of eight would stay in the processor's cache.
    """
    stored = np.load(job.folder / "views.npy")
    cached = stored.shape[1]
    flat = stored.reshape(stored.shape[0] * cached, -1)
    tensor = torch.from_numpy(flat)
    select = job.settings.get("gather") == "index_select"

    def fill(rows: NDArray[Any], views: Views, epoch: int) -> None:
        for slot, out in enumerate(views):
            places = rows * cached + (rows + epoch * len(views) + slot) % cached
            into = out.reshape(len(rows), -1)
            if select:
                index = torch.from_numpy(places)
                torch.index_select(tensor, 0, index, out=torch.from_numpy(into))
            else:
                np.take(flat, places, axis=0, out=into, mode="clip")

    return fill


def _fill_from_disk(job: Job) -> Fill:
    """Return what reads the file from its beginning to its end: no disk is faster shuffled."""
    stored = np.load(job.folder / "views.npy", mmap_mode="r")
    assert isinstance(stored, np.memmap)
    sample_bytes = stored[0].nbytes
    first, descriptor = stored.offset, os.open(job.folder / "views.npy", os.O_RDONLY)

    def read(rows: NDArray[Any], views: Views, epoch: int) -> None:
        del epoch
        together = views[0].base
        assert together is not None
        os.preadv(descriptor, [together], first + int(rows[0]) * sample_bytes)

    return read


def _fill_images(job: Job) -> Fill:
    """Return what decodes, straight into the batch where nothing is resized."""
    data = np.fromfile(job.folder / "images.bin", np.uint8).data
    spans = np.load(job.folder / "spans.npy").tolist()
    if job.workload.kind == "jpg":

        def decode(rows: NDArray[Any], views: Views, epoch: int) -> None:
            del epoch
            for place, row in enumerate(rows.tolist()):
                for out, (begin, size) in zip(views, spans[row], strict=True):
                    simplejpeg.decode_jpeg(data[begin : begin + size], buffer=out[place])

        return decode
    boxes = _boxes(job)
    torchs_filter = job.settings.get("filter") == "antialias"

    def render(rows: NDArray[Any], views: Views, epoch: int) -> None:
        del epoch
        for place, row in enumerate(rows.tolist()):
            (begin, size), *_ = spans[row]
            image = simplejpeg.decode_jpeg(data[begin : begin + size])
            asked = [(out[place], box) for out, box in zip(views, boxes[row], strict=True)]
            if torchs_filter:
                for view, (top, left, height, width) in asked:
                    part = image[top : top + height, left : left + width]
                    antialiased(part, len(view), view)
            else:  # the fastest way that we know of to the pixels that OpenCV would give
                cut(image, [(view, box, False, True) for view, box in asked])

    return render


def _boxes(job: Job) -> list[list[tuple[int, ...]]]:
    """Return a crop box for each sample and slot, drawn before the clock runs."""
    rng = np.random.default_rng(0)
    images = np.memmap(job.folder / "images.bin", np.uint8, "r")
    found = []
    for (begin, size), *_ in np.load(job.folder / "spans.npy").tolist():
        shape = simplejpeg.decode_jpeg_header(images[begin : begin + size].tobytes())[:2]
        found.append(
            [
                crop_box(rng, *shape, crop.scale, ratio_of(crop))
                for crop in job.workload.crops
                for _ in range(crop.n)
            ]
        )
    return found
