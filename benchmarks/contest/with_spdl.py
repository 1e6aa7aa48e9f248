"""SPDL: a pipeline whose stages run in threads, over functions that release the GIL.

`stages`: "batch" makes a batch in one call, each view straight in its place; "image" decodes an
image a call, and a later stage puts the views of a batch together. Its own decoder is FFmpeg's,
which takes three times the CPU of libjpeg-turbo and gives other pixels: JPEGs are decoded by
simplejpeg. The pipeline goes on into the next epoch, but where the page cache must be emptied.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from spdl.pipeline import Pipeline, PipelineBuilder

from contest.crops import crop_box, resizer
from contest.loop import Batches, Job, Views
from contest.workloads import Workload, ratio_of

NAME = "spdl"
PACKAGES = ("spdl.pipeline", "cv2", "simplejpeg", "numpy")
SINK = 3  # batches ahead, as its documentation has it


def variants(workload: Workload) -> list[dict[str, Any]]:
    """Return the settings worth trying; the first is the default."""
    threads = [8, 4, 2] if workload.from_disk else [2, 3, 1]  # who waits for a disk needs no core
    batches = [{"stages": "batch", "num_threads": count} for count in threads]
    if workload.kind == "raw":
        return [*batches, {**batches[1], "use_thread_output_queue": True}]
    return [*batches[:2], *({**each, "stages": "image"} for each in batches[:2])]


def open_contender(job: Job) -> Spdl:
    """Return a pipeline over a workload."""
    return Spdl(job)


class Spdl:
    """A pipeline, built anew where what was made ahead must not count."""

    def __init__(self, job: Job) -> None:
        cv2.setNumThreads(0)
        self.workload, self.settings = job.workload, dict(job.settings)
        self.stages = self.settings.pop("stages")
        self.settings.pop("filter", None)
        self.views = Cached(job) if job.workload.kind == "raw" else Images(job)
        self.free: deque[Views] = deque()
        self.pipeline: Pipeline[tuple[Views, NDArray[Any]]] | None = None

    def rest(self) -> None:
        if self.pipeline is not None:
            self.pipeline.stop()
        self.pipeline = None

    def epoch(self) -> Batches:
        if self.pipeline is None or self.workload.from_disk:
            self.rest()
            self.pipeline = self._build()
        for views, index in self.pipeline.get_iterator():
            yield views, index
            self.free.append(views)

    def _build(self) -> Pipeline[tuple[Views, NDArray[Any]]]:
        threads, size = self.settings["num_threads"], self.workload.batch_size
        whole = self.stages == "batch"
        order = Order(self.workload.samples, size if whole else 1)
        builder = PipelineBuilder().add_source(order, continuous=not self.workload.from_disk)
        if whole:
            builder.pipe(self._filled, concurrency=threads)
        else:
            builder.pipe(self._one, concurrency=threads).aggregate(size).pipe(self._together)
        return builder.add_sink(SINK).build(max_failures=0, **self.settings)

    def _filled(self, rows: NDArray[Any]) -> tuple[Views, NDArray[Any]]:
        views = self._buffers()
        self.views.fill(rows, views)
        return views, rows

    def _one(self, rows: NDArray[Any]) -> tuple[Views, NDArray[Any]]:
        views = [np.empty((1, side, side, 3), np.uint8) for side in self.workload.sides]
        self.views.fill(rows, views)
        return views, rows

    def _together(self, samples: list[tuple[Views, NDArray[Any]]]) -> tuple[Views, NDArray[Any]]:
        views = self._buffers()
        for out, slot in zip(views, zip(*(each for each, _ in samples), strict=True), strict=True):
            np.concatenate(slot, out=out)
        return views, np.concatenate([rows for _, rows in samples])

    def _buffers(self) -> Views:
        """Return buffers of a batch that was seen; new ones cost a page fault every 4 KiB."""
        try:
            return self.free.pop()
        except IndexError:
            size = self.workload.batch_size
            return [np.empty((size, side, side, 3), np.uint8) for side in self.workload.sides]


class Order:
    """The source: sample numbers, shuffled anew each time that it is iterated."""

    def __init__(self, samples: int, size: int) -> None:
        self.samples, self.size = samples, size
        self.rng = np.random.default_rng()

    def __iter__(self) -> Iterator[NDArray[Any]]:
        yield from self.rng.permutation(self.samples).reshape(-1, self.size)


class Random(threading.local):
    """A generator for each thread."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng()

    def flip(self, view: NDArray[Any]) -> None:
        """Mirror a view in its place, with probability .5."""
        if self.rng.random() < 0.5:
            cv2.flip(view, 1, view)


class Cached:
    """Raw views of a memmap; those of a batch are gathered at once."""

    def __init__(self, job: Job) -> None:
        stored = np.load(job.folder / "views.npy", mmap_mode="r")
        self.cached = stored.shape[1]
        self.flat = np.asarray(stored).reshape(len(stored) * self.cached, -1)
        self.random = Random()

    def fill(self, rows: NDArray[Any], views: Views) -> None:
        """Write views of samples, two that differ for each."""
        chosen = np.argsort(self.random.rng.random((len(rows), self.cached)), axis=1)
        for slot, out in enumerate(views):
            places = rows * self.cached + chosen[:, slot]
            np.take(self.flat, places, axis=0, out=out.reshape(len(rows), -1), mode="clip")
            for place in np.flatnonzero(self.random.rng.random(len(rows)) < 0.5).tolist():
                view = out[place]
                cv2.flip(view, 1, view)


class Images:
    """JPEGs: cached views, or images that are decoded once for all their crops."""

    def __init__(self, job: Job) -> None:
        self.data = np.fromfile(job.folder / "images.bin", np.uint8).data
        self.spans = np.load(job.folder / "spans.npy").tolist()
        self.crops = [crop for crop in job.workload.crops for _ in range(crop.n)]
        self.resize = resizer(job)
        self.random = Random()

    def fill(self, rows: NDArray[Any], views: Views) -> None:
        """Write views of samples, each straight where it belongs."""
        for place, row in enumerate(rows.tolist()):
            outs = [view[place] for view in views]
            if self.crops:
                self._crop(*self.spans[row][0], outs)
            else:
                for out, (begin, size) in zip(outs, self.spans[row], strict=True):
                    simplejpeg.decode_jpeg(self.data[begin : begin + size], buffer=out)
            for out in outs:
                self.random.flip(out)

    def _crop(self, begin: int, size: int, outs: Views) -> None:
        image = simplejpeg.decode_jpeg(self.data[begin : begin + size])
        rng = self.random.rng
        for crop, out in zip(self.crops, outs, strict=True):
            top, left, h, w = crop_box(rng, *image.shape[:2], crop.scale, ratio_of(crop))
            self.resize(image[top : top + h, left : left + w], crop.side, out)
