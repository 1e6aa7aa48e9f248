"""Barlow Twins: the cross-correlation of two views' embeddings is drawn to the identity.

Source: arXiv:2103.03230, equations 1 and 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.train.distributed import all_reduce_mean, world_size
from viewstore.train.methods.base import Frame, Method, MethodSettings
from viewstore.train.methods.embeddings import Emb
from viewstore.train.methods.traits import Net, Traits
from viewstore.train.nets.network import Network
from viewstore.train.plan import Pair, Plan, Row, Scores, total
from viewstore.train.views import Views

EPSILON = 1e-5  # of batch norms, which the paper standardises with


@dataclass(frozen=True, kw_only=True)
class BarlowTwinsSettings(MethodSettings):
    """Settings of Barlow Twins.

    Attributes:
        redundancy_weight: Weight of the squared correlations off the diagonal: the paper's lambda.
    """

    TRAITS: ClassVar[Traits] = Traits(
        name="barlow-twins",
        samplewise=False,
        target="none",
        decomposable=False,
        forward="per_view",
    )
    HEAD: ClassVar[Mapping[str, Any]] = {
        "projector": (2048, 2048, 2048),
        "projector_last": "none",
    }

    redundancy_weight: float = 0.0051

    def __post_init__(self) -> None:
        if not 0 <= self.redundancy_weight < float("inf"):
            raise ConfigError(f"redundancy_weight must be at least 0, got {self.redundancy_weight}")

    def make(self, network: Network, frame: Frame) -> BarlowTwins:
        """Return Barlow Twins training `network`."""
        return BarlowTwins(network, self, frame)


class BarlowTwins(Method):
    """Barlow Twins: the embeddings are the projector's outputs, "z"."""

    def __init__(self, network: Network, settings: BarlowTwinsSettings, frame: Frame) -> None:
        super().__init__(network, settings.TRAITS, frame)
        self.settings = settings

    def standard(self, views: Views, rows: Sequence[Row]) -> Plan:
        """Return every pair in one order, as the loss is the same in both; weights sum to 1."""
        pairs = [(s, t) for t in range(len(rows)) for s in range(t)]
        return self.plan_of(views, rows, rows, [Pair(s, t, 1 / len(pairs)) for s, t in pairs])

    def head(self, features: Tensor, net: Net) -> Emb:
        """Return "z" [M, D]."""
        return {"z": self.network(net).projector(features)}

    def score(self, student: Emb, target: Emb, pair: Pair, plan: Plan) -> Scores:
        """Return the influence of each sample on the loss of a pair, without gradient.

        That of sample n is its first-order share of the loss: the derivative by the weight that
        the sample has in the cross-correlation. Cosine and distance are those of "z".
        """
        unit = self.unit_pair(student, target, pair)
        with torch.no_grad():
            twins = self._twins(student, target, pair)
            on, off = _parts(twins)
            slope = torch.diag(on - 1) + self.settings.redundancy_weight * off
            samples = world_size() * len(twins[0])
            influence = 2 / samples * ((twins[0] @ slope) * twins[1]).sum(1)
        return Scores(
            cosine=unit.cosine,
            pull=influence,
            push=torch.zeros_like(influence),
            squared_distance=unit.squared_distance,
            scale=0.0,
            inverse_tau=1.0,
        )

    def reduce(self, student: Emb, target: Emb, plan: Plan) -> Tensor:
        """Return the loss of a plan, a scalar.

        A pair with the term `total` has the loss of the paper, of the batch of all ranks, at the
        mean of its weights; other terms are averaged over samples.
        """
        losses = []
        for pair in plan.pairs:
            if pair.term is total:
                on, off = _parts(self._twins(student, target, pair))
                redundancy = self.settings.redundancy_weight * off.square().sum()
                weight = pair.weight
                if isinstance(weight, Tensor):  # of samples, which have no share of their own
                    weight = all_reduce_mean(weight.mean())
                losses.append(weight * ((on - 1).square().sum() + redundancy))
        if others := tuple(pair for pair in plan.pairs if pair.term is not total):
            losses.append(super().reduce(student, target, replace(plan, pairs=others)))
        return torch.stack(losses).sum()

    def _twins(self, student: Emb, target: Emb, pair: Pair) -> tuple[Tensor, Tensor]:
        """Return the embeddings of a pair with mean 0 and variance 1 over the batch, [B, D]."""
        assert pair.target is not None
        other = target["z"][pair.target]
        return _standard(student["z"][pair.student]), _standard(
            other.detach() if pair.detach else other
        )


def _standard(z: Tensor) -> Tensor:
    """Return embeddings with mean 0 and variance 1 over the batch, that of all ranks."""
    centred = z - all_reduce_mean(z.mean(0))
    variance = all_reduce_mean(centred.square().mean(0))
    return centred / (variance + EPSILON).sqrt()


def _parts(twins: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the diagonal [D] of the cross-correlation [D, D], and the matrix without it."""
    correlation = all_reduce_mean(twins[0].T @ twins[1] / len(twins[0]))
    on = correlation.diagonal()
    return on, correlation - torch.diag(on)
