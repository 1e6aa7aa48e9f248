"""The objective of W-search, and the rules by which a sample is done.

`d_k` is the distance of view k to the anchor, `p_kj` that of views k and j, all between unit
vectors. Source: equations 1 and 2 of Han et al., "Constructive Assimilation".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from viewstore.store.constraints import pair_bound

Anchor = Literal["recon", "image"]
Delta = Literal["l2", "l1", "hinge", "cosine"]
Spread = Literal["per-view", "mean"]
Stop = Literal["distances", "loss"]

WITHIN_BOUND = 0.95  # of the bound: as near as views that were searched for come to it
PAIR_SHARE = 0.98  # of the target for the mean pair: rounding to stored pixels may cost the rest


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What the views of a sample are searched for.

    Attributes:
        views: n, per sample.
        eps1: Distance to the anchor.
        eps2: Mean pairwise distance below which views are pushed apart.
        eps_min: Distance below which a view is pushed from its nearest one; 0 is off.
        lam: Weight of both pushes.
        delta: How a distance other than eps1 is punished; "hinge" only one below it.
        spread: Whether eps2 is a goal for the mean distance of each view, or of the sample.
        stop: Whether a sample is a candidate by its distances, or by its loss alone.
        loss_stop: The loss of a candidate, for stop "loss".
        tol: How far distances of stored pixels may be from eps1.
    """

    views: int
    eps1: float
    eps2: float
    eps_min: float
    lam: float
    delta: Delta
    spread: Spread
    stop: Stop
    loss_stop: float
    tol: float

    @property
    def has_pairs(self) -> bool:
        """Whether pairwise distances are part of the goal."""
        return self.lam > 0 and self.views > 1

    @property
    def mean_pair_target(self) -> float:
        """The mean pairwise distance that a candidate must have."""
        if not self.has_pairs:
            return 0.0
        return min(self.eps2, WITHIN_BOUND * pair_bound(self.eps1, self.views))


class Distances(NamedTuple):
    """Feature distances of each view, float32 [..., n]; those of pairs are 0 for a single view.

    Attributes:
        anchor: To the anchor.
        mean_pair: To the other views, the mean.
        least_pair: To the nearest other view.
    """

    anchor: Tensor
    mean_pair: Tensor
    least_pair: Tensor


def distances(h: Tensor, anchor: Tensor) -> Distances:
    """Measure unit vectors `h` [..., n, E] against each other and `anchor` [..., E].

    Differences are taken before squares: 2 - 2 h.h has lost all digits of a small distance.
    """
    to_anchor = _length(h - anchor.unsqueeze(-2))
    views = h.shape[-2]
    if views == 1:
        return Distances(to_anchor, torch.zeros_like(to_anchor), torch.zeros_like(to_anchor))
    pairs = _length(h.unsqueeze(-2) - h.unsqueeze(-3))
    own = torch.eye(views, dtype=torch.bool, device=h.device)
    mean = pairs.masked_fill(own, 0).sum(-1) / (views - 1)
    return Distances(to_anchor, mean, pairs.masked_fill(own, math.inf).amin(-1))


def view_losses(goal: Goal, measured: Distances) -> Tensor:
    """Return the part of each view [..., n]; the loss of a sample is their mean."""
    loss = _delta(goal, measured.anchor)
    if not goal.has_pairs:
        return loss
    apart = measured.mean_pair
    if goal.spread == "mean":
        apart = apart.mean(-1, keepdim=True)
    loss = loss + goal.lam * F.relu(goal.eps2 - apart)
    if goal.eps_min > 0:
        loss = loss + goal.lam * F.relu(goal.eps_min - measured.least_pair)
    return loss


def measure(goal: Goal, features: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of each sample [P], and [P, n, 4]: distances and loss of each view.

    `features`: [P, n, E]; `anchors`: [P, E].
    """
    measured = distances(features, anchors)
    losses = view_losses(goal, measured)
    return losses.mean(-1), torch.stack([*measured, losses], dim=-1)


def is_candidate(goal: Goal, measured: NDArray[np.float32], *, tol_search: float) -> bool:
    """Decide whether a sample under search is worth rendering.

    `measured`: [n, 4] of one sample: distance, mean and least pair, loss.
    """
    anchor, mean_pair, least_pair, loss = measured.T
    if goal.stop == "loss":
        return bool(loss.mean() <= goal.loss_stop)
    near = bool(_off(goal, anchor) <= tol_search)
    if not goal.has_pairs:
        return near
    return (
        near
        and bool(mean_pair.mean() >= goal.mean_pair_target)
        and bool(least_pair.min() >= goal.eps_min)
    )


def is_accepted(goal: Goal, measured: NDArray[np.float32]) -> bool:
    """Decide whether the stored views of a sample meet the goal: [n, 4] as in `is_candidate`.

    A search that stops by its loss promises nothing about pairs.
    """
    anchor, mean_pair, _, _ = measured.T
    near = bool(_off(goal, anchor) <= goal.tol)
    if goal.stop == "loss":
        return near
    return near and bool(mean_pair.mean() >= PAIR_SHARE * goal.mean_pair_target)


def _off(goal: Goal, anchor: NDArray[np.float32]) -> float:
    """Return how far the worst view is from eps1; a hinge asks for eps1 or more."""
    short = goal.eps1 - anchor
    return float((short if goal.delta == "hinge" else np.abs(short)).max())


def _length(difference: Tensor) -> Tensor:
    # The constant keeps the gradient of a zero distance finite.
    return (difference.square().sum(-1) + 1e-12).sqrt()


def _delta(goal: Goal, distance: Tensor) -> Tensor:
    if goal.delta == "l2":
        return (distance - goal.eps1).square()
    if goal.delta == "l1":
        return (distance - goal.eps1).abs()
    if goal.delta == "hinge":
        return F.relu(goal.eps1 - distance)
    # h.h0 = 1 - d^2 / 2, so this is (h.h0 - (1 - eps1^2 / 2))^2.
    return ((goal.eps1**2 - distance.square()) / 2).square()
