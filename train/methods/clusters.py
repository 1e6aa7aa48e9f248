"""Spherical k-means: unit vectors in clusters around unit centroids.

Source: DeepCluster-v2, arXiv:2006.09882, appendix D.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

AT_ONCE = 8192  # rows: bounds memory


class Clusters(NamedTuple):
    """Unit centroids, [K, D], and the number of the nearest one of each row, int64 [N]."""

    centroids: Tensor
    assignments: Tensor


def spherical_kmeans(rows: Tensor, centroids: Tensor, *, iterations: int = 10) -> Clusters:
    """Return the clusters of unit vectors [N, D] that start at `centroids` [K, D].

    An iteration assigns each row to the centroid with the greatest dot product, and moves each
    centroid to the direction of the mean of its rows; one without rows stays. The last centroids
    are assigned once more. The same rows give the same bits, on a GPU too.
    """
    for _ in range(iterations):
        sums, counts = _sums(rows, centroids)
        means = sums / counts.clamp(min=1)[:, None]
        centroids = F.normalize(torch.where(counts[:, None] > 0, means, centroids), dim=1)
    nearest = [_nearest(part, centroids) for part in torch.split(rows, AT_ONCE)]
    return Clusters(centroids, torch.cat(nearest))


def _nearest(rows: Tensor, centroids: Tensor) -> Tensor:
    return (rows @ centroids.T).argmax(1)


def _sums(rows: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum [K, D] and the number [K] of the rows that are nearest to each centroid.

    As products of matrices: sums by index do not give the same bits twice on a GPU.
    """
    sums, counts = torch.zeros_like(centroids), centroids.new_zeros(len(centroids))
    numbers = torch.arange(len(centroids), device=rows.device)
    for part in torch.split(rows, AT_ONCE):
        members = (_nearest(part, centroids)[:, None] == numbers).to(part.dtype)
        sums += members.T @ part
        counts += members.sum(0)
    return sums, counts
