"""SimCLR: in-batch contrast of views. Source: arXiv:2002.05709; InfoNCE arXiv:1807.03748."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.train.distributed import all_gather_with_gradient, rank, world_size
from viewstore.train.methods.base import Frame, Method, MethodSettings
from viewstore.train.methods.embeddings import Emb, UnitPair, unit_rows
from viewstore.train.methods.traits import Net, Traits
from viewstore.train.nets.network import Network
from viewstore.train.plan import Pair, Plan, Scores

Negatives = Literal["both", "other"]


@dataclass(frozen=True, kw_only=True)
class SimCLRSettings(MethodSettings):
    """Settings of SimCLR.

    Attributes:
        temperature: Divisor of cosines: 0.5 for CIFAR and short runs, 0.1 for ImageNet.
        negatives: "both" views of the other samples (NT-Xent), or the "other" view's only
            (InfoNCE).
        loss_scale: Factor of every score; 7.142857 is what SupContrast's default amounts to at
            temperature 0.5.
        forward: "per_size" embeds all views of a size together, "per_view" each alone.
        gather: Where several processes train, negatives are of all of them ("global"), with the
            gradient of one process, or of each alone ("local").
    """

    TRAITS: ClassVar[Traits] = Traits(
        name="simclr", target="none", negatives="batch", decomposable=True, forward="per_size"
    )
    HEAD: ClassVar[Mapping[str, Any]] = {"projector": (2048, 128)}

    temperature: float = 0.5
    negatives: Negatives = "both"
    loss_scale: float = 1.0
    forward: Literal["per_size", "per_view"] = "per_size"
    gather: Literal["global", "local"] = "global"

    def __post_init__(self) -> None:
        for name in ("temperature", "loss_scale"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.negatives not in ("both", "other"):
            raise ConfigError(f"negatives must be both or other, got {self.negatives!r}")
        if self.forward not in ("per_size", "per_view"):
            raise ConfigError(f"forward must be per_size or per_view, got {self.forward!r}")
        if self.gather not in ("global", "local"):
            raise ConfigError(f"gather must be global or local, got {self.gather!r}")

    @property
    def traits(self) -> Traits:
        """What strategies may ask about the method with these settings."""
        tau = self.temperature
        scale = self.loss_scale / tau
        return replace(self.TRAITS, forward=self.forward, scale=scale, inverse_tau=1 / tau)

    def make(self, network: Network, frame: Frame) -> SimCLR:
        """Return SimCLR training `network`."""
        return SimCLR(network, self, frame)


class SimCLR(Method):
    """SimCLR: the embeddings are the projector's outputs, "z"."""

    def __init__(self, network: Network, settings: SimCLRSettings, frame: Frame) -> None:
        super().__init__(network, settings.traits, frame)
        self.settings = settings

    def head(self, features: Tensor, net: Net) -> Emb:
        """Return "z" [M, D]."""
        return {"z": self.network(net).projector(features)}

    def score(self, student: Emb, target: Emb, pair: Pair, plan: Plan) -> Scores:
        """Return the parts of the InfoNCE loss of a pair, times `loss_scale`.

        The denominator runs over the two rows of the pair, or over the target's alone with
        `negatives` other; `pair.pool` names other rows. The anchor itself is left out. A row made
        within the step (adversarial, CutMix) is an anchor among clean rows: the one that it was
        made from stands for it there, without its own sample and the one that is mixed in.
        """
        unit = self.unit_pair(student, target, pair)
        rows, own = self._pool(student, unit, pair, plan)
        scale, tau = self.settings.loss_scale, self.settings.temperature
        similarity = unit.student @ torch.cat(rows).T / tau
        for left_out in own:
            samples = torch.arange(len(left_out), device=left_out.device)
            similarity = similarity.index_put(
                (samples, left_out), similarity.new_tensor(-torch.inf)
            )
        cosine = unit.cosine
        return Scores(
            cosine=cosine,
            pull=scale * (-cosine / tau),
            push=scale * similarity.logsumexp(1),
            squared_distance=unit.squared_distance,
            scale=scale / tau,
            inverse_tau=1 / tau,
        )

    def _pool(
        self, student: Emb, unit: UnitPair, pair: Pair, plan: Plan
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the rows of the denominator, [N, D] each, and what each anchor leaves out.

        Of that, int64 [B] each: a column of all the rows, one after the other.
        """
        anchor = plan.students[pair.student]
        clean = pair.student if anchor.made_from is None else anchor.made_from
        places: tuple[int, ...] = (clean,) if self.settings.negatives == "both" else ()
        rows = [] if pair.pool is not None else [unit.target_row]
        if pair.pool is not None:
            places = pair.pool
        units = unit_rows(student, "z", "student")
        others = [unit.student if each == pair.student else units[each] for each in places]
        rows = others + rows
        samples = torch.arange(len(unit.student), device=unit.student.device)
        columns, own = len(samples), 0
        if self.settings.gather == "global":
            rows = [all_gather_with_gradient(row) for row in rows]
            columns, own = world_size() * len(samples), rank() * len(samples)
        left_out = []
        for number, place in enumerate(places):
            first = number * columns + own
            if place in (clean, pair.student):
                left_out.append(first + samples)
            if place == clean and anchor.mixed_with is not None:
                left_out.append(first + anchor.mixed_with)
        return rows, left_out
