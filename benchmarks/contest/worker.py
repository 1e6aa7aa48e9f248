"""One contender in a process of its own, told over stdin what to measure, answering on stdout.

The first line of stdin is the order. The process iterates a warm-up epoch, then one measured epoch
for each further line; or, if the order says so, writes the pixels of the first samples.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from contest.loop import Contender, Job, Views
from contest.usage import cpu_seconds, machine_seconds, peak_bytes
from contest.workloads import CHECKED, WORKLOADS, Workload, checked

MODULES = {
    "limit": "contest.limit",
    "viewstore": "contest.with_viewstore",
    "ffcv": "contest.with_ffcv",
    "dali": "contest.with_dali",
    "torch": "contest.with_torch",
    "webdataset": "contest.with_webdataset",
    "spdl": "contest.with_spdl",
}
DISTRIBUTIONS = {
    "cv2": "opencv-python-headless",
    "nvidia.dali": "nvidia-dali-cuda130",
    "spdl.pipeline": "spdl-core",
}
MADV_DONTNEED = 4


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not look like an answer
    order = json.loads(sys.stdin.readline())
    cores = sorted(os.sched_getaffinity(0))[: order["cores"]]
    os.sched_setaffinity(0, cores)
    workload = workload_of(order["workload"])
    if order["check"]:
        workload = checked(workload)
    module = importlib.import_module(MODULES[order["contender"]])
    variants = module.variants(workload)
    if order["list_variants"]:
        answer(answers, variants=variants)
        return
    settings = variants[0] | order["settings"]
    job = Job(
        workload=workload,
        folder=Path(order["data"]) / workload.data,
        cores=len(cores),
        settings=settings,
    )
    if order["check"]:
        write_pixels(module.open_contender(job), Path(order["check"]))
        answer(answers, settings=settings, versions=versions(module.PACKAGES))
        return
    paths = [path for path in job.folder.rglob("*") if path.is_file()] if workload.from_disk else []
    if paths:
        empty_cache(paths)
    contender = module.open_contender(job)
    warm_up(contender, order["warm_up_seconds"], lambda: answer(answers, first_batch=True))
    answer(answers, settings=settings, versions=versions(module.PACKAGES))
    for _ in sys.stdin:
        if paths:
            empty_cache(paths)
        # A second epoch would find the pages of the first.
        found = measure(contender, 0.0 if paths else order["least_seconds"])
        answer(answers, **found, peak_bytes=peak_bytes(os.getpid()))


def workload_of(fields: dict[str, Any]) -> Workload:
    """Return a workload of the table, with the sizes that a test may have changed."""
    return replace(WORKLOADS[fields["name"]], **fields)


def answer(stream: TextIO, **facts: Any) -> None:  # noqa: ANN401
    """Write one line to whoever drives this process."""
    stream.write(json.dumps(facts) + "\n")


def warm_up(contender: Contender, seconds: float, first: Callable[[], None]) -> None:
    """Iterate whole epochs for some seconds; tell when the first batch was there."""
    began = time.perf_counter()
    told = False
    while not told or time.perf_counter() - began < seconds:
        for views, _ in contender.epoch():
            touch(views)
            if not told:
                first()
                told = True


def measure(contender: Contender, least_seconds: float) -> dict[str, Any]:
    """Iterate whole epochs for at least some seconds, and begin with nothing made ahead."""
    contender.rest()
    pid = os.getpid()
    used, machine = cpu_seconds(pid), machine_seconds()
    began = time.perf_counter()
    views_seen = epochs = touched = 0
    seconds = 0.0
    while not epochs or seconds < least_seconds:
        for views, index in contender.epoch():
            touched += touch(views)
            views_seen += len(index) * len(views)
        epochs += 1
        seconds = time.perf_counter() - began
    used = cpu_seconds(pid) - used
    others = max(0.0, machine_seconds() - machine - used) / seconds
    contender.rest()  # what it would make ahead now would take the cores of whoever is next
    return {
        "seconds": seconds,
        "views": views_seen,
        "epochs": epochs,
        "cpu_seconds": used,
        "others_cores": others,
        "touched": touched,
    }


def touch(views: Views) -> int:
    """Return the sum of one byte of every view: each was there when it was handed over."""
    return sum(int(view[:, -1, -1, -1].sum()) for view in views)


def write_pixels(contender: Contender, path: Path) -> None:
    """Write the views of samples 0 to 63 of one epoch, a file for each slot."""
    import numpy as np

    kept: dict[int, list[Any]] = {}
    for views, index in contender.epoch():
        for place, row in enumerate(index.tolist()):
            if row < CHECKED:
                kept[row] = [np.array(view[place]) for view in views]
    rows = sorted(kept)
    slots = zip(*(kept[row] for row in rows), strict=True)
    arrays = {f"slot{number}": np.stack(slot) for number, slot in enumerate(slots)}
    np.savez(path, index=np.array(rows), **arrays)


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of packages, and of Python."""
    import importlib.metadata  # no part of a cold start
    import platform

    found = {"python": platform.python_version()}
    for package in packages:
        name = DISTRIBUTIONS.get(package, package)
        found[name] = importlib.metadata.version(name)
    return found


def empty_cache(paths: list[Path]) -> None:
    """Drop files from the page cache; this process's maps of them would hold it there."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = {str(path.resolve()) for path in paths}
    for line in Path("/proc/self/maps").read_text().splitlines():
        parts = line.split(maxsplit=5)
        if len(parts) == 6 and parts[5] in names:
            begin, end = (int(each, 16) for each in parts[0].split("-"))
            size = ctypes.c_size_t(end - begin)
            libc.madvise(ctypes.c_void_p(begin), size, MADV_DONTNEED)
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


if __name__ == "__main__":
    main()
