"""Embeddings by name: of the rows of a plan, which are made together, and of a pair of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from viewstore.train.methods.traits import Net
from viewstore.train.plan import Plan, Row
from viewstore.train.views import At, Views

Emb = dict[str, Tensor]  # "feat", "z", "p", "logits", ...: float32 [rows, B, ...]


class Images(NamedTuple):
    """M images of one size: levels [M, C, r, r], and the columns of `Traits.reads`, [M, ...]."""

    pixels: Tensor
    params: Mapping[str, Tensor]
    at: At


class Embedded(NamedTuple):
    """The loss of a plan, a scalar, and the embeddings it came from."""

    loss: Tensor
    plan: Plan
    student: Emb
    target: Emb


class UnitPair(NamedTuple):
    """The unit vectors of a pair.

    Attributes:
        student: Of each sample, [B, D].
        target: Of what each sample learns from, [B, D].
        target_row: Of the target row in its own order, [B, D]: `target` without a partner.
    """

    student: Tensor
    target: Tensor
    target_row: Tensor

    @property
    def cosine(self) -> Tensor:
        """The cosine of student and target, [B]."""
        return (self.student * self.target).sum(-1)

    @property
    def squared_distance(self) -> Tensor:
        """The squared distance of student and target, [B]."""
        return (self.student - self.target).square().sum(-1)


def unit_rows(emb: Emb, name: str, side: Net) -> Tensor:
    """Return the unit vectors of embeddings, [rows, B, D]; computed once for a side of a plan."""
    key = f"unit {name} of {side}"
    if key not in emb:
        emb[key] = F.normalize(emb[name], dim=-1)
    return emb[key]


def grouped(views: Views, rows: Sequence[Row]) -> dict[tuple[Any, str], list[int]]:
    """Return the places of rows that may share a forward: by domain, and by what was made."""
    groups: dict[tuple[Any, str], list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        kind = "base" if row.made_from is None else views.role_of(row.view)
        groups[row.bn, kind].append(place)
    return groups


def split(emb: Emb, places: list[int]) -> dict[int, Emb]:
    """Return [M, ...] of several rows, one after the other, as [B, ...] of each."""
    parts = {name: value.chunk(len(places)) for name, value in emb.items()}
    return {
        place: {name: values[i] for name, values in parts.items()} for i, place in enumerate(places)
    }


def stacked(rows: list[Emb]) -> Emb:
    """Return [rows, B, ...]; where rows have fewer tokens than others, zeros stand for them."""
    stacked = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if values[0].ndim > 2:
            most = max(value.shape[1] for value in values)
            pad = (0,) * (2 * (values[0].ndim - 2))
            values = [F.pad(value, (*pad, 0, most - value.shape[1])) for value in values]
        stacked[name] = torch.stack(values)
    return stacked
