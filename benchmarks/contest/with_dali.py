"""DALI on the CPU: its WebDataset reader over the same tars, batches handed over without a copy."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from nvidia.dali import fn, pipeline_def, types

from contest.loop import Batches, Job, tars
from contest.workloads import Workload, ratio_of

NAME = "dali"
PACKAGES = ("nvidia.dali", "numpy")


def variants(workload: Workload) -> list[dict[str, Any]]:
    """Return the settings worth trying; the first is the default.

    `decode`: "shared" decodes an image once for all its crops, "fused" only the part that each
    crop shows. Without `antialias` it is faster, and shows another picture.
    """
    base = {"prefetch_queue_depth": 3}
    if workload.kind != "online":
        return [base, {"prefetch_queue_depth": 2}]
    return [{**base, "decode": decode, "antialias": True} for decode in ("shared", "fused")]


def open_contender(job: Job) -> Dali:
    """Return a DALI pipeline over a workload."""
    return Dali(job)


class Dali:
    """A built pipeline, whose runs are scheduled by hand: it can rest before the clock runs."""

    def __init__(self, job: Job) -> None:
        self.workload = job.workload
        self.ahead = job.settings["prefetch_queue_depth"]
        self.pipeline = _pipeline(
            job,
            batch_size=job.workload.batch_size,
            num_threads=job.cores,
            device_id=None,
            prefetch_queue_depth=self.ahead,
        )
        self.pipeline.build()
        self.under_way = 0

    def rest(self) -> None:
        while self.under_way:
            self.pipeline.share_outputs()
            self.pipeline.release_outputs()
            self.under_way -= 1

    def epoch(self) -> Batches:
        for _ in range(self.workload.samples // self.workload.batch_size):
            while self.under_way < self.ahead:
                self.pipeline.schedule_run()
                self.under_way += 1
            *views, names = self.pipeline.share_outputs()
            index = [_number(bytes(np.asarray(names.at(i)))) for i in range(len(names))]
            yield [_array(view) for view in views], np.array(index)
            self.pipeline.release_outputs()
            self.under_way -= 1


def _array(batch: Any) -> Any:  # noqa: ANN401
    return np.asarray(batch.as_tensor())


def _number(data: bytes) -> int:
    return int(json.loads(data)["index"]) if data.startswith(b"{") else int(data)


@pipeline_def
def _pipeline(job: Job) -> Any:  # noqa: ANN401
    workload = job.workload
    encoded, number = _read(job)
    if workload.kind == "raw":
        views = list(_raw(workload, encoded[0]))
    elif workload.kind == "jpg":
        views = [fn.decoders.image(each, output_type=types.RGB) for each in encoded]
    else:
        views = list(_crops(job, encoded[0]))
    flipped = [fn.flip(view, horizontal=fn.random.coin_flip()) for view in views]
    return (*flipped, number)


def _read(job: Job) -> tuple[list[Any], Any]:
    workload = job.workload
    extensions = {
        "raw": ["views.npy"],
        "jpg": [f"v{slot}.jpg" for slot in range(workload.slots)],
        "online": ["jpg"],
    }[workload.kind]
    number = "cls" if workload.kind == "online" else "json"
    paths = tars(job)
    *encoded, index = fn.readers.webdataset(
        paths=paths,
        index_paths=[str(path) for path in _indexes(paths, job.folder / "dali")],
        ext=[*extensions, number],
        random_shuffle=True,
        initial_fill=1_024,
        missing_component_behavior="error",
        name="reader",
    )
    return encoded, index


def _raw(workload: Workload, stored: Any) -> Iterator[Any]:  # noqa: ANN401
    """Yield two of the cached views, another two for each sample."""
    side, cached = workload.side, workload.cached
    views = fn.reinterpret(stored[128:], shape=[cached, side, side, 3], layout="FHWC")
    first = fn.random.uniform(values=list(range(cached)), dtype=types.INT32)
    step = fn.random.uniform(values=list(range(1, cached)), dtype=types.INT32)
    second = (first + step) % cached
    for number in (first, second):
        yield fn.reshape(views[number], layout="HWC")


def _crops(job: Job, encoded: Any) -> Iterator[Any]:  # noqa: ANN401
    shared = job.settings["decode"] == "shared"
    resize = {
        "interp_type": types.INTERP_LINEAR,
        "antialias": job.settings["antialias"],
    }
    image = fn.decoders.image(encoded, output_type=types.RGB) if shared else None
    for crop in job.workload.crops:
        for _ in range(crop.n):
            area, ratio = list(crop.scale), list(ratio_of(crop))
            size = [crop.side, crop.side]
            if shared:
                yield fn.random_resized_crop(
                    image, size=size, random_area=area, random_aspect_ratio=ratio, **resize
                )
            else:
                part = fn.decoders.image_random_crop(
                    encoded, output_type=types.RGB, random_area=area, random_aspect_ratio=ratio
                )
                yield fn.resize(part, size=size, **resize)


def _indexes(paths: list[str], folder: Path) -> Iterator[Path]:
    """Yield an index of each tar, as DALI's wds2idx writes them."""
    folder.mkdir(exist_ok=True)
    for path in paths:
        index = folder / f"{Path(path).stem}.idx"
        if not index.is_file():
            samples: dict[str, list[str]] = {}
            with tarfile.open(path) as tar:
                for member in tar:
                    stem, _, extension = member.name.partition(".")
                    place = f"{extension} {member.offset_data} {member.size} {member.name}"
                    samples.setdefault(stem, []).append(place)
            lines = [f"v1.2 {len(samples)}", *(" ".join(each) for each in samples.values())]
            index.write_text("\n".join(lines) + "\n")
        yield index
