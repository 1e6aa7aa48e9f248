"""Scores of images with several labels each: the average precision of PASCAL VOC 2007.

Targets are int8 [N, C]: 1 where an image shows the class, 0 where it does not, -1 where it is not
to be counted ("difficult"). Source: the VOC2007 development kit, section 3.4.1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError

Targets = NDArray[np.int8]
RECALLS = np.arange(11) / 10
EPS = 1e-9  # recalls of i / n are compared with tenths


def average_precision_11(scores: NDArray[Any], targets: Targets) -> float:
    """Return the mean over recalls 0, .1, .. 1 of the best precision at that recall or above.

    Args:
        scores: Of each image, [N]; of equal ones the earlier image comes first.
        targets: 1, 0 or -1 of each, [N].

    Raises:
        ConfigError: No image shows the class.
    """
    counted = targets >= 0
    shows = targets[counted] == 1
    if not shows.any():
        raise ConfigError("a class must have an image that shows it, to be scored")
    ranked = shows[np.argsort(-scores[counted], kind="stable")]
    found = np.cumsum(ranked)
    precision = found / np.arange(1, len(ranked) + 1)
    recall = found / found[-1]
    best = [precision[recall >= least - EPS].max() for least in RECALLS]
    return float(np.mean(best))


def mean_average_precision(scores: NDArray[Any], targets: Targets) -> float:
    """Return the mean of `average_precision_11` over the classes; scores and targets [N, C]."""
    return float(
        np.mean(
            [average_precision_11(scores[:, c], targets[:, c]) for c in range(targets.shape[1])]
        )
    )


def one_hot(labels: NDArray[np.int64], classes: int) -> Targets:
    """Return the targets of images with one label each, int8 [N, classes]."""
    return np.asarray(labels[:, None] == np.arange(classes), np.int8)
