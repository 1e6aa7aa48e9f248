"""One rank of a job of two: it takes the gradients of small losses and writes what it has seen.

python rank_process.py OUT, with what torchrun sets in the environment.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import distributed as dist

from viewstore.errors import ConfigError
from viewstore.train.distributed import (
    all_gather_with_gradient,
    all_reduce_mean,
    any_rank,
    gather_rows,
    rank,
    world_size,
)
from viewstore.train.loop.checkpoint import TrainState, load_checkpoint, save_checkpoint
from viewstore.train.loop.distributed import joined

SAMPLES = 6
Loss = Callable[[Tensor, Tensor], Tensor]


def images() -> tuple[Tensor, Tensor]:
    """Return two views of all samples, [SAMPLES, 5] each."""
    generator = torch.Generator().manual_seed(3)
    both = torch.randn(2, SAMPLES, 5, generator=generator, dtype=torch.float64)
    return both[0], both[1]


def network() -> nn.Module:
    """Return the same small network on every rank."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))


def small() -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return what a checkpoint is of."""
    model = network()
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def ntxent(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean NT-Xent loss of the rows of this rank against those of all ranks."""
    u, v = F.normalize(first), F.normalize(second)
    every_u, every_v = all_gather_with_gradient(u), all_gather_with_gradient(v)
    own = rank() * len(u)
    there = _contrast(u, v, torch.cat([every_u, every_v]), own)
    back = _contrast(v, u, torch.cat([every_v, every_u]), own)
    return (there + back).mean() / 2


def _contrast(anchor: Tensor, positive: Tensor, pool: Tensor, own: int) -> Tensor:
    """Return the loss of each anchor, row `own` + i of the pool, which is left out there."""
    similarity, rows = anchor @ pool.T / 0.3, torch.arange(len(anchor))
    similarity = similarity.index_put((rows, rows + own), similarity.new_tensor(-torch.inf))
    return similarity.logsumexp(1) - (anchor * positive).sum(1) / 0.3


def barlow(first: Tensor, second: Tensor) -> Tensor:
    """Return a loss of the correlations of all samples, which are no mean over samples."""
    correlation = all_reduce_mean(first.T @ second / len(first))
    return (correlation - torch.eye(4, dtype=torch.float64)).square().sum()


LOSSES: dict[str, Loss] = {"ntxent": ntxent, "barlow": barlow}


def gradients(
    model: nn.Module, loss: Loss, views: tuple[Tensor, Tensor]
) -> tuple[float, list[float]]:
    """Return the loss of two views and its gradients, one after the other."""
    model.zero_grad()
    first, second = model(torch.cat(views)).chunk(2)
    value = loss(first, second)
    value.backward()
    found = [each.grad for each in model.parameters()]
    return value.item(), torch.cat([g.flatten() for g in found if g is not None]).tolist()


def of_rank(values: Tensor) -> Tensor:
    """Return the rows of this rank."""
    return values.chunk(world_size())[rank()]


def exchanged() -> dict[str, Any]:
    """Return what the ranks make of small tensors."""
    here = torch.full((2, 3), float(rank()), requires_grad=True)
    gathered = gather_rows(here)
    return {
        "rows": gathered[:, 0].tolist(),
        "needs_gradient": gathered.requires_grad,
        "mean": all_reduce_mean(here.detach() * 4).unique().tolist(),
        "kept": here[0, 0].item(),
        "any": [any_rank(rank() == 1), any_rank(False), any_rank(True)],
    }


def checkpointed(path: Path) -> dict[str, Any]:
    """Return draws of this rank after a checkpoint, and after loading it."""
    model, optimizer = small()
    torch.manual_seed(rank())
    save_checkpoint(path, TrainState(step=2), {}, model, optimizer)
    dist.barrier()
    drawn = torch.rand(3).tolist()
    torch.manual_seed(99)
    step = load_checkpoint(path, {}, model, optimizer).step
    return {"step": step, "drawn": drawn, "drawn_again": torch.rand(3).tolist()}


def refused(path: Path) -> str:
    """Return why the checkpoint of one process is refused by several."""
    try:
        load_checkpoint(path, {}, *small())
    except ConfigError as error:
        return str(error.why)
    return "it was not"


def main(out: Path) -> None:
    """Write what this rank sees to the file RANK.json of the folder `out`."""
    with joined(os.environ, "cpu") as ranks:
        model = nn.parallel.DistributedDataParallel(network().double())
        views = of_rank(images()[0]), of_rank(images()[1])
        seen: dict[str, Any] = {"place": [ranks.rank, ranks.world_size, str(ranks.device)]}
        seen["gradients"] = {name: gradients(model, loss, views) for name, loss in LOSSES.items()}
        seen["exchanged"] = exchanged()
        seen["checkpointed"] = checkpointed(out / "checkpoint")
        seen["refused"] = refused(out / "alone")
        with joined(os.environ, "cpu") as again:
            seen["again"] = [again.rank, again.world_size]
        seen["outlives"] = dist.is_initialized()
    seen["left"] = not dist.is_initialized()
    (out / f"{ranks.rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
