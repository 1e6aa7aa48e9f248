"""Scores of pairs of embeddings that a test makes up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from tests.train.world import make_views
from viewstore.train.methods.base import Frame, Method, MethodSettings
from viewstore.train.methods.embeddings import Emb
from viewstore.train.nets.network import NetworkSettings
from viewstore.train.plan import Pair, Plan, Row, Scores
from viewstore.train.views import Views


def standard_plan(method: Method, views: Views) -> Plan:
    """Return the method's own plan of all views."""
    return method.standard(views, [Row(view) for view in views.base])


def score_of(method: Method, student: Emb, target: Emb, pair: Pair, *rows: Row) -> Scores:
    """Return the scores of a pair of these embeddings, [rows, B, D]; `rows` are the first ones."""
    students, samples = next(iter(student.values())).shape[:2]
    targets = len(next(iter(target.values())))
    plan = Plan(
        make_views(("expert", "expert"), samples=samples),
        (*rows, *(Row(0) for _ in range(students - len(rows)))),
        tuple(Row(1) for _ in range(targets)),
        (pair,),
        students,
        targets,
    )
    return method.score(dict(student), dict(target), pair, plan)


def random_rows(count: int, samples: int = 7, dimension: int = 5, seed: int = 3) -> Tensor:
    """Return embeddings that are no unit vectors, float64 [count, samples, dimension]."""
    draws = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(count, samples, dimension, generator=draws, dtype=torch.float64)


class PlainNetwork(nn.Module):
    """Stands for a Network: one linear layer of flattened images, without batch norms."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.settings = NetworkSettings(projector=(outputs,))
        self.backbone = nn.Flatten()
        self.projector = nn.Linear(inputs, outputs)


def plain_method(
    settings: MethodSettings,
    network: PlainNetwork,
    prepare: Callable[[Tensor], Tensor] = lambda pixels: pixels,
) -> Method:
    """Return a method on such a network, of inputs that `prepare` makes of pixels."""
    return settings.make(cast(Any, network), Frame(prepare=cast(Any, prepare))).train()


@contextmanager
def counted(module: nn.Module) -> Iterator[list[int]]:
    """Give the number of images of each forward of a module within the block."""
    sizes: list[int] = []
    hook = module.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
    try:
        yield sizes
    finally:
        hook.remove()
