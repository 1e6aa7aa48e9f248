"""Votes of nearest neighbours by cosine: presets of papers, and the accuracy of each number.

Source: InstDisc (arXiv:1805.01978), section 3.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from viewstore.progress import Progress, Silent, tracked
from viewstore.train.eval.samples import Samples, Score, check_probed, class_count
from viewstore.train.eval.table import preset_of
from viewstore.train.eval.transform import OURS, PAPERS, EvalTransform

Weighting = Literal["exp", "uniform"]
WEIGHTINGS: tuple[Weighting, ...] = ("exp", "uniform")
SIMILARITIES = 1 << 24  # computed at once, float32: 64 MB


@dataclass(frozen=True, kw_only=True)
class KnnPreset:
    """How neighbours vote.

    Attributes:
        neighbours: Their numbers, the reported one first.
        temperature: Of their votes.
        transform: The evaluation transform of bank and queries.
    """

    neighbours: tuple[int, ...]
    temperature: float = 0.1
    transform: EvalTransform = OURS


# monitor: InstDisc's, as in the code of DSSL and CA. gs: the paper does not give its temperature.
# dino: what HVP reports.
KNN_PRESETS = {
    "monitor": KnnPreset(neighbours=(200,)),
    "ca": KnnPreset(neighbours=(5,)),
    "gs": KnnPreset(neighbours=(201,), transform=PAPERS),
    "dino": KnnPreset(
        neighbours=(20, 10, 100, 200),
        temperature=0.07,
        transform=PAPERS,
    ),
}


def knn(
    bank: Samples,
    queries: Samples,
    *,
    neighbours: Sequence[int],
    temperature: float,
    weighting: Weighting = "exp",
    progress: Progress | None = None,
) -> dict[int, float]:
    """Return the accuracy of a vote of the nearest neighbours by cosine, by their number.

    A neighbour's vote counts exp(cosine / temperature), or 1 if `weighting` is "uniform"; of equal
    votes the lower label wins. There are at most as many neighbours as samples in the bank.
    Similarities are float32, votes are added up in float64; memory is bounded whatever the sizes.
    """
    keys = F.normalize(torch.from_numpy(bank.features), dim=1)
    labels = torch.from_numpy(bank.labels)
    classes = class_count(bank.labels, queries.labels)
    numbers = tuple(dict.fromkeys(min(k, len(labels)) for k in neighbours))
    right = dict.fromkeys(numbers, 0)
    at_once = max(1, SIMILARITIES // max(len(labels), classes * 2))
    count = len(queries.labels)
    with tracked(progress or Silent(), "neighbours", count, "queries") as shown:
        for start in range(0, count, at_once):
            part = torch.from_numpy(queries.features[start : start + at_once])
            truth = torch.from_numpy(queries.labels[start : start + at_once])
            similarity, nearest = (F.normalize(part, dim=1) @ keys.T).topk(max(numbers))
            # exp(-1 / temperature) is a factor of all votes: with it none is too large for a float.
            weight = ((similarity.double() - 1) / temperature).exp()
            if weighting == "uniform":
                weight = torch.ones_like(weight)
            voters = labels[nearest]
            for k in numbers:
                votes = torch.zeros(len(part), classes, dtype=torch.float64)
                votes.scatter_add_(1, voters[:, :k], weight[:, :k])
                guesses = torch.from_numpy(votes.numpy().argmax(1))  # the first of equals
                right[k] += int((guesses == truth).sum())
            shown.advance(len(part))
    return {k: found / count for k, found in right.items()}


def knn_score(
    bank: Samples,
    queries: Samples,
    preset: str = "monitor",
    *,
    weighting: Weighting = "exp",
    progress: Progress | None = None,
) -> Score:
    """Return the score of the neighbours of a preset.

    Raises:
        ConfigError: There is no such preset, or the bank or the queries are of one class.
    """
    chosen = preset_of(KNN_PRESETS, preset, "nearest neighbours")
    check_probed(bank.labels, queries.labels)
    by_k = knn(
        bank,
        queries,
        neighbours=chosen.neighbours,
        temperature=chosen.temperature,
        weighting=weighting,
        progress=progress,
    )
    first = next(iter(by_k))
    settings = {
        "temperature": chosen.temperature,
        "weighting": weighting,
        "neighbours": first,
    }
    return Score(
        metric="knn",
        accuracy=by_k[first],
        n=len(queries.labels),
        bank=len(bank.labels),
        settings=settings,
        details={"by_k": by_k},
    )
