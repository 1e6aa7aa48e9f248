"""Low shot: linear SVMs, one against the rest, learnt from k samples of each class.

Source: HEXA (arXiv:2012.13493), Table 2, after VISSL's benchmark (arXiv:1905.01235); the penalty's
range, its choice and the subsets are ours.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.format.plan import checked_seed
from viewstore.progress import Progress, Silent, tracked
from viewstore.train.eval.multilabel import Targets, mean_average_precision, one_hot
from viewstore.train.eval.samples import (
    Floats,
    Rows,
    Samples,
    Score,
    check_probed,
    class_count,
    unit,
)
from viewstore.train.eval.subsets import check_shots, ranks_in_class

SHOTS = (2, 4, 8, 16, 32)
RUNS = 5
COSTS = 2.0 ** np.arange(-19, 5)
FOLDS = 3
Measure = Callable[[NDArray[Any], Targets], float]  # of decisions and targets, [N, C] both


def low_shot_score(
    bank: Samples,
    queries: Samples,
    rows: Rows,
    *,
    numbers: Sequence[int] = SHOTS,
    runs: int = RUNS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Score:
    """Return accuracies of `runs` subsets of k samples a class, for each k of `numbers`.

    The reported accuracy is the mean of the largest k. Features are L2-normalised; C is chosen by
    3-fold cross-validation, and 1 for k < 3.

    Args:
        bank: What is learnt from.
        queries: What is asked about.
        rows: Row of the source of each sample of the bank, which keys the subsets, [N].
        numbers: The k.
        runs: Subsets of each.
        seed: Of the subsets.
        progress: Shows how far it is.

    Raises:
        ConfigError: The bank or the queries are of one class, a class of the bank has fewer than
            k samples, or a number is below 1.
    """
    check_probed(bank.labels, queries.labels)
    seed = checked_seed(seed)
    numbers = tuple(dict.fromkeys(numbers))
    if not numbers or min(numbers) < 1 or runs < 1:
        raise ConfigError(f"shots and runs must be at least 1, got {list(numbers)} and {runs}")
    check_shots(bank.labels, max(numbers))
    classes = class_count(bank.labels, queries.labels)
    features, asked = unit(bank.features), unit(queries.features)
    targets = one_hot(bank.labels, classes)
    truth = one_hot(queries.labels, classes)
    found: dict[int, list[float]] = {k: [] for k in numbers}
    with tracked(progress or Silent(), "lowshot", len(numbers) * runs, "runs") as shown:
        for run in range(runs):
            ranks = ranks_in_class(bank.labels, rows, seed=seed, run=run)
            for k in numbers:
                chosen = np.flatnonzero(ranks < k)
                decided = svm_decisions(
                    features[chosen], targets[chosen], ranks[chosen], asked, k, _accuracy
                )
                found[k].append(_accuracy(decided, truth))
                shown.advance()
    by_shots = {
        k: {
            "mean": statistics.fmean(each),
            "sd": statistics.stdev(each) if runs > 1 else None,
            "runs": each,
        }
        for k, each in found.items()
    }
    most = max(numbers)
    return Score(
        metric="lowshot",
        accuracy=statistics.fmean(found[most]),
        n=len(queries.labels),
        bank=most * len(np.unique(bank.labels)),
        settings={"seed": seed, "runs": runs, "shots": most},
        details={"by_shots": by_shots},
    )


def low_shot_map(
    features: Floats,
    targets: Targets,
    asked: Floats,
    truth: Targets,
    rows: Rows,
    *,
    k: int,
    seed: int = 0,
    run: int = 0,
) -> float:
    """Return the mAP of SVMs learnt from k samples of each class of images with several labels.

    A class's k samples are drawn among those that show it; all SVMs learn from those of all.

    Args:
        features: Of the bank, float32 [N, F].
        targets: Of the bank, int8 [N, C], as in `multilabel`.
        asked: Features of the queries, [M, F].
        truth: Targets of the queries, [M, C].
        rows: Row of the source of each sample, [N].
        k: Samples of each class.
        seed: Of the subset.
        run: Other runs have other subsets.

    Raises:
        ConfigError: A class has fewer than k samples that show it.
    """
    chosen = multi_label_shots(targets, rows, k, seed=seed, run=run)
    order = np.arange(len(chosen))
    decided = svm_decisions(
        unit(features[chosen]),
        targets[chosen],
        order,
        unit(asked),
        k,
        _map_of_shown,
    )
    return mean_average_precision(decided, truth)


def multi_label_shots(
    targets: Targets, rows: Rows, k: int, *, seed: int, run: int
) -> NDArray[np.int64]:
    """Return which samples are among the k drawn ones that show a class, ascending.

    Raises:
        ConfigError: A class has fewer than k samples that show it.
    """
    found: set[int] = set()
    for c in range(targets.shape[1]):
        shows = np.flatnonzero(targets[:, c] == 1)
        if len(shows) < k:
            raise ConfigError(f"every class must have at least {k} samples, class {c} has fewer")
        same = np.zeros(len(shows), np.int64)
        ranks = ranks_in_class(same, rows[shows], seed=seed, run=run)
        found.update(shows[ranks < k].tolist())
    return np.array(sorted(found))


def svm_decisions(
    features: Floats,
    targets: Targets,
    ranks: NDArray[np.int64],
    asked: Floats,
    k: int,
    measure: Measure,
) -> NDArray[np.float64]:
    """Return the decisions [M, C] of an SVM for each class, with one C for all.

    Args:
        features: Unit features of the subset, [N, F].
        targets: int8 [N, C].
        ranks: Folds are ranks modulo 3: of a class its samples are spread over them.
        asked: Unit features, [M, F].
        k: Samples of a class; C is 1 where it is below 3.
        measure: What C is chosen by.
    """
    cost = 1.0
    if k >= FOLDS:
        fold = ranks % FOLDS
        scores = [
            np.mean(
                [
                    measure(
                        _decide(features[fold != f], targets[fold != f], features[fold == f], c),
                        targets[fold == f],
                    )
                    for f in range(FOLDS)
                ]
            )
            for c in COSTS.tolist()
        ]
        cost = float(COSTS[int(np.argmax(scores))])  # the first of equals: the simplest
    return _decide(features, targets, asked, cost)


def _decide(features: Floats, targets: Targets, asked: Floats, cost: float) -> NDArray[np.float64]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC
    from threadpoolctl import threadpool_limits

    decided = np.full((len(asked), targets.shape[1]), -np.inf)
    with threadpool_limits(torch.get_num_threads()), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for c in range(targets.shape[1]):
            counted = targets[:, c] >= 0
            labels = targets[counted, c]
            if len(np.unique(labels)) < 2:
                continue  # a class that the subset does not show is never guessed
            svm = LinearSVC(C=cost, loss="squared_hinge", dual="auto", random_state=0)
            decided[:, c] = svm.fit(features[counted], labels).decision_function(asked)
    return decided


def _map_of_shown(decided: NDArray[Any], targets: Targets) -> float:
    """Return the mAP over the classes that a fold shows; 0 if it shows none."""
    shown = (targets == 1).any(axis=0)
    return mean_average_precision(decided[:, shown], targets[:, shown]) if shown.any() else 0.0


def _accuracy(decided: NDArray[Any], targets: Targets) -> float:
    return float((decided.argmax(1) == targets.argmax(1)).mean())
