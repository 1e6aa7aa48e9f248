"""What a secant search draws: the directions that it probes, and the turn of its simplex."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from viewstore.generators.stylegan2.codes import keyed_normal
from viewstore.randomness import MADE, Stream

ROTATION, DIRECTIONS = MADE, MADE + 1  # in the place of the view of a key


def probe_directions(
    stream: Stream, index: int, shape: tuple[int, int, int, int], length: float
) -> Tensor:
    """Return random directions of latents, float32 [T, M, L, D], each of about a length.

    `index` is the row of the sample. More of them begin with the same ones.
    """
    _, _, codes, width = shape
    num = math.prod(shape[:3])
    drawn = keyed_normal(num, width, int(stream.seed_word(index, DIRECTIONS)))
    return drawn.reshape(shape) * (length / math.sqrt(codes * width))


def simplex_rotation(stream: Stream, index: int, views: int) -> Tensor:
    """Return a random orthogonal matrix, float64 [q, q] with q = max(1, views - 1)."""
    size = max(1, views - 1)
    drawn = keyed_normal(size, size, int(stream.seed_word(index, ROTATION))).double()
    turned, triangle = torch.linalg.qr(drawn)
    rotation: Tensor = turned * triangle.diagonal().sign()  # or its signs were LAPACK's
    return rotation
