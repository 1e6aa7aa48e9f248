"""Distances of generated views of digits: W-search holds them, W-perturb does not.

Source of the claims: Constructive Assimilation, section 3 and appendix G. Views are built by the
build, with the packaged networks; distances are those of the stored pixels, as the build records.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trials.record import Line, Record
from trials.world import THREADS, with_views
from viewstore.store.constraints import pair_bound

VIEWS = 8
EPS1, EPS2 = 0.3, 0.5


def summary(distance: NDArray[Any]) -> dict[str, float]:
    """Return mean, SD, least and greatest of distances."""
    values = np.asarray(distance, np.float64)
    return {
        "mean": float(values.mean()),
        "sd": float(values.std(ddof=1)),
        "min": float(values.min()),
        "max": float(values.max()),
    }


def held(folder: Path, samples: int) -> dict[str, dict[str, float]]:
    """Return what is to be said of the distances of both generators (C1)."""
    found = {}
    for generator, given in (("w-search", {"eps1": EPS1}), ("w-perturb", {"sigma": 0.2})):
        store = with_views(
            folder, generator, generator, source="digits", limit=samples, views=VIEWS, **given
        )
        distance = store.view_sets[generator].params["distance"]
        found[generator] = summary(np.asarray(distance[:]))
    return found


def unreachable(folder: Path, samples: int) -> dict[str, dict[str, float]]:
    """Return the mean pair distances of samples where eps2 lies beyond the bound (C2)."""
    found = {}
    for preset in ("paper", "fast"):
        store = with_views(
            folder / preset,  # reconstructions are of one preset, too
            "w-search",
            preset,
            source="digits",
            limit=samples,
            views=VIEWS,
            preset=preset,
            eps1=EPS1,
            eps2=EPS2,
        )
        pairs = store.view_sets[preset].params["mean_pair_distance"]
        found[preset] = summary(np.asarray(pairs[:]).mean(axis=1))
    return found


def report(record: Record, options: Mapping[str, Any]) -> None:
    """Build the view sets, and say how their distances lie."""
    torch.set_num_threads(THREADS)
    samples, fewer = options["samples"], options["fewer"]
    with tempfile.TemporaryDirectory() as folder:
        distances = held(Path(folder) / "held", samples)
        pairs = unreachable(Path(folder) / "unreachable", fewer)
    bound = pair_bound(EPS1, VIEWS)
    record.facts |= {"distances": distances, "mean_pairs": pairs, "bound": bound}
    search, perturb = distances["w-search"], distances["w-perturb"]
    views = samples * VIEWS
    for name, claim, each in (
        ("W-search", "SD small", search),
        ("W-perturb, sigma .2 wstd", "SD large", perturb),
    ):
        small = search["sd"] < perturb["sd"] / 4
        record.lines.append(
            Line(
                experiment=f"C1: distance to the anchor, {name}, digits",
                claim=claim,
                ours=f"{each['mean']:.3f} +- {each['sd']:.3f} (SD; {each['min']:.3f}-"
                f"{each['max']:.3f})",
                n=f"{samples} x {VIEWS} views",
                interval=f"{each['sd'] / math.sqrt(2 * views - 2):.4f}, SE of the SD",
                verdict="yes" if small else "no",
            )
        )
    for preset, each in pairs.items():
        record.lines.append(
            Line(
                experiment=f"C2: mean pair distance at eps1 .3, eps2 .5, preset {preset}",
                claim=f"below B = {bound:.3f}, eps2 is not reached",
                ours=f"{each['mean']:.3f} ({each['min']:.3f}-{each['max']:.3f}, "
                f"{each['min'] / bound:.2f} B at the worst sample)",
                n=f"{fewer} x {VIEWS} views",
                interval=f"{each['sd'] / math.sqrt(fewer):.4f}, SE of the mean",
                verdict="yes" if each["max"] < EPS2 and each["mean"] < bound else "no",
            )
        )
