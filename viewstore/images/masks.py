"""Masks of patches, block-wise, for methods that predict what is hidden of a view (iBOT).

A mask is a function of (seed, epoch, sample, view) and of nothing else, as every draw is.
Source: BEiT (arXiv:2106.08254), algorithm 1; iBOT (arXiv:2111.07832), section 3.
"""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.randomness import Op, Stream, integers

LEAST_ASPECT = 0.3  # height / width of a block; the greatest is its inverse
LEAST_SHARE = 1 / 3  # of the grid's shorter side: that of a square block of the least area
BLOCKS = 64  # drawn at most


def block_masks(
    stream: Stream,
    index: NDArray[np.integer[Any]],
    view: int,
    *,
    grid: tuple[int, int],
    ratio: float = 0.3,
) -> NDArray[np.bool_]:
    """Return which patches of a view are masked, bool [B, height * width], row by row.

    Blocks are drawn until floor(ratio * height * width) patches are masked: an area between a
    square of a third of the grid's shorter side and what is still to be masked, and a log-uniform
    aspect ratio in [.3, 1 / .3]. A block that would mask too many is left out, so that a mask has
    that many patches or, where 64 blocks did not suffice, a few less.

    Args:
        stream: Seed and epoch of the draws.
        index: Rows of the store, [B].
        view: Number of the view.
        grid: Height and width in patches.
        ratio: Share of the patches to mask, in [0, 1].

    Raises:
        ConfigError: `grid` or `ratio` is none.
    """
    height, width = grid
    if min(height, width) < 1:
        raise ConfigError(f"grid must have at least one patch a side, got {grid}")
    if not 0 <= ratio <= 1:
        raise ConfigError(f"ratio must be in [0, 1], got {ratio}")
    wanted = int(ratio * height * width)
    masks = np.zeros((len(index), height, width), np.bool_)
    left = np.full(len(index), wanted)  # patches to mask still
    for block in range(BLOCKS):
        (unfinished,) = np.nonzero(left)
        if not len(unfinished):
            break
        u = stream.uniform(Op.MASK, index[unfinished], view, first_block=block)
        inside = _inside(u, left[unfinished], height, width)
        new = (inside & ~masks[unfinished]).sum(axis=(1, 2))
        taken = new <= left[unfinished]
        masks[unfinished[taken]] |= inside[taken]
        left[unfinished[taken]] -= new[taken]
    return masks.reshape(len(index), height * width)


def _inside(
    u: NDArray[np.float64], left: NDArray[np.int64], height: int, width: int
) -> NDArray[np.bool_]:
    """Return which patches lie in a block of at most about `left` [n] patches, [n, H, W]."""
    least = np.minimum((min(height, width) * LEAST_SHARE) ** 2, left)
    area = least + u[:, 0] * (left - least)
    aspect = np.exp((2 * u[:, 1] - 1) * log(1 / LEAST_ASPECT))
    tall = np.clip(np.rint(np.sqrt(area * aspect)), 1, height).astype(np.int64)
    wide = np.clip(np.rint(np.sqrt(area / aspect)), 1, width).astype(np.int64)
    top, first = integers(u[:, 2], height - tall + 1), integers(u[:, 3], width - wide + 1)
    rows, columns = _between(height, top, top + tall), _between(width, first, first + wide)
    return np.asarray(rows[:, :, None] & columns[:, None])


def _between(size: int, begin: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which of `size` places lie in [begin, end), [n, size]."""
    places = np.arange(size)
    return np.asarray((places >= begin[:, None]) & (places < end[:, None]))
