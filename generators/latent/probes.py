"""What a secant search draws: the directions that it probes, and the turn of its simplex."""

from __future__ import annotations

import torch
from torch import Tensor

from viewstore.generators.stylegan2.codes import keyed_normal
from viewstore.randomness import MADE, Stream

ROTATION, DIRECTIONS = MADE, MADE + 1  # in the place of the view of a key


def probe_directions(
    stream: Stream, index: int, probes: int, code_shape: tuple[int, int], length: float
) -> Tensor:
    """Return random directions of latents, float32 [probes, L, D], of about a length.

    `index` is the row of the sample, `code_shape` is (L, D).
    """
    codes, width = code_shape
    drawn = keyed_normal(probes * codes, width, int(stream.seed_word(index, DIRECTIONS)))
    return drawn.unflatten(0, (probes, codes)) * (length / (codes * width) ** 0.5)


def simplex_rotation(stream: Stream, index: int, views: int) -> Tensor:
    """Return a random orthogonal matrix, float64 [q, q] with q = max(1, views - 1)."""
    size = max(1, views - 1)
    drawn = keyed_normal(size, size, int(stream.seed_word(index, ROTATION))).double()
    turned, triangle = torch.linalg.qr(drawn)
    return turned * triangle.diagonal().sign()  # of a matrix, QR with positive signs is one
