"""The scorer of a build, and the bank that contrastive ones score against.

A batch would make a score depend on the company of its sample. View 0 of the rows with the least
seed words of the view set stands for it, the same for all samples but their own.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.format.columns import MADE
from viewstore.generators.contract import Context
from viewstore.generators.numerics import from_pixels
from viewstore.store.view_set import ViewSet

ROLE = "scorer"


class Remembers(Protocol):
    """A scorer (train/scoring/scorer.py) as far as its bank goes."""

    name: str
    needs_bank: bool
    input_size: tuple[int, int] | None
    num_rows: int | None

    def remember(self, bank: Tensor, rows: Tensor) -> None:
        """Take images float32 [N, 3, H, W] in [0, 1] of the samples in rows, int64 [N]."""


def scorer_of(context: Context, parent: ViewSet) -> Remembers:
    """Return the scorer of the views of `parent`.

    Raises:
        ConfigError: There is none, or one of another size or for fewer images.
    """
    scorer: Remembers | None = context.models.get(ROLE)
    if scorer is None:
        raise ConfigError(
            "views are scored by a trained network, and no file is given",
            where="--scorer",
            fix="give --scorer RUN/checkpoint.safetensors, or the encoder.safetensors of a run",
        )
    size = parent.height, parent.width
    if scorer.input_size not in (None, size):
        (height, width), (own_height, own_width) = scorer.input_size, size
        raise ConfigError(
            f"the scorer takes images of {height}x{width}, the views of {parent.name} are "
            f"{own_height}x{own_width}",
            code="VS103",
            where="--scorer",
            fix="give a scorer that was trained on views of this size",
        )
    if scorer.num_rows is not None and scorer.num_rows < context.num_samples:
        raise ConfigError(
            f"the scorer was trained on {scorer.num_rows} images, the store has "
            f"{context.num_samples}",
            code="VS103",
            where="--scorer",
            why=f"{scorer.name} has a target for each of them",
            fix="give a scorer that was trained on this store",
        )
    return scorer


def bank_rows(context: Context, parent: ViewSet, count: int) -> NDArray[np.int64]:
    """Return the rows of the bank, ascending: at most `count` of those whose view 0 was made."""
    rows = np.flatnonzero(np.isin(parent.params["status"][:, 0], MADE))
    words = context.stream.seed_word(rows, 0)
    return np.sort(rows[np.argsort(words, kind="stable")[:count]])


def fill_bank(scorer: Remembers, context: Context, parent: ViewSet, count: int) -> None:
    """Have a scorer on the context's device remember its bank, if it needs one."""
    if not scorer.needs_bank:
        return
    rows = bank_rows(context, parent, count)
    images = np.stack([parent[int(row)][0] for row in rows])
    scorer.remember(from_pixels(images, context.device), torch.from_numpy(rows).to(context.device))
