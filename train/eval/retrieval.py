"""Retrieval of buildings as in revisited Oxford and Paris: E, M and H, mAP and mP@k.

Source: Radenovic et al., Revisiting Oxford and Paris (arXiv:1803.11285).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.sources.table import SourceTable
from viewstore.train.encoder_file import Encoder
from viewstore.train.eval.features import Work, unlabelled_features
from viewstore.train.eval.ground_truth import GroundTruth
from viewstore.train.eval.samples import unit
from viewstore.train.eval.transform import Boxed, Still

# By protocol: the lists of images that are right, and of those that do not count.
PROTOCOLS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "E": (("easy",), ("junk", "hard")),
    "M": (("easy", "hard"), ("junk",)),
    "H": (("hard",), ("junk", "easy")),
}


@dataclass(frozen=True, kw_only=True)
class RetrievalScore:
    """Means over the queries that have something to find, by protocol.

    Attributes:
        mean_average_precision: mAP.
        standard_error: Of the mAP, from its spread over the queries; nan for one query.
        precision_at_k: mP@k.
        queries: Queries that were counted.
        database: Images that were searched.
        k: Of mP@k.
    """

    mean_average_precision: Mapping[str, float]
    standard_error: Mapping[str, float]
    precision_at_k: Mapping[str, float]
    queries: Mapping[str, int]
    database: int
    k: int


def average_precision(ranks: Sequence[int], count: int) -> float:
    """Return the area under precision and recall by trapezia.

    sum_j (p0 + p1) / (2 * count), p0 = j / r_j (1 where r_j is 0), p1 = (j + 1) / (r_j + 1).

    Args:
        ranks: Ranks r_j of what is right, from 0, ascending.
        count: How many images are right, found or not.
    """
    total = 0.0
    for j, rank in enumerate(ranks):
        total += (j / rank if rank else 1.0) + (j + 1) / (rank + 1)
    return total / (2 * count)


def precision_at(ranks: Sequence[int], k: int) -> float:
    """Return the share of right images among the first q = min(k, 1-based rank of the last)."""
    first = min(k, ranks[-1] + 1)
    return sum(rank < first for rank in ranks) / first


def ranks_of(
    ranking: NDArray[np.int64], right: NDArray[np.int64], junk: NDArray[np.int64]
) -> list[int]:
    """Return the ranks of `right` in a ranking from which `junk` is taken out, ascending."""
    kept = ranking[~np.isin(ranking, junk)]
    return np.flatnonzero(np.isin(kept, right)).tolist()


def retrieval_scores(
    similarity: NDArray[Any], truth: GroundTruth, *, k: int = 10
) -> RetrievalScore:
    """Return the scores of E, M and H; queries with nothing to find are skipped.

    Args:
        similarity: Of each query and each image of the database, [Q, D].
        truth: What is right.
        k: Of mP@k.

    Raises:
        ConfigError: No query has anything to find in one of the protocols.
    """
    rankings = np.argsort(-similarity, axis=1, kind="stable")
    precision: dict[str, list[float]] = {name: [] for name in PROTOCOLS}
    at_k: dict[str, list[float]] = {name: [] for name in PROTOCOLS}
    for ranking, query in zip(rankings, truth.queries, strict=True):
        for name, (right_lists, junk_lists) in PROTOCOLS.items():
            right = np.concatenate([query.lists[each] for each in right_lists])
            if not len(right):
                continue
            junk = np.concatenate([query.lists[each] for each in junk_lists])
            ranks = ranks_of(ranking, right, junk)
            precision[name].append(average_precision(ranks, len(right)))
            at_k[name].append(precision_at(ranks, k))
    counted = {name: each for name, each in precision.items() if each}
    if not counted:
        raise ConfigError("no query has an easy or a hard image to find")
    return RetrievalScore(
        mean_average_precision={name: float(np.mean(each)) for name, each in counted.items()},
        standard_error={
            name: float(np.std(each, ddof=1) / len(each) ** 0.5) if len(each) > 1 else float("nan")
            for name, each in counted.items()
        },
        precision_at_k={name: float(np.mean(at_k[name])) for name in counted},
        queries={name: len(each) for name, each in counted.items()},
        database=len(truth.database),
        k=k,
    )


def retrieve(
    encoder: Encoder, table: SourceTable, truth: GroundTruth, work: Work, *, k: int = 10
) -> RetrievalScore:
    """Return the scores of an encoder: cosines of features of images resized to its size.

    Queries are cut out by their boxes first; no image is cropped otherwise, and its shape is not
    kept.

    Raises:
        ConfigError: No query has anything to find.
        FormatError: An image cannot be read.
    """
    rows = np.array([query.row for query in truth.queries])
    boxes = tuple((query.row, query.box) for query in truth.queries)
    asked = unlabelled_features(encoder, table, rows, Boxed(boxes=boxes), work)
    found = unlabelled_features(encoder, table, truth.database, Still(), work)
    similarity = unit(asked) @ unit(found).T
    return retrieval_scores(similarity, truth, k=k)
