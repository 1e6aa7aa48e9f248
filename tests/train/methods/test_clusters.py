"""Spherical k-means against loops, and against the clusters of a public implementation."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from viewstore.train.methods import clusters
from viewstore.train.methods.clusters import spherical_kmeans


def unit(count: int, dimension: int = 6, seed: int = 1) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, dimension, generator=draws, dtype=torch.float64)
    return F.normalize(rows, dim=1)


def loop_kmeans(rows: Tensor, start: Tensor, iterations: int) -> tuple[list[list[float]], Tensor]:
    """Lists of numbers alone: assign, mean, normalise, and assign once more."""
    centroids = [row.tolist() for row in start]

    def assigned() -> list[int]:
        found = []
        for row in rows.tolist():
            products = [sum(a * b for a, b in zip(row, c, strict=True)) for c in centroids]
            found.append(products.index(max(products)))
        return found

    for _ in range(iterations):
        labels = assigned()
        for k in range(len(centroids)):
            members = [row for row, label in zip(rows.tolist(), labels, strict=True) if label == k]
            if members:
                mean = [sum(column) / len(members) for column in zip(*members, strict=True)]
                length = sum(value**2 for value in mean) ** 0.5
                centroids[k] = [value / length for value in mean]
    return centroids, torch.tensor(assigned())


@pytest.mark.parametrize("iterations", [1, 4])
@pytest.mark.parametrize("at_once", [7, 8192])
def test_clusters_are_those_of_loops(
    iterations: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "AT_ONCE", at_once)
    rows = unit(40)
    found = spherical_kmeans(rows, rows[:5], iterations=iterations)
    centroids, assignments = loop_kmeans(rows, rows[:5], iterations)
    torch.testing.assert_close(found.centroids, torch.tensor(centroids, dtype=torch.float64))
    assert torch.equal(found.assignments, assignments)


def test_a_cluster_without_rows_keeps_its_centroid() -> None:
    rows = F.normalize(unit(30).abs(), dim=1)
    start = torch.cat([rows[:3], -torch.ones(1, 6, dtype=torch.float64) / 6**0.5])
    found = spherical_kmeans(rows, start)
    torch.testing.assert_close(found.centroids[3], start[3])
    assert set(found.assignments.tolist()) <= {0, 1, 2}
    assert not torch.equal(found.centroids[:3], start[:3])


def test_a_start_is_left_as_it_is() -> None:
    rows = unit(20)
    start = rows[:4].clone()
    before = start.clone()
    spherical_kmeans(rows, start)
    assert torch.equal(start, before)


def test_clusters_are_those_of_a_public_implementation(shared: Path) -> None:
    with np.load(shared / "fixtures/ssl/deepclusterv2_assign.npz", allow_pickle=False) as file:
        known = {name: torch.from_numpy(file[name]) for name in file.files}
    index = known["memory_index"].long()
    for head in range(3):
        found = spherical_kmeans(
            known["memory_embeddings"][head % 2],
            known[f"init_centroids{head}"],
            iterations=int(known["kmeans_iters"]),
        )
        torch.testing.assert_close(found.centroids, known[f"centroids{head}"], rtol=0, atol=1e-6)
        of_rows = torch.full((60,), -100)
        of_rows[index] = found.assignments
        assert torch.equal(of_rows, known["assignments"][head].long())
