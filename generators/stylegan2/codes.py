"""Keyed normal deviates: row i depends on the seed and i alone, whatever the number of rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def keyed_normal(num: int, width: int, seed: int) -> Tensor:
    """Return float32 [num, width] drawn from N(0, 1).

    Box-Muller over raw Philox words: numpy may change its normal deviates (NEP 19), not these.
    """
    pairs = (width + 1) // 2
    words = np.random.Philox(key=seed).random_raw(num * pairs * 2).reshape(num, pairs, 2)
    uniform = ((words >> np.uint64(11)) + 0.5) * 2.0**-53
    radius = np.sqrt(-2 * np.log(uniform[..., 0]))
    angle = 2 * np.pi * uniform[..., 1]
    both = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return torch.from_numpy(both.reshape(num, -1)[:, :width].astype(np.float32))
