"""Shuffling batch norm: ranks exchange samples, so that no key shares statistics with its query.

Source: MoCo, arXiv:1911.05722, section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from viewstore.randomness import Stream
from viewstore.train.distributed import gather_rows, rank, world_size
from viewstore.train.methods.embeddings import Emb
from viewstore.train.plan import Row
from viewstore.train.views import At, Views

DOMAIN = b"viewstore/shuffle/1"


def shuffled(views: Views, rows: Sequence[Row]) -> tuple[Views, list[Row]]:
    """Return what this rank embeds: each row as a view, of samples that lay on any rank.

    All ranks have as many samples, and draw one order of all from the seed, the epoch and the step.
    """
    own = _own(shuffled_order(views.at, world_size() * len(views)))
    exchanged = replace(
        views,
        pixels=tuple(gather_rows(views.image(row.view))[own] for row in rows),
        role=tuple(views.role_of(row.view) for row in rows),
        parent=(-1,) * len(rows),
        params=({},) * len(rows),
        sample=gather_rows(views.sample)[own],
        base=(),
    )
    return exchanged, [replace(row, view=view) for view, row in enumerate(rows)]


def restored(emb: Emb, views: Views) -> Emb:
    """Return the embeddings [rows, B, ...] of this rank's samples, from those of the exchanged."""
    own = _own(shuffled_order(views.at, world_size() * len(views)).argsort())
    return {
        name: gather_rows(value.transpose(0, 1))[own].transpose(0, 1) for name, value in emb.items()
    }


def shuffled_order(at: At, count: int) -> Tensor:
    """Return the order of all samples of a step, int64 [count]."""
    word = int(Stream(at.seed, at.epoch, DOMAIN).seed_word(at.step, 0))
    return torch.randperm(count, generator=torch.Generator().manual_seed(word))


def _own(order: Tensor) -> Tensor:
    """Return this rank's part of an order of all samples."""
    return order.chunk(world_size())[rank()]
