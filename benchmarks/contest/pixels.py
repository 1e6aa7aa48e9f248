"""Whether every contender shows the same pictures: 64 samples, before anything is timed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contest.workloads import CHECKED, Workload
from viewstore.images.decode import decode

Pixels = NDArray[np.uint8]

# What the mean absolute difference of the view that differs most may be, in 1/255. Raw views and
# whoever shares our decoder and resize filter must be exact.
TOLERANCES = {
    ("ffcv", "jpg"): 2.0,  # it decodes with the fast DCT and replicates chroma
    ("ffcv", "online"): 2.0,
    ("dali", "online"): 7.0,  # a triangle filter
    # Pillow rounds in between, torch does not.
    ("viewstore filter=antialias", "online"): 0.5,
    ("torch filter=antialias", "online"): 0.5,
    ("webdataset filter=antialias", "online"): 0.5,
    ("spdl filter=antialias", "online"): 0.5,
    ("dali antialias=False", "online"): 25.0,  # no filter: the larger the shrink, the further off
}


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What the comparison of one contender found.

    Attributes:
        views: Views that were compared.
        mean: Mean absolute difference of the view that differs most.
        largest: Largest difference of any value.
        flipped: Share of views shown as their mirror image.
        tolerance: What `mean` may be.
        same: Samples whose slots showed the same cached view, which none may.
    """

    views: int
    mean: float
    largest: int
    flipped: float
    tolerance: float
    same: int

    @property
    def passed(self) -> bool:
        """Whether the pictures are the right ones."""
        return self.mean <= self.tolerance and not self.same


def compare(path: Path, data: Path, workload: Workload, contender: str) -> Compared:
    """Compare the pixels a contender wrote with the reference.

    Raises:
        ValueError: Samples are missing, or a slot has another shape or dtype.
    """
    with np.load(path) as arrays:
        found = [arrays[f"slot{slot}"] for slot in range(workload.slots)]
        rows = arrays["index"]
    if rows.tolist() != list(range(CHECKED)):
        raise ValueError(f"of {CHECKED} samples {len(rows)} were delivered")
    for slot, side in enumerate(workload.sides):
        if found[slot].shape != (CHECKED, side, side, 3) or found[slot].dtype != np.uint8:
            raise ValueError(f"slot {slot} is {found[slot].dtype} {found[slot].shape}")
    differences = []
    same = 0
    for row in range(CHECKED):
        nearest = [
            _nearest(found[slot][row], candidates)
            for slot, candidates in enumerate(references(data, workload, row, contender))
        ]
        shown = [each["view"] for each in nearest]
        same += workload.kind != "online" and len(set(shown)) < len(shown)
        differences += nearest
    return Compared(
        views=len(differences),
        mean=max(each["mean"] for each in differences),
        largest=max(each["largest"] for each in differences),
        flipped=sum(each["flipped"] for each in differences) / len(differences),
        tolerance=TOLERANCES.get((contender, workload.kind), 0.0),
        same=same,
    )


def references(data: Path, workload: Workload, row: int, contender: str) -> list[list[Pixels]]:
    """Return what each slot may show of a sample: its cached views, or the resized image."""
    if workload.kind == "raw":
        stored = np.load(data / "views.npy", mmap_mode="r")[row]
        return [list(stored)] * workload.slots
    images = np.memmap(data / "images.bin", np.uint8, "r")
    spans = np.load(data / "spans.npy")[row].tolist()
    decoded = [decode(images[begin : begin + size].tobytes()) for begin, size in spans]
    if workload.kind == "jpg":
        return [decoded] * workload.slots
    (image,) = decoded
    if contender.endswith("filter=antialias"):
        picture = Image.fromarray(image)
        sizes = [(side, side) for side in workload.sides]
        return [[np.asarray(picture.resize(size, Image.Resampling.BILINEAR))] for size in sizes]
    return [
        [cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)] for side in workload.sides
    ]


def _nearest(pixels: Pixels, candidates: list[Pixels]) -> dict[str, Any]:
    """Return how far a view is from the nearest candidate or its mirror image."""
    choices = []
    for view, candidate in enumerate(candidates):
        for flipped in (False, True):
            wanted = candidate[:, ::-1] if flipped else candidate
            difference = np.abs(pixels.astype(np.int16) - wanted)
            mean = float(difference.mean())
            facts = {"view": view, "flipped": flipped, "largest": int(difference.max())}
            choices.append({"mean": mean, **facts})
    return min(choices, key=lambda each: each["mean"])
