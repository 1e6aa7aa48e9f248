"""Small methods, random views and plans of one pair, for the tests of methods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from viewstore.train.methods.base import Emb, Frame, Method, MethodSettings
from viewstore.train.nets.network import NetworkSettings, seeded_network
from viewstore.train.plan import Pair, Plan, Row, Scores
from viewstore.train.views import At, Preprocessing, Views

PREPARE = Preprocessing(in_channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)


def make_method(
    settings: MethodSettings, *, seed: int = 0, batch_size: int = 0, dimension: int = 16
) -> Method:
    network = NetworkSettings(backbone="conv3", projector=(32, dimension))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        frame = Frame(prepare=PREPARE, num_rows=1000, batch_size=batch_size)
        return settings.make(seeded_network(network, seed), frame).train()


def make_at(step: int = 0, total_steps: int = 10) -> At:
    return At(epoch=0, step=step, epoch_steps=5, total_steps=total_steps, seed=3)


def make_views(
    roles: Sequence[str] = ("expert", "expert"), *, samples: int = 6, seed: int = 0, step: int = 0
) -> Views:
    draws = torch.Generator().manual_seed(1000 * step + seed)
    return Views(
        pixels=tuple(
            torch.randint(0, 256, (samples, 3, 16, 16), generator=draws, dtype=torch.uint8)
            for _ in roles
        ),
        role=tuple(roles),
        parent=(-1,) * len(roles),
        params=({},) * len(roles),
        sample=torch.arange(samples) + 100,
        at=make_at(step),
        base=tuple(range(len(roles))),
    )


def standard_plan(method: Method, views: Views) -> Plan:
    return method.standard(views, [Row(view) for view in views.base])


def score_of(
    method: Method, student: Emb, target: Emb, pair: Pair | None = None, *rows: Row
) -> Scores:
    """The scores of a pair, by default of the first rows, of embeddings made up by a test."""
    count = len(next(iter(student.values())))
    views = make_views(samples=next(iter(student.values())).shape[1])
    students = (*rows, *(Row(0) for _ in range(count - len(rows))))
    targets = tuple(Row(1) for _ in range(len(next(iter(target.values())))))
    pair = pair or Pair(0, 0)
    plan = Plan(views, students, targets, (pair,), count, len(targets))
    return method.score(student, target, pair, plan)


def random_rows(count: int, samples: int = 7, dimension: int = 5, seed: int = 3) -> Tensor:
    """Embeddings that are no unit vectors, float64 [count, samples, dimension]."""
    draws = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(count, samples, dimension, generator=draws, dtype=torch.float64)


@contextmanager
def counted(module: nn.Module) -> Iterator[list[int]]:
    """Give the number of images of each forward of a module within the block."""
    sizes: list[int] = []
    hook = module.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
    try:
        yield sizes
    finally:
        hook.remove()


def snapshot(method: Method) -> list[Any]:
    """State, gradients and the state of torch's generator, to compare bit by bit."""
    state = [(name, value.clone()) for name, value in method.state_dict().items()]
    state += [(n, p.grad.clone()) for n, p in method.named_parameters() if p.grad is not None]
    return [*state, ("random", torch.get_rng_state())]


def changed(before: list[Any], after: list[Any]) -> list[str]:
    assert [name for name, _ in before] == [name for name, _ in after]
    return [
        name for (name, old), (_, new) in zip(before, after, strict=True) if not torch.equal(old, new)
    ]


def train_step(method: Method, views: Views, *, lr: float = 0.05) -> float:
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr)
    embedded = method(standard_plan(method, views))
    optimizer.zero_grad()
    embedded.loss.backward()
    optimizer.step()
    method.commit([embedded], views.at)
    return embedded.loss.item()
