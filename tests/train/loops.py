"""Slow losses straight from the papers, in float64: what fast ones are compared with."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from viewstore.train.methods.simclr import Negatives


def loop_loss(
    first: Tensor, second: Tensor, negatives: Negatives, temperature: float
) -> list[float]:
    """Return the loss of each sample, [N], in nats, of embeddings [N, D], term by term.

    Source: equation 1 of arXiv:2002.05709 ("both"), equation 4 of arXiv:1807.03748 ("other").
    """
    embedded = [z.detach().double().numpy() for z in (first, second)]
    views = [[row / np.linalg.norm(row) for row in z] for z in embedded]
    losses = []
    for b in range(len(first)):
        total = 0.0
        for s, t in ((0, 1), (1, 0)):
            anchor = views[s][b]
            pool = list(views[t])
            if negatives == "both":
                pool += [row for i, row in enumerate(views[s]) if i != b]
            denominator = sum(math.exp(anchor @ row / temperature) for row in pool)
            total -= math.log(math.exp(anchor @ views[t][b] / temperature) / denominator)
        losses.append(total / 2)
    return losses
