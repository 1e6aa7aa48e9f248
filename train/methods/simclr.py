"""SimCLR: in-batch contrast of two views. Source: arXiv:2002.05709; InfoNCE arXiv:1807.03748."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.train.losses import Contrast, Negatives, contrast, pair_contrast
from viewstore.train.methods.base import Emb, Method, PairTerms, Pool, Traits
from viewstore.train.nets.network import Network


@dataclass(frozen=True, kw_only=True)
class SimCLRSettings:
    """Settings of SimCLR.

    Attributes:
        temperature: Divisor of cosines: 0.5 for CIFAR and short runs, 0.1 for ImageNet.
        negatives: "both" views of the other samples (NT-Xent), or the "other" view's only
            (InfoNCE).
        loss_scale: Factor of every score; 7.142857 is what SupContrast's default amounts to at
            temperature 0.5.
    """

    TRAITS: ClassVar[Traits] = Traits(
        name="simclr",
        samplewise=True,
        target="none",
        negatives="batch",
        decomposable=True,
        forward="per_size",
    )

    temperature: float = 0.5
    negatives: Negatives = "both"
    loss_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("temperature", "loss_scale"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.negatives not in ("both", "other"):
            raise ConfigError(f"negatives must be both or other, got {self.negatives!r}")

    def make(self, network: Network, *, amp: bool) -> SimCLR:
        """Return the method that trains `network`."""
        return SimCLR(network, self, amp=amp)


class SimCLR(Method):
    """The method SimCLR; its negatives are the batch of this process."""

    traits = SimCLRSettings.TRAITS

    def __init__(self, network: Network, settings: SimCLRSettings, *, amp: bool = False) -> None:
        super().__init__(network, amp=amp)
        self.settings = settings

    def heads(self, features: Tensor, net: str) -> Emb:
        """Return the projector's output [M, D] as "z", not normalised."""
        return {"z": self.network.projector(features)}

    def score(self, student: Emb, target: Emb, pairs: Tensor, *, pool: Pool = "pair") -> PairTerms:
        """Return the parts of the InfoNCE loss of each pair, times `loss_scale`.

        `pool="all"` takes every view of every sample but the anchor into the denominator.
        """
        with torch.autocast(student["z"].device.type, enabled=False):
            u, v = F.normalize(student["z"], dim=2), F.normalize(target["z"], dim=2)
            parts = [self._contrast(u, v, s, t, pool) for s, t in pairs.tolist()]
        scale = self.settings.loss_scale
        cosine, pull, push = (torch.stack(part) for part in zip(*parts, strict=True))
        return PairTerms(cosine, scale * pull, scale * push)

    def _contrast(self, u: Tensor, v: Tensor, s: int, t: int, pool: Pool) -> Contrast:
        temperature = self.settings.temperature
        if pool == "all":
            own = s * u.shape[1]
            return contrast(u[s], v[t], v.flatten(0, 1), own=own, temperature=temperature)
        return pair_contrast(u[s], v[t], negatives=self.settings.negatives, temperature=temperature)
