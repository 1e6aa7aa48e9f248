"""Scores of methods without negatives: a prediction is drawn to its target, and nothing else."""

from __future__ import annotations

import torch

from viewstore.train.methods.embeddings import UnitPair
from viewstore.train.plan import Scores


def aligned(unit: UnitPair, *, squared: bool) -> Scores:
    """Return scores whose pull is -cos of a pair or, `squared`, 2 - 2 cos: its squared distance."""
    cosine = unit.cosine
    return Scores(
        cosine=cosine,
        pull=2 - 2 * cosine if squared else -cosine,
        push=torch.zeros_like(cosine),
        squared_distance=unit.squared_distance,
        scale=2.0 if squared else 1.0,
        inverse_tau=1.0,
    )
