"""The bank that contrastive methods score against: views of a fixed choice of other images.

A batch would make a view depend on the company it was built in. View 0 of the rows with the least
seed words of the view set stands for it, the same for every sample but its own.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.format.columns import MADE
from viewstore.generators.contract import Context, Reach
from viewstore.generators.latent.decode import from_pixels
from viewstore.store.view_set import ViewSet

AT_ONCE = 64  # images of the bank that are embedded together


class Remembers(Protocol):
    """A scorer (`train/scoring/scorer.py`) as far as its bank goes."""

    name: str
    needs_bank: bool
    input_size: tuple[int, int] | None
    num_rows: int | None

    def remember(self, bank: Tensor, rows: Tensor) -> None:
        """Take images float32 [N, 3, H, W] in [0, 1] of the samples in rows, int64 [N]."""


def scorer_of(context: Context, parent: ViewSet) -> Remembers:
    """Return the scorer of a context.

    Raises:
        ConfigError: There is none, or it takes views of another size, or of another store.
    """
    scorer: Remembers | None = context.models.get("scorer")
    if scorer is None:
        raise ConfigError(
            "views are scored by a trained method, and no file is given",
            where="--scorer",
            fix="give --scorer RUN/checkpoint.safetensors, or the encoder.safetensors of a run",
        )
    size = (parent.height, parent.width)
    if scorer.input_size not in (None, size):
        height, width = scorer.input_size
        raise ConfigError(
            f"the scorer takes images of {height}x{width}, the views of {parent.name} are "
            f"{size[0]}x{size[1]}",
            code="VS103",
            where="--scorer",
            fix="give a scorer that was trained on views of this size",
        )
    if scorer.num_rows not in (None, context.num_samples):
        raise ConfigError(
            f"the scorer has prototypes for {scorer.num_rows} images, the store has "
            f"{context.num_samples}",
            code="VS103",
            where="--scorer",
            fix="give a scorer that was trained on this store",
        )
    return scorer


def reach_of(scorer: Remembers) -> Reach:
    """Return which rows of its input a scored sample is made from."""
    return "set" if scorer.needs_bank else "sample"


def bank_rows(context: Context, parent: ViewSet, count: int) -> NDArray[np.int64]:
    """Return the rows of the bank, ascending: at most `count` whose view 0 was made."""
    rows = np.flatnonzero(np.isin(parent.params["status"][:, 0], MADE))
    words = context.stream.seed_word(rows, 0)
    return np.sort(rows[np.argsort(words, kind="stable")[:count]])


def fill_bank(scorer: Remembers, context: Context, parent: ViewSet, count: int) -> None:
    """Have a scorer on the context's device remember its bank, if it needs one."""
    if not scorer.needs_bank:
        return
    rows = bank_rows(context, parent, count)
    images = np.stack([parent[int(row)][0] for row in rows])
    at = torch.from_numpy(rows).to(context.device)
    scorer.remember(from_pixels(images, context.device), at)
