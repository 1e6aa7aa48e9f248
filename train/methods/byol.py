"""BYOL: a prediction of each view meets what a slower copy of the network makes of the other.

Source: arXiv:2006.07733.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.train.methods.alignment import aligned
from viewstore.train.methods.base import Frame, MethodSettings
from viewstore.train.methods.ema import Averaged, check_momentum, rising
from viewstore.train.methods.embeddings import Emb
from viewstore.train.methods.traits import Net, Traits
from viewstore.train.nets.heads import predictor
from viewstore.train.nets.network import Network
from viewstore.train.plan import Pair, Plan, Row, Scores
from viewstore.train.views import At, Views


@dataclass(frozen=True, kw_only=True)
class BYOLSettings(MethodSettings):
    """Settings of BYOL.

    Attributes:
        scale: "sum" is the paper's: 2 - 2 cos of both directions, added. "half" is the mean of
            -cos of both, as in SimSiam: a quarter of the gradient.
        predictor_hidden: Width of the predictor's hidden layer.
        momentum: Share of itself that the slower copy keeps in a step.
        momentum_schedule: "cosine" lets it rise to 1 over the run, "constant" leaves it.
    """

    TRAITS: ClassVar[Traits] = Traits(
        name="byol", target="ema", decomposable=True, forward="per_view"
    )
    HEAD: ClassVar[Mapping[str, Any]] = {"projector": (4096, 256), "projector_last": "none"}

    scale: Literal["sum", "half"] = "sum"
    predictor_hidden: int = 4096
    momentum: float = 0.996
    momentum_schedule: Literal["cosine", "constant"] = "cosine"

    def __post_init__(self) -> None:
        if self.scale not in ("sum", "half"):
            raise ConfigError(f"scale must be sum or half, got {self.scale!r}")
        if self.predictor_hidden < 1:
            raise ConfigError(f"predictor_hidden must be at least 1, got {self.predictor_hidden}")
        check_momentum(self.momentum)
        if self.momentum_schedule not in ("cosine", "constant"):
            raise ConfigError(
                f"momentum_schedule must be cosine or constant, got {self.momentum_schedule!r}"
            )

    @property
    def traits(self) -> Traits:
        """What strategies may ask about the method with these settings."""
        return replace(self.TRAITS, scale=2.0 if self.scale == "sum" else 1.0)

    def make(self, network: Network, frame: Frame) -> BYOL:
        """Return BYOL training `network`."""
        return BYOL(network, self, frame)


class BYOL(Averaged):
    """BYOL: "z" is the projector's output and, of the student alone, "p" the prediction."""

    def __init__(self, network: Network, settings: BYOLSettings, frame: Frame) -> None:
        super().__init__(network, settings.traits, frame)
        self.settings = settings
        width = network.settings.projector[-1]
        self.predictor = predictor(width, settings.predictor_hidden, width)

    def standard(self, views: Views, rows: Sequence[Row]) -> Plan:
        """Return every ordered pair at one weight; the weights sum to 2 (sum) or 1 (half)."""
        plan = super().standard(views, rows)
        if self.settings.scale == "half":
            return plan
        return replace(
            plan, pairs=tuple(replace(pair, weight=2 * pair.weight) for pair in plan.pairs)
        )

    def head(self, features: Tensor, net: Net) -> Emb:
        """Return "z" and, of the student, "p", [M, D]."""
        z = self.network(net).projector(features)
        return {"z": z} if net == "target" else {"z": z, "p": self.predictor(z)}

    def score(self, student: Emb, target: Emb, pair: Pair, plan: Plan) -> Scores:
        """Return the loss of a pair, of the student's prediction and the target's projection."""
        unit = self.unit_pair(student, target, pair, ("p", "z"))
        return aligned(unit, squared=self.settings.scale == "sum")

    def momentum(self, at: At) -> float:
        """Return the share of itself that the teacher keeps in the update of a step."""
        if self.settings.momentum_schedule == "constant":
            return self.settings.momentum
        return rising(self.settings.momentum, at)
