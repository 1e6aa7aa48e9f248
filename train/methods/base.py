"""The contract of a method: it embeds views and scores pairs of them; it knows no strategy.

A new method is one file, with settings and a subclass of Method, and one row in `methods.py`.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from viewstore.errors import ConfigError
from viewstore.train.nets.network import Network, quiet_statistics
from viewstore.train.views import ViewBatch

Emb = dict[str, Tensor]  # "z", and what else a method makes: float32 [V', B, ...]
Pool = Literal["pair", "all"]


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What strategies may ask about a method.

    Attributes:
        name: The method's name.
        samplewise: Whether scores are per sample; if not, only a scalar loss exists.
        target: Where the target side comes from; "none" means that both sides are the student's
            and gradients flow both ways.
        negatives: Where negatives come from, if there are any.
        decomposable: Whether scores come as PairTerms.
        forward: "per_size" embeds all views of one size together, with shared batch statistics;
            "per_view" embeds each view by itself.
    """

    name: str
    samplewise: bool
    target: Literal["none", "ema", "stopgrad", "prototype"]
    negatives: Literal["batch", "queue", "none"]
    decomposable: bool
    forward: Literal["per_view", "per_size"]


class PairTerms(NamedTuple):
    """Scores of pairs in parts, float32 [P, B] each: the loss is `pos` + `rest`; `sim`: cosine."""

    sim: Tensor
    pos: Tensor
    rest: Tensor


@dataclass(frozen=True)
class StepInfo:
    """The position of a training: `epoch` and `step` from 0, `step` over all epochs."""

    epoch: int
    step: int
    total_steps: int


class Method(nn.Module):
    """A network that embeds views, and a rule that scores pairs of embeddings.

    `encode` and `score` leave parameters, gradients, random generators and every buffer as they
    are; only training forwards (`grad=True`) update running statistics. `commit` alone changes
    the rest of the state.
    """

    traits: Traits

    def __init__(self, network: Network, *, amp: bool = False) -> None:
        """Train `network`; `amp` computes the forward pass in bfloat16 where autocast allows it."""
        super().__init__()
        self.network = network
        self.amp = amp
        self._committed = -1

    def encode(
        self,
        vb: ViewBatch,
        rows: Tensor,
        *,
        net: Literal["student", "target"] = "student",
        bn: str = "clean",
        grad: bool = True,
    ) -> Emb:
        """Return the embeddings, float32 [V', B, ...], of the views `rows`, int64 [V'] or [V', B].

        `net`: the student, or the target that methods with one embed targets with; `grad`: whether
        gradients are recorded and running statistics updated.

        Raises:
            ConfigError: `bn` is not "clean", or views of one row differ in size.
        """
        if bn != "clean":
            raise ConfigError(f"batch norm domain must be 'clean', got {bn!r}")
        trained = nullcontext() if grad else torch.no_grad()
        quiet = nullcontext() if grad else quiet_statistics(self)
        with trained, quiet, torch.autocast(vb.index.device.type, torch.bfloat16, self.amp):
            out = self._embed(list(vb.select(rows)), net)
        shape = (len(rows), len(vb))
        return {
            name: value.float().reshape(*shape, *value.shape[1:]) for name, value in out.items()
        }

    def _embed(self, views: list[tuple[int, Tensor]], net: str) -> Emb:
        """Return the embeddings [V' * B, ...] of views, (size, images) each."""
        if self.traits.forward == "per_view":
            outs = [self.heads(self.trunk(images, net), net) for _, images in views]
            return {name: torch.cat([out[name] for out in outs]) for name in outs[0]}
        features: dict[int, Tensor] = {}
        for size in dict.fromkeys(size for size, _ in views):
            positions = [index for index, (other, _) in enumerate(views) if other == size]
            together = self.trunk(torch.cat([views[index][1] for index in positions]), net)
            features |= dict(zip(positions, together.chunk(len(positions)), strict=True))
        return self.heads(torch.cat([features[index] for index in range(len(views))]), net)

    def trunk(self, x: Tensor, net: str) -> Tensor:
        """Return the backbone's features [M, F] of images, float32 [M, C, r, r]."""
        out: Tensor = self.network.backbone(x)
        return out

    @abstractmethod
    def heads(self, features: Tensor, net: str) -> Emb:
        """Return the embeddings [M, ...] of features [M, F], by name."""

    @abstractmethod
    def score(
        self, student: Emb, target: Emb, pairs: Tensor, *, pool: Pool = "pair"
    ) -> PairTerms | Tensor:
        """Return the loss of each pair and sample, [P, B]: PairTerms if `traits.decomposable`.

        `student` and `target` come from `encode` and are the same where `traits.target` is
        "none"; `pairs` [P, 2] are positions in (student, target); `pool` says which rows are in
        the denominators: the two views of the pair, or all views.
        """

    def commit(self, student: Emb, target: Emb, info: StepInfo) -> None:
        """Update what the method keeps between steps: once, after the optimizer's step.

        Raises:
            RuntimeError: The step was committed already.
        """
        if info.step == self._committed:
            raise RuntimeError(f"step {info.step} was committed already")
        self._committed = info.step
        self.update(student, target, info)

    def update(self, student: Emb, target: Emb, info: StepInfo) -> None:
        """Update queues, centres and averages; for subclasses, called by `commit`."""


class MethodSettings(Protocol):
    """A frozen dataclass of one method's settings; a row of the table in `methods.py`."""

    TRAITS: ClassVar[Traits]

    def make(self, network: Network, *, amp: bool) -> Method:
        """Return the method that trains `network`."""
