"""Logistic regression on frozen features, its penalty chosen on every fifth sample of the bank.

Source: the transfer protocol of Graded Similarity, after SimCLR (arXiv:2002.05709, appendix B.8).
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
import torch

from viewstore.errors import ConfigError
from viewstore.progress import Progress, Silent, tracked
from viewstore.train.eval.multilabel import Targets, mean_average_precision
from viewstore.train.eval.samples import (
    VALIDATION,
    Floats,
    Labels,
    Samples,
    Score,
    check_probed,
    mean_per_class,
    validation_split,
)

Convention = Literal["sum", "mean"]
CONVENTIONS: tuple[Convention, ...] = ("sum", "mean")
L2_GRID = np.logspace(-6, 5, 45)
ITERATIONS = 500


def logistic_score(
    bank: Samples,
    queries: Samples,
    *,
    convention: Convention = "sum",
    progress: Progress | None = None,
) -> Score:
    """Return the score of L-BFGS with the l2 of the grid that is best on a validation split.

    The penalty is l2 / 2 * |w|^2 beside the sum of the losses (`convention` "sum": scikit-learn's
    C is 1 / l2) or beside their mean over n samples ("mean": C is 1 / (n * l2)). It is fitted again
    on all of the bank. `mean_per_class` stands beside the share of all that is right.

    Raises:
        ConfigError: The bank or the queries are of one class, or there is no such convention.
    """
    _check(convention)
    check_probed(bank.labels, queries.labels)
    trains, validates = validation_split(bank.labels)
    train, check = bank.take(trains), bank.take(validates)
    scores = []
    with tracked(progress or Silent(), "l2", len(L2_GRID) + 1, "penalties") as shown:
        for l2 in L2_GRID:
            model = _fit(train.features, train.labels, l2, convention)
            scores.append(model.score(check.features, check.labels))
            shown.advance()
        l2 = _middle(scores)
        guesses = _fit(bank.features, bank.labels, l2, convention).predict(queries.features)
        shown.advance()
    return Score(
        metric="logreg",
        accuracy=float((guesses == queries.labels).mean()),
        n=len(queries.labels),
        bank=len(bank.labels),
        settings={"l2": l2, "convention": convention},
        details={"mean_per_class": mean_per_class(guesses, queries.labels)},
    )


def one_vs_rest(
    bank: Floats,
    bank_targets: Targets,
    queries: Floats,
    query_targets: Targets,
    *,
    convention: Convention = "sum",
) -> tuple[float, float]:
    """Return (mAP of 11 points, l2) of a regression for each class of images with several labels.

    One l2 for all classes is chosen by mAP on every fifth sample of the bank.

    Args:
        bank: Features, float32 [N, F].
        bank_targets: int8 [N, C], as in `multilabel`.
        queries: Features, [M, F].
        query_targets: [M, C].
        convention: As in `logistic_score`.

    Raises:
        ConfigError: A class has no positive or no negative sample in a part of the bank.
    """
    _check(convention)
    validates = np.arange(len(bank)) % VALIDATION == 0
    held, kept = bank_targets[validates], bank_targets[~validates]
    scores = [
        mean_average_precision(
            _decisions(bank[~validates], kept, bank[validates], l2, convention), held
        )
        for l2 in L2_GRID
    ]
    l2 = _middle(scores)
    decided = _decisions(bank, bank_targets, queries, l2, convention)
    return mean_average_precision(decided, query_targets), l2


def _check(convention: str) -> None:
    if convention not in CONVENTIONS:
        raise ConfigError(f"convention must be one of {', '.join(CONVENTIONS)}, got {convention!r}")


def _middle(scores: list[float]) -> float:
    """Return the l2 of the best score: the middle of a plateau, not its edge."""
    best = np.flatnonzero(np.asarray(scores) == max(scores))
    return float(L2_GRID[best[len(best) // 2]])


def _decisions(
    features: Floats, targets: Targets, asked: Floats, l2: float, convention: Convention
) -> Floats:
    columns = []
    for c in range(targets.shape[1]):
        counted = targets[:, c] >= 0
        labels = targets[counted, c].astype(np.int64)
        if len(np.unique(labels)) < 2:
            raise ConfigError(f"class {c} must have samples that show it and others in the bank")
        model = _fit(features[counted], labels, l2, convention)
        columns.append(model.decision_function(asked))
    return np.stack(columns, axis=1)


def _fit(features: Floats, labels: Labels, l2: float, convention: Convention) -> Any:  # noqa: ANN401
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    weight = l2 if convention == "sum" else l2 * len(labels)
    model = LogisticRegression(C=1 / weight, max_iter=ITERATIONS)
    # On a busy machine the threads of small matrix products wait for each other.
    with threadpool_limits(torch.get_num_threads()), warnings.catch_warnings():
        # With a very weak penalty there is no end to reach; validation passes it over.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # A few images of many classes are no regression, whatever their numbers look like.
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%")
        return model.fit(features, labels)
