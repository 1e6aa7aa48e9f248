"""Spread, rank and intervals: against loops in float64, known clouds and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from viewstore.train.eval.measures import effective_rank, share_error, zstd


def gaussian(rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def loop_zstd(rows: Tensor) -> float:
    unit = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in rows.double().tolist()]
    spread = 0.0
    for column in zip(*unit, strict=True):
        mean = sum(column) / len(column)
        spread += math.sqrt(sum((x - mean) ** 2 for x in column) / len(column))
    return spread / len(unit[0]) * math.sqrt(len(unit[0]))


def test_zstd_is_the_loop_and_1_where_directions_are_spread() -> None:
    rows = gaussian(40, 6) + 0.5
    assert zstd(rows) == pytest.approx(loop_zstd(rows), rel=1e-12)
    assert zstd(gaussian(4000, 32)) == pytest.approx(1, abs=0.01)
    assert zstd(gaussian(1, 32).expand(50, -1) * torch.arange(1, 51)[:, None]) < 1e-6


def test_the_effective_rank_is_exp_of_the_entropy_of_eigenvalues() -> None:
    for rows, width in ((60, 5), (5, 60)):
        features = gaussian(rows, width) * torch.linspace(0.1, 3, width) + 2
        values = np.linalg.eigvalsh(np.cov(features.double().numpy(), rowvar=False))
        share = values[values > 1e-9] / values[values > 1e-9].sum()
        expected = math.exp(-sum(p * math.log(p) for p in share))
        assert effective_rank(features) == pytest.approx(expected, rel=1e-9)


def test_the_effective_rank_of_known_clouds() -> None:
    assert effective_rank(gaussian(20_000, 8)) == pytest.approx(8, abs=0.05)
    line = gaussian(500, 1) @ gaussian(1, 32, seed=1) + gaussian(1, 32, seed=2)
    assert effective_rank(line) == pytest.approx(1, abs=1e-4)


def test_rounding_is_no_rank() -> None:
    constant = gaussian(1, 32).expand(200, -1)
    noise = 1 + gaussian(200, 32, seed=3) * torch.finfo(torch.float32).eps / 2
    assert effective_rank(constant) == 0
    assert effective_rank(constant * noise) == 0


def test_the_error_of_a_share() -> None:
    assert share_error(0.2, 400) == pytest.approx(0.02)
    assert share_error(1, 7) == 0
