"""GS-1: whether crops that overlap less lie farther apart for an encoder.

Spearman's rank correlation of the overlap IoA of two crops of a held-out image with the cosine of
their unit projections, among pairs with IoA below .5. Source of the premise: Rappange, Graded
Similarity (2024), whose loss regresses the distance on IoA below lambda = .5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from trials.record import Line, Record, verdict
from trials.world import THREADS
from viewstore.images.policies import policies
from viewstore.images.policy import Policy
from viewstore.loaders.loader import ViewLoader
from viewstore.loaders.plan.asked import Online
from viewstore.sources.open import open_source
from viewstore.train.encoder_file import Encoder, load_encoder
from viewstore.train.overlap import all_pairs, ioa
from viewstore.train.source_store import store_of_source

LAMBDA = 0.5
BATCH = 256
CROPS = 8  # of each image: 56 ordered pairs
RESAMPLES = 2000


def pairs_of(
    encoder: Encoder, source: str, images: int, scale: tuple[float, float]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return image, IoA and cosine of the ordered pairs of crops with IoA below LAMBDA, [P].

    Crops are flipped half of the time and keep their colours; the loader draws and renders them.
    """
    (crop,) = policies("crop")
    assert isinstance(crop, Policy)
    policy = replace(crop, scale=scale)
    store = store_of_source(open_source(source, limit=images).table)
    views = [Online(policy, n=CROPS, size=encoder.size)]
    found = []
    with (
        ViewLoader(
            store, views, batch_size=BATCH, shuffle="none", tail="keep", num_threads=THREADS
        ) as loader,
        torch.no_grad(),
    ):
        for batch in loader:
            unit = torch.stack([encoder(view.pixels.float() / 255) for view in batch.views], 1)
            boxes = torch.stack([torch.as_tensor(v.params["crop_box"]) for v in batch.views], 1)
            found.append(_pairs(torch.as_tensor(batch.index), boxes, unit))
    image, overlap, cosine = (torch.cat(each).numpy() for each in zip(*found, strict=True))
    below = overlap < LAMBDA
    return image[below], overlap[below], cosine[below]


def _pairs(index: Tensor, boxes: Tensor, unit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return image, IoA and cosine of all ordered pairs of [B] images, boxes and embeddings."""
    one_way = all_pairs(CROPS)
    first, second = torch.cat([one_way, one_way.flip(1)]).T
    overlap = ioa(boxes[:, first], boxes[:, second])
    cosine = (unit[:, first] * unit[:, second]).sum(-1)
    return index[:, None].expand_as(overlap).flatten(), overlap.flatten(), cosine.flatten()


def spearman(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return the correlation of the ranks, of which ties share the mean."""
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def interval(
    image: NDArray[Any], first: NDArray[Any], second: NDArray[Any], *, seed: int = 0
) -> tuple[float, float]:
    """Return a 95 % interval by the bootstrap over images: pairs of one image are no new sample."""
    rng = np.random.default_rng(seed)
    order = np.argsort(image, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(image[order]) > 0])
    groups = np.split(order, starts[1:])
    ranks = rankdata(first), rankdata(second)
    sums = np.array([_moments(ranks[0][group], ranks[1][group]) for group in groups])
    drawn = rng.integers(0, len(groups), (RESAMPLES, len(groups)))
    n, x, y, xx, yy, xy = sums[drawn].sum(1).T
    cov = xy / n - x * y / n**2
    spread = np.sqrt((xx / n - (x / n) ** 2) * (yy / n - (y / n) ** 2))
    low, high = np.quantile(cov / spread, [0.025, 0.975])
    return float(low), float(high)


def _moments(x: NDArray[Any], y: NDArray[Any]) -> list[float]:
    return [len(x), x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()]


def measure(
    encoder: Encoder, source: str, images: int, scale: tuple[float, float]
) -> dict[str, Any]:
    """Return the correlation of an encoder, with its interval and number of pairs."""
    image, overlap, cosine = pairs_of(encoder, source, images, scale)
    return {
        "spearman": spearman(overlap, cosine),
        "interval": interval(image, overlap, cosine),
        "pairs": len(image),
        "images": len(np.unique(image)),
        "mean_cosine": float(cosine.mean()),
    }


def report(record: Record, options: Mapping[str, Any]) -> None:
    """Measure each encoder."""
    torch.set_num_threads(THREADS)
    scale = (options["least_area"], 1.0)
    found = {}
    for path in options["encoders"]:
        name = path.parent.name if path.name == "encoder.safetensors" else path.stem
        encoder = load_encoder(path)
        each = measure(encoder, options["source"], options["images"], scale)
        found[name] = each
        low, high = each["interval"]
        record.lines.append(
            Line(
                experiment=f"GS-1: Spearman(IoA, cosine) of crops {scale[0]:g}-1 with IoA < .5, "
                f"encoder {name}",
                claim="above 0; higher with GS than without",
                ours=f"{each['spearman']:.3f}",
                n=f"{each['pairs']:,} pairs of {each['images']:,} images",
                interval=f"{low:.3f}-{high:.3f}, bootstrap over images",
                steps=int(encoder.settings.provenance.get("steps", 0)),
                verdict=verdict((low, high), 0.0),
            )
        )
    record.facts |= {"encoders": found, "scale": list(scale)}
