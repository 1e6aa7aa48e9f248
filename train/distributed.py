"""What the processes of one training tell each other; alone, each of these is the identity.

Rows are those of a tensor's first dimension; they must be as many on every rank. Gradients are
those of the sum of the losses of all ranks, which DistributedDataParallel then divides by their
number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def world_size() -> int:
    """Return the number of processes that train together, 1 where there is no process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process among them, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows of all ranks, [W * N, ...], in the order of ranks, without a gradient."""
    rows = rows.detach()
    if world_size() == 1:
        return rows
    gathered = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(gathered, rows.contiguous())
    return torch.cat(gathered)


def all_gather_with_gradient(rows: Tensor) -> Tensor:
    """Return the rows of all ranks, [W * N, ...], in the order of ranks.

    The gradient of a row is what the losses of all ranks make of it. A rank's loss of its own
    rows against all columns, averaged over its rows, has after DistributedDataParallel the
    gradient of the loss of the whole batch.
    """
    if world_size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


def all_reduce_mean(values: Tensor) -> Tensor:
    """Return the mean of a float tensor over all ranks.

    Its gradient is the mean of the gradients that all ranks have of it: a loss of the mean, the
    same on every rank, has after DistributedDataParallel the gradient of one process.
    """
    if world_size() == 1:
        return values
    mean: Tensor = _Mean.apply(values)  # type: ignore[no-untyped-call]
    return mean


def any_rank(value: bool) -> bool:
    """Return whether `value` is true on at least one rank, the same answer on all."""
    if world_size() == 1:
        return value
    return bool(gather_rows(torch.tensor([value], dtype=torch.uint8)).any())


class _Gather(torch.autograd.Function):
    """Gather rows; backward, sum each row's gradients over ranks."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:  # noqa: ANN401
        ctx.rows = len(rows)
        return gather_rows(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        first = rank() * ctx.rows
        return _sum(gradient)[first : first + ctx.rows]


class _Mean(torch.autograd.Function):
    """The mean over ranks, forward and backward."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ANN401
        return _sum(values) / world_size()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        return _sum(gradient) / world_size()


def _sum(values: Tensor) -> Tensor:
    """Return a new tensor with the sum over ranks."""
    total = values.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total
