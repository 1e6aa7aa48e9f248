"""Joins the parts of a batch that were made from several stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewstore.format.columns import Column
from viewstore.loaders.batches.batch import Batch, View, ViewParams
from viewstore.loaders.pipeline.buffers import Buffer


def concatenate(
    batches: Sequence[Batch],
    rows: NDArray[np.int64],
    order: NDArray[np.int64],
    buffers: Sequence[Buffer],
) -> Batch:
    """Return one batch of `batches`; weight, epoch, step and state are those of the first.

    Args:
        batches: The parts, one after another.
        rows: Row of each sample, counted through the stores, [B].
        order: Index of each sample among the parts, [B].
        buffers: Pixels of each slot, uint8 [B, H, W, C], in the order of the samples; of absent
            ones they do not matter.
    """
    index = torch.from_numpy(order)
    return replace(
        batches[0],
        views=tuple(
            _joined([batch.views[slot] for batch in batches], index, buffer)
            for slot, buffer in enumerate(buffers)
        ),
        index=torch.from_numpy(rows.copy()),
        label=torch.cat([batch.label for batch in batches])[index],
        valid=torch.cat([batch.valid for batch in batches])[index],
    )


def _joined(views: list[View], index: Tensor, pixels: Buffer) -> View:
    """Return the views of a slot; `index` [B] is that of each sample among the parts."""
    roles = sorted({view.role for view in views})
    role = roles[0] if len(roles) == 1 else "mixed"
    source = "|".join(sorted({view.source for view in views}))
    if views[0].absent:  # as in every part
        return replace(views[0], role=role, source=source)
    names = sorted({name for view in views for name in view.params})
    sizes = [len(view.status) for view in views]
    params = [view.params for view in views]
    return View(
        pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2),
        params=ViewParams(tuple(names), partial(_column, params, sizes, index.numpy())),
        status=torch.cat([view.status for view in views])[index],
        role=role,
        parent=torch.cat([view.parent for view in views])[index],
        view=torch.cat([view.view for view in views])[index],
        source=source,
        parent_slot=views[0].parent_slot,
        colourless=views[0].colourless,  # as in every part
    )


def _column(
    params: list[Mapping[str, Tensor]], sizes: list[int], index: NDArray[np.int64], name: str
) -> Tensor:
    """Return a column of the whole batch; samples of a store that lacks it read as its fill."""
    found = [part[name].numpy() if name in part else None for part in params]
    like = next(values for values in found if values is not None)
    own = name.rpartition(".")[2]  # of a joined column, the name in its set
    form = Column(name=own, dtype=like.dtype.str[1:], shape=like.shape[1:])
    filled = [
        form.empty(size) if values is None else values
        for values, size in zip(found, sizes, strict=True)
    ]
    return torch.from_numpy(np.concatenate(filled)[index])
